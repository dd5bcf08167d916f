"""Which rows of a dataset are samples, found by reading its narrow columns only."""

import hashlib
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sar3d.data.formats.views import split_of
from sar3d.data.held_out import HeldOut
from sar3d.data.loading.order import Integers
from sar3d.data.loading.row_groups import ParquetFiles
from sar3d.data.loading.view_tensors import ENCODER_VIEWS
from sar3d.data.loading.withheld import Withheld
from sar3d.errors import NothingSelectedError, UserError

SplitName = Literal["train", "val", "test", "held_out", "all"]
"""Objects held out by their attributes are in `held_out` and `all` only; a hash of its content puts each other object
into one of the first three."""
_READERS = 8


@dataclass(frozen=True)
class Selection:
    """Which objects, and which of their views are kept for judging."""

    split: SplitName = "train"
    """Part of the objects, by the hash of their files' content."""
    val: float = 0.02
    """Share of the objects that validate."""
    test: float = 0.02
    """Share of the objects that test."""
    uids: tuple[str, ...] | None = None
    """Limits the objects further."""
    held_out: HeldOut = HeldOut()
    """Views that never supervise and view groups that are no samples."""
    withheld: Withheld | None = None
    """Objects held out by their attributes; none without an objects dataset."""

    @property
    def withholds(self) -> bool:
        """Whether views are kept for judging that may differ from object to object."""
        return bool(self.held_out.views or self.held_out.groups)


@dataclass(frozen=True)
class RowIndex:
    """Samples in the order of the files; arrays, so that tens of millions of rows fit."""

    blocks: Integers
    """(G, 2) file and row group of each row group that holds samples."""
    sizes: Integers
    """(G,) samples in each."""
    rows: NDArray[np.int32]
    """(N,) row of each sample in its row group."""
    spans: NDArray[np.int32]
    """(N, 2) rows of the sample's object, counted through its file: first, and the one after the last."""
    group_starts: dict[int, Integers]
    """Row, counted through the file, at which each row group begins, and the file's end; by file."""
    held_out: dict[tuple[int, int], frozenset[int]]
    """View ids that never supervise by (file, first row of the object); empty unless `Selection.withholds`."""
    views_per_row: int
    """0 where there are no views."""
    objects: int
    weight: int
    """Bytes of the row groups that hold samples, all columns."""


@dataclass(frozen=True)
class _Rows:
    """The narrow columns of one file."""

    uids: list[str]
    hashes: list[str]
    view_ids: list[list[int]] | None
    groups: NDArray[np.int64] | None
    """Number of each row's view group; like `view_ids`, read only where views are held out."""
    starts: Integers
    """Row at which each row group begins, and the end."""
    weights: Integers
    """Compressed bytes of each row group."""
    views: int
    """Views of a row; 0 where there is no such column."""


def build_index(files: ParquetFiles, wanted: Selection, name: str) -> RowIndex:
    """The samples of `files`, the dataset called `name`, that `wanted` selects: one per row.

    An object's rows must follow each other in one file, as every stage writes them.

    Raises:
        UserError: nothing is selected, a wanted uid is not there, or a held-out view is an encoder view.
    """
    uids = None if wanted.uids is None else set(wanted.uids)
    need_views = bool(wanted.held_out)
    parts: list[_Part] = []
    with ThreadPoolExecutor(_READERS) as pool:
        read = pool.map(lambda file: _read(files, file, need_views), range(len(files.files)))
        for file, rows in enumerate(read):
            parts.append(_select(file, rows, wanted, uids))
    found = set().union(*(part.uids for part in parts)) if uids is not None else set()
    if uids is not None and uids - found and wanted.split == "all":
        raise UserError(
            f"{len(uids - found)} of the wanted objects are not in the {name} dataset, such as {min(uids - found)}"
        )
    return _joined(files, parts, wanted, name)


@dataclass(frozen=True)
class _Part:
    """What one file contributes."""

    file: int
    blocks: list[int]
    sizes: list[int]
    rows: NDArray[np.int32]
    spans: NDArray[np.int32]
    starts: Integers
    held_out: dict[tuple[int, int], frozenset[int]]
    uids: set[str]
    objects: int
    weight: int
    views: int


def _read(files: ParquetFiles, file: int, need_views: bool) -> _Rows:
    columns = ["uid", "sha256", *(["view_ids", "group"] if need_views else [])]
    groups = range(files.footer(file).num_row_groups)
    tables = [files.read((file, group), columns) for group in groups]
    starts = np.concatenate([[0], np.cumsum([len(table) for table in tables])]).astype(np.int64)
    table = pa.concat_tables(tables) if tables else files.schema(file).empty_table()
    columns_of = [_columns(files.footer(file).row_group(group)) for group in groups]
    views = [c.num_values for found in columns_of for c in found if c.path_in_schema.startswith("view_ids")]
    return _Rows(
        uids=table.column("uid").to_pylist(),
        hashes=table.column("sha256").to_pylist(),
        view_ids=table.column("view_ids").to_pylist() if need_views else None,
        groups=table.column("group").to_numpy() if need_views else None,
        starts=starts,
        weights=np.array([sum(c.total_compressed_size for c in found) for found in columns_of], np.int64),
        views=sum(views) // max(1, len(table)),
    )


def _select(file: int, rows: _Rows, wanted: Selection, uids: Collection[str] | None) -> _Part:
    chosen: list[tuple[int, int]] = []
    held: dict[tuple[int, int], frozenset[int]] = {}
    names: set[str] = set()
    runs = list(_objects(rows.uids))
    apart = _withheld([rows.uids[first] for first, _ in runs], wanted)
    for (first, stop), held_back in zip(runs, apart, strict=True):
        uid, content = rows.uids[first], rows.hashes[first]
        if uids is not None and uid not in uids:
            continue
        split = "held_out" if held_back else split_of(content, wanted.val, wanted.test)
        if wanted.split not in ("all", split):
            continue
        if rows.view_ids is not None and rows.groups is not None:
            unseen = _held_out(uid, content, rows.view_ids[first:stop], rows.groups[first:stop].tolist(), wanted)
            if wanted.withholds:
                held[file, first] = unseen
        chosen.append((first, stop))
        if uids is not None:
            names.add(uid)
    spans, places = _places(rows, chosen, wanted)
    groups = np.searchsorted(rows.starts, places, "right") - 1
    blocks, sizes = np.unique(groups, return_counts=True)
    return _Part(
        file=file,
        blocks=blocks.tolist(),
        sizes=sizes.tolist(),
        rows=(places - rows.starts[groups]).astype(np.int32),
        spans=spans,
        starts=rows.starts,
        held_out=held,
        uids=names,
        objects=len(chosen),
        weight=int(rows.weights[blocks].sum()),
        views=rows.views,
    )


def _places(
    rows: _Rows, chosen: list[tuple[int, int]], wanted: Selection
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Of every row of the chosen objects that is not held out: first and last + 1 row of its object (N, 2), and its place."""
    bounds = np.array(chosen, np.int32).reshape(-1, 2)
    lengths = bounds[:, 1] - bounds[:, 0]
    spans = np.repeat(bounds, lengths, axis=0)
    places = spans[:, 0] + np.arange(len(spans)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    if rows.groups is None or not wanted.held_out.groups:
        return spans, places
    kept = ~np.isin(rows.groups[places], wanted.held_out.groups)
    return spans[kept], places[kept]


def _withheld(uids: list[str], wanted: Selection) -> NDArray[np.bool_]:
    """(N,) whether each object is held out by its attributes."""
    return np.zeros(len(uids), bool) if wanted.withheld is None else wanted.withheld.contains(uids)


def _objects(uids: list[str]) -> Iterator[tuple[int, int]]:
    """Runs of equal uids."""
    first = 0
    for i in range(1, len(uids) + 1):
        if i == len(uids) or uids[i] != uids[first]:
            yield first, i
            first = i


def _held_out(uid: str, content: str, views: list[list[int]], numbers: list[int], wanted: Selection) -> frozenset[int]:
    """The views of one object that never supervise, given those of its view groups and the groups' numbers."""
    groups = [found for found, number in zip(views, numbers, strict=True) if number not in wanted.held_out.groups]
    if not groups:
        raise UserError(
            f"held_out.groups={list(wanted.held_out.groups)} leaves nothing of object {uid}: it has the view groups "
            f"{sorted(numbers)}, hold out fewer"
        )
    only = {view for found in views for view in found} - {view for group in groups for view in group}
    encoded = {view for group in groups for view in group[:ENCODER_VIEWS]}
    clash = encoded & set(wanted.held_out.view_ids)
    if clash:
        raise UserError(
            f"view {min(clash)} is held out, but object {uid} encodes it: hold out views that lie in no first half of "
            f"a group, or give held_out.views=1 or more to let each object choose"
        )
    others = sorted({view for group in groups for view in group} - encoded - set(wanted.held_out.view_ids))
    if len(others) < wanted.held_out.views:
        raise UserError(
            f"held_out.views={wanted.held_out.views} is too many: object {uid} has only {len(others)} views that it never encodes"
        )
    ranked = sorted(others, key=lambda view: hashlib.sha256(f"held out {content} {view}".encode()).digest())
    return frozenset(ranked[: wanted.held_out.views]) | frozenset(wanted.held_out.view_ids) | only


def _joined(files: ParquetFiles, parts: list[_Part], wanted: Selection, name: str) -> RowIndex:
    blocks = [(part.file, block) for part in parts for block in part.blocks]
    if not blocks:
        which = "no rows" if wanted.split == "all" else f"no object of the split {wanted.split!r}"
        raise NothingSelectedError(
            f"the {len(files.files)} files of the {name} dataset hold {which}: render more objects, or change the "
            "shares of the splits"
        )
    return RowIndex(
        blocks=np.array(blocks, np.int64),
        sizes=np.concatenate([part.sizes for part in parts]).astype(np.int64),
        rows=np.concatenate([part.rows for part in parts]),
        spans=np.concatenate([part.spans for part in parts]),
        group_starts={part.file: part.starts for part in parts},
        held_out={key: views for part in parts for key, views in part.held_out.items()},
        views_per_row=max(part.views for part in parts),
        objects=sum(part.objects for part in parts),
        weight=sum(part.weight for part in parts),
    )


def _columns(group: Any) -> list[Any]:
    return [group.column(i) for i in range(group.num_columns)]
