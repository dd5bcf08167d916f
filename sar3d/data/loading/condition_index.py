"""Where the conditions of each object lie: a join that keeps some numbers per row in memory, and no text or features."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from sar3d.conditions.kinds import ConditionKind
from sar3d.data.formats.conditions import check_conditions
from sar3d.data.loading.order import Integers
from sar3d.data.loading.row_groups import ParquetFiles
from sar3d.errors import UserError

_READERS = 8


@dataclass(frozen=True)
class ConditionIndex:
    """The rows of one kind, sorted by the hash of what they belong to."""

    names: NDArray[np.uint64]
    """(M,) hashes, ascending: of the object, or of its view group where the condition was made from one."""
    blocks: NDArray[np.int32]
    """(M,) row group of each, as a row of `places`."""
    rows: NDArray[np.int32]
    """(M,) its row there."""
    places: Integers
    """(G, 2) file and row group."""
    weights: Integers
    """(G,) bytes of each row group."""
    by_group: bool
    """Conditions belong to view groups, not to whole objects."""

    def find(self, names: NDArray[np.uint64]) -> tuple[Integers, Integers]:
        """First match and number of matches of each of `names`."""
        first = np.searchsorted(self.names, names, "left")
        return first, np.searchsorted(self.names, names, "right") - first


def name_hashes(uids: Sequence[str], groups: Sequence[int | None] | None) -> NDArray[np.uint64]:
    """(N,) hashes of objects, or of their view groups; among 10^8 of them two are equal with a chance of 1 in 3,700."""
    if groups is None:
        texts = (uid.encode() for uid in uids)
    else:
        texts = (f"{group} {uid}".encode() for uid, group in zip(uids, groups, strict=True))
    digests = b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, np.uint64)


def build_condition_index(files: ParquetFiles, kind: ConditionKind, encoder: str | None) -> ConditionIndex:
    """The conditions of `kind` made by `encoder` (None: there must be one only) among `files`.

    Raises:
        UserError: a file is no conditions dataset, no row is of this kind and encoder, or several encoders made them.
    """
    with ThreadPoolExecutor(_READERS) as pool:
        parts = [part for found in pool.map(lambda f: _read(files, f, kind), range(len(files.files))) for part in found]
    encoders = sorted({name for part in parts for name in part.encoders})
    if encoder is None and len(encoders) > 1:
        raise UserError(f"the conditions dataset holds {kind} features of {', '.join(encoders)}: name one of them")
    if (encoder is not None and encoder not in encoders) or not encoders:
        raise UserError(
            f"the conditions dataset holds no {kind} features{f' of {encoder}' if encoder else ''}, only "
            f"{', '.join(encoders) or 'none'}: cache them first"
        )
    wanted = encoder or encoders[0]
    grouped = {bool(by) for part in parts for by in part.grouped}
    if len(grouped) > 1:
        raise UserError(f"some {kind} conditions name a view group and some do not: cache the conditions again")
    return _sorted(parts, wanted, grouped.pop())


@dataclass(frozen=True)
class _Part:
    """The rows of one kind in one row group."""

    place: tuple[int, int]
    weight: int
    uids: list[str]
    groups: list[int | None]
    made_by: list[str]
    rows: list[int]

    @property
    def encoders(self) -> set[str]:
        return set(self.made_by)

    @property
    def grouped(self) -> set[bool]:
        return {group is not None for group in self.groups}


def _read(files: ParquetFiles, file: int, kind: ConditionKind) -> list[_Part]:
    check_conditions(files.schema(file), files.files[file])
    parts = []
    for group in range(files.footer(file).num_row_groups):
        table = files.read((file, group), ["uid", "kind", "encoder", "group"])
        # The empty condition, of no object, is not for joining.
        wanted = pc.and_(pc.equal(table.column("kind"), kind), pc.not_equal(table.column("uid"), ""))
        rows = np.flatnonzero(np.asarray(wanted))
        if len(rows):
            chosen = table.take(rows)
            weight = files.weight((file, group), STORED_COLUMNS)
            uids, groups, made_by = (chosen.column(name).to_pylist() for name in ("uid", "group", "encoder"))
            parts.append(_Part((file, group), weight, uids, groups, made_by, rows.tolist()))
    return parts


STORED_COLUMNS = ("kind", "group", "view_id", "caption_id", "tokens_shape", "tokens", "pooled")
"""Columns of which a sample is made."""


def _sorted(parts: list[_Part], encoder: str, by_group: bool) -> ConditionIndex:
    names, blocks, rows = [], [], []
    for number, part in enumerate(parts):
        chosen = [i for i, made_by in enumerate(part.made_by) if made_by == encoder]
        uids = [part.uids[i] for i in chosen]
        names.append(name_hashes(uids, [part.groups[i] for i in chosen] if by_group else None))
        blocks.append(np.full(len(chosen), number, np.int32))
        rows.append(np.array([part.rows[i] for i in chosen], np.int32))
    hashes = np.concatenate(names)
    order = np.argsort(hashes, kind="stable")
    return ConditionIndex(
        names=hashes[order],
        blocks=np.concatenate(blocks)[order],
        rows=np.concatenate(rows)[order],
        places=np.array([part.place for part in parts], np.int64),
        weights=np.array([part.weight for part in parts], np.int64),
        by_group=by_group,
    )
