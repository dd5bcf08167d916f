"""Training samples from a finished views dataset: what the encoder sees and what its output is compared with."""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from sar3d.data.datasets.view_config import ViewDataConfig
from sar3d.data.formats.views import FORMAT, FORMAT_VERSION
from sar3d.data.loading.order import Integers, permutation
from sar3d.data.loading.row_groups import Key, ParquetFiles
from sar3d.data.loading.row_index import RowIndex, Selection, SplitName, build_index
from sar3d.data.loading.row_samples import RowSamples
from sar3d.data.loading.view_rows import (
    TARGET_COLUMNS,
    Decoded,
    Place,
    StoredRows,
    decode_encoder,
    decode_targets,
    stored_rows,
)
from sar3d.data.loading.view_tensors import ENCODER_VIEWS, Targets
from sar3d.data.loading.withheld import Withheld
from sar3d.errors import ObjectError, UserError
from sar3d.seeds import SampleKey

Shown = Literal["supervision", "held_out", "all"]
_CHOICE = 3
"""Names the stream that picks supervising views."""


@dataclass(frozen=True)
class ViewSample:
    """One sample. Tensors may be shared with other samples: do not change them in place."""

    uid: str
    sha256: str
    group: int
    encoder_input: Float[Tensor, "6 10 H W"]
    """See `sar3d.data.loading.view_tensors.encoder_input`."""
    supervision: Targets
    """What renderings of the encoded object are compared with."""
    encoder_ids: tuple[int, ...]
    """View ids of the encoder's views."""
    supervision_ids: tuple[int, ...]
    """View ids of the supervising views."""


class ViewDataset(RowSamples[Key, ViewSample]):
    """The samples of a views dataset, from its Parquet files; picklable. It is indexed when it is made.

    `files` are addresses of any file system that fsspec knows, in the order of the output, and `sizes` their bytes.
    Objects in `withheld` are in the splits `held_out` and `all` only.
    Wrong `resolution`, missing files and empty selections raise `UserError` here; a row that cannot be decoded raises
    `ObjectError` when its sample is made.
    """

    def __init__(
        self,
        files: Sequence[str | os.PathLike[str]],
        resolution: int | None = None,
        config: ViewDataConfig | None = None,
        *,
        split: SplitName = "train",
        uids: Collection[str] | None = None,
        withheld: Withheld | None = None,
        sizes: Sequence[int] | None = None,
    ) -> None:
        if not files:
            raise UserError("the views dataset has no files: render objects first")
        self.config: ViewDataConfig = config or ViewDataConfig()
        self.files = ParquetFiles(files, sizes)
        self.resolution = check_views(self.files, resolution)
        selection = Selection(
            split=split,
            val=self.config.val,
            test=self.config.test,
            uids=None if uids is None else tuple(uids),
            held_out=self.config.held_out,
            withheld=withheld,
        )
        self.index: RowIndex = build_index(self.files, selection, "views")
        self._per_row = 2 if self.config.unit == "published" else 1
        self._start()

    def _start(self) -> None:
        super()._start()
        self._inputs: dict[int, Tensor] = {}
        self._targets: dict[tuple[Any, ...], Targets] = {}

    @property
    def size(self) -> int:
        """Samples."""
        return self._per_row * len(self.index.rows)

    @property
    def objects(self) -> int:
        return self.index.objects

    @property
    def bytes_fetched(self) -> int:
        """Bytes that the file system gave so far, the index included."""
        return self.files.fetched

    @property
    def sizes(self) -> Integers:
        """Samples of each block of the order: row groups, or single samples where the whole dataset fits in memory."""
        if self.index.weight <= self.config.keep_bytes // 2:
            return np.ones(self.size, np.int64)
        return self.index.sizes * self._per_row

    def samples(
        self,
        uids: Collection[str] | None = None,
        views: Shown = "supervision",
        groups: Collection[int] | None = (0,),
        indices: Iterable[int] | None = None,
    ) -> Iterator[ViewSample]:
        """Samples to judge by, in the order of the files, one at a time; nothing is drawn at random.

        `uids` and `groups` (numbers of view groups, by default the first of each object; None for every group) or
        `indices` (numbers of samples) limit them. `views` tells which views stand in `supervision`: those that
        supervise, those held out, or all of the unit; samples without any are passed over.

        Raises:
            UserError: the held-out views are wanted, but none are held out.
        """
        if views == "held_out" and not self.config.held_out:
            raise UserError(
                "no views are held out: set held_out.views=1 or more, held_out.view_ids, or held_out.groups"
            )
        for sample in range(self.size) if indices is None else indices:
            with self._held(sample):
                rows, row = self._row(sample)
                wanted = (uids is None or rows.uids[row] in uids) and (groups is None or rows.groups[row] in groups)
                if wanted and self._shown(sample, views):
                    yield self._make(sample, views)

    def first_samples(self, views: Shown = "all") -> list[int]:
        """The first sample of each object that has such views, in the order of the files."""
        files = np.repeat(self.index.blocks[:, 0], self.index.sizes)
        new = (np.diff(files, prepend=-1) != 0) | (np.diff(self.index.spans[:, 0], prepend=-1) != 0)
        first = [int(row) * self._per_row for row in np.flatnonzero(new)]
        if views != "held_out" or self.config.held_out.view_ids:
            return first
        return [sample for sample in first if self.index.held_out.get(self._object(sample)[:2])]

    # ---- rows

    def _load(self, key: Key) -> tuple[StoredRows, int]:
        columns = TARGET_COLUMNS + (("normal",) if self.config.normals else ())
        rows = stored_rows(self.files.read(key, columns))
        return rows, rows.weight

    def _keys(self, samples: Integers) -> list[Key]:
        """The row groups that some samples lie in, with those of their objects' other rows if they are needed."""
        rows = samples // self._per_row
        blocks = np.unique(np.searchsorted(self._bounds, rows, "right") - 1)
        keys = {(int(file), int(group)) for file, group in self.index.blocks[blocks]}
        if self.config.unit == "object":
            files = self.index.blocks[np.searchsorted(self._bounds, rows, "right") - 1, 0]
            for file, (first, stop) in zip(files, self.index.spans[rows], strict=True):
                starts = self.index.group_starts[int(file)]
                low, high = np.searchsorted(starts, [first, stop - 1], "right") - 1
                keys.update((int(file), group) for group in range(int(low), int(high) + 1))
        return sorted(keys)

    def _row(self, sample: int) -> tuple[StoredRows, int]:
        """A sample's row: its row group, and its number in it."""
        row = sample // self._per_row
        file, group = self.index.blocks[int(np.searchsorted(self._bounds, row, "right")) - 1]
        return self._cache.get((int(file), int(group))), int(self.index.rows[row])

    def _object(self, sample: int) -> tuple[int, int, int]:
        """File, and first and last row (exclusive) in it, of a sample's object."""
        row = sample // self._per_row
        file = self.index.blocks[int(np.searchsorted(self._bounds, row, "right")) - 1, 0]
        first, stop = self.index.spans[row]
        return int(file), int(first), int(stop)

    # ---- views

    def _encoded(self, sample: int) -> list[Place]:
        rows, row = self._row(sample)
        views = rows.views(row)
        half = ENCODER_VIEWS * (sample % self._per_row)
        wanted = ENCODER_VIEWS * self._per_row
        if len(views) < wanted or (self._per_row == 2 and len(views) != wanted):
            raise ObjectError(
                "bad_row",
                f"view group {rows.groups[row]} of {rows.uids[row]} holds {len(views)} views, not {wanted}.",
            )
        return [(rows, i) for i in views[half : half + ENCODER_VIEWS]]

    def _shown(self, sample: int, shown: Shown) -> list[Place]:
        """The views of a sample's unit, each once, without or with the held-out ones, or those only."""
        places: dict[int, Place] = {}
        for rows, i in self._unit(sample):
            places.setdefault(int(rows.view_ids[i]), (rows, i))
        file, first, _ = self._object(sample)
        apart = self.index.held_out.get((file, first), frozenset(self.config.held_out.view_ids))
        keep = {"supervision": lambda v: v not in apart, "held_out": lambda v: v in apart, "all": lambda v: True}[shown]
        found = [place for view, place in places.items() if keep(view)]
        if not found and shown == "supervision":
            rows, row = self._row(sample)
            raise UserError(f"object {rows.uids[row]} has no view to compare with: hold out fewer views")
        return found

    def _unit(self, sample: int) -> list[Place]:
        if self.config.unit != "object":
            rows, row = self._row(sample)
            views = list(rows.views(row))
            if self.config.unit == "published" and sample % 2 == 0:
                views = views[ENCODER_VIEWS:] + views[:ENCODER_VIEWS]
            return [(rows, i) for i in views]
        file, first, stop = self._object(sample)
        starts = self.index.group_starts[file]
        found: list[Place] = []
        for place in range(first, stop):
            group = int(np.searchsorted(starts, place, "right")) - 1
            rows = self._cache.get((file, group))
            found += [(rows, i) for i in rows.views(place - int(starts[group]))]
        return found

    # ---- samples

    def _sample(self, sample: int, key: SampleKey) -> ViewSample:
        count = self.config.supervise
        if count is None:
            return self._make(sample, "supervision")
        return self._make(sample, "supervision", lambda views: permutation(views, *_stream(key))[:count])

    def _make(self, sample: int, shown: Shown, choose: Callable[[int], Integers] | None = None) -> ViewSample:
        rows, row = self._row(sample)
        encoded = self._encoded(sample)
        places = self._shown(sample, shown)
        chosen = range(len(places)) if choose is None else choose(len(places)).tolist()
        if self._caching:
            inputs, supervision = self._cached(sample, shown, encoded, places)
            if len(chosen) < len(places):
                supervision = supervision.at(chosen)
        else:
            seen: Decoded = {}
            inputs = decode_encoder(encoded, self.resolution, seen).tensor()
            supervision = decode_targets([places[i] for i in chosen], self.resolution, self.config.normals, seen)
        return ViewSample(
            uid=rows.uids[row],
            sha256=rows.hashes[row],
            group=rows.groups[row],
            encoder_input=inputs,
            supervision=supervision,
            encoder_ids=tuple(int(r.view_ids[i]) for r, i in encoded),
            supervision_ids=tuple(int(places[i][0].view_ids[places[i][1]]) for i in chosen),
        )

    def _cached(self, sample: int, shown: Shown, encoded: list[Place], places: list[Place]) -> tuple[Tensor, Targets]:
        """What was decoded before, or else is now; two threads may do it at once, with the same result."""
        if sample not in self._inputs:
            self._inputs[sample] = decode_encoder(encoded, self.resolution).tensor()
        unit = self._object(sample) if self.config.unit == "object" else sample
        if (unit, shown) not in self._targets:
            self._targets[unit, shown] = decode_targets(places, self.resolution, self.config.normals)
        return self._inputs[sample], self._targets[unit, shown]

    @property
    def _caching(self) -> bool:
        if self.config.cache_decoded != "auto":
            return self.config.cache_decoded
        inputs = self.size * ENCODER_VIEWS * 10
        targets = self.size * self.index.views_per_row * (8 if self.config.normals else 5)
        return 4 * self.resolution**2 * (inputs + targets) <= self.config.cache_bytes


def check_views(files: ParquetFiles, resolution: int | None) -> int:
    """The resolution of a views dataset.

    Raises:
        UserError: the first file is no views dataset of this version, or its pictures are not of `resolution`.
    """
    metadata = files.schema(0).metadata or {}
    if (metadata.get(b"format"), metadata.get(b"format_version")) != (FORMAT.encode(), FORMAT_VERSION.encode()):
        raise UserError(
            f"{files.files[0]} is not a views dataset of version {FORMAT_VERSION}: render the objects again"
        )
    stored = int(metadata[b"resolution"])
    if resolution is not None and stored != resolution:
        raise UserError(
            f"the views in {files.files[0]} are {stored} pixels wide, but {resolution} are wanted: "
            f"render with render.resolution={resolution}, or choose a model for {stored}"
        )
    return stored


def _stream(key: SampleKey) -> tuple[int, ...]:
    """Names the random numbers that choose a sample's views: others than the task draws from the same key."""
    return key.seed, _CHOICE, key.step, key.index
