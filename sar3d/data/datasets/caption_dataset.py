"""Training samples of the captioner: the codes of a view group, with what the object's source says of it."""

import os
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor

from sar3d.data.datasets.caption_config import CaptionDataConfig
from sar3d.data.datasets.token_dataset import TokenDataset, TokenSample
from sar3d.data.loading.condition_index import name_hashes
from sar3d.data.loading.order import Integers, Order
from sar3d.data.loading.row_groups import ParquetFiles
from sar3d.data.loading.row_index import SplitName
from sar3d.data.loading.withheld import Withheld
from sar3d.errors import NothingSelectedError, UserError
from sar3d.seeds import SampleKey, generator
from sar3d.spacing import evenly_spaced

_COLUMNS = ("uid", "name", "category", "captions")
_EMPTY = pa.table({name: pa.array([], pa.string()) for name in _COLUMNS})


@dataclass(frozen=True)
class Description:
    """What is known of an object; empty where it is not."""

    name: str
    category: str
    captions: tuple[str, ...]


@dataclass(frozen=True)
class CaptionSample:
    """One sample."""

    uid: str
    group: int
    tokens: Int64[Tensor, " L"]
    """Scale-major, then plane, then raster."""
    about: Description


class Descriptions:
    """The objects of an objects dataset that have a caption, by uid; picklable.

    Each process reads them when it first needs one, and holds their text: 100 to 200 bytes an object.
    """

    def __init__(self, files: Sequence[str | os.PathLike[str]]) -> None:
        self.files = ParquetFiles(files)
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._held: _Held | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"files": self.files}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._start()

    def __len__(self) -> int:
        return len(self._read().names)

    def known(self, uids: Sequence[str]) -> NDArray[np.bool_]:
        """(N,) whether each object has a caption."""
        return self._places(uids)[0]

    def find(self, uid: str) -> Description:
        """Raises `UserError` for an object without a caption."""
        known, rows = self._places([uid])
        if not known[0]:
            raise UserError(f"the object {uid} has no caption in the objects dataset: run download again")
        row = self._read().table.slice(int(rows[0]), 1).to_pylist()[0]
        captions = tuple(c for c in row["captions"] if c and c.strip())
        return Description(row["name"] or "", row["category"] or "", captions)

    def _places(self, uids: Sequence[str]) -> tuple[NDArray[np.bool_], Integers]:
        held, wanted = self._read(), name_hashes(uids, None)
        if not len(held.names):
            return np.zeros(len(wanted), bool), np.zeros(len(wanted), np.int64)
        places = np.searchsorted(held.names, wanted).clip(max=len(held.names) - 1)
        return held.names[places] == wanted, held.rows[places]

    def _read(self) -> "_Held":
        with self._lock:
            if self._held is None:
                files = range(len(self.files.files))
                groups = [(f, g) for f in files for g in range(self.files.footer(f).num_row_groups)]
                tables = [self.files.read(key, _COLUMNS) for key in groups]
                table = pa.concat_tables(tables).combine_chunks() if tables else _EMPTY
                captions = table.column("captions").to_pylist()
                rows = np.flatnonzero([any(c and c.strip() for c in given or ()) for given in captions])
                names = name_hashes(table.column("uid").take(rows).to_pylist(), None)
                order = np.argsort(names, kind="stable")
                self._held = _Held(table, names[order], rows[order])
            return self._held


@dataclass(frozen=True)
class _Held:
    table: pa.Table
    names: NDArray[np.uint64]
    """(M,) hashes of the uids of objects with captions, ascending."""
    rows: Integers
    """(M,) their rows."""


class _ChosenTokens(TokenDataset):
    """Rows of tokens of objects with captions and of some view groups."""

    def choose(self, descriptions: Descriptions, apart: Collection[int], held_out: bool) -> None:
        """Keep the rows of the groups in `apart` if `held_out`, else the rows of the other groups.

        Raises:
            UserError: none is left.
        """
        captioned, chosen, found = [], [], set()
        for (file, group), count, start in zip(
            self.index.blocks.tolist(), self.index.sizes.tolist(), self._bounds.tolist(), strict=False
        ):
            rows = self.tokens.read((file, group), ["uid", "group"]).take(self.index.rows[start : start + count])
            numbers = np.asarray(rows.column("group"))
            captioned.append(descriptions.known(rows.column("uid").to_pylist()))
            chosen.append(np.isin(numbers, sorted(apart)) == held_out)
            found |= set(numbers.tolist())
        known = np.concatenate(captioned)
        objects = self._objects()
        self.without_caption = len(np.unique(objects)) - len(np.unique(objects[known]))
        self._samples = np.flatnonzero(known & np.concatenate(chosen))
        if not known.any():
            raise NothingSelectedError(
                "no object of the tokens dataset has a caption: give captions to download (download.captions.path), "
                "without which nothing can be learned to describe"
            )
        if not len(self._samples):
            which = "none of them" if held_out else "no other"
            raise UserError(
                f"held_out.groups={sorted(apart)} does not fit: the objects have the view groups {sorted(found)}, and "
                f"{which} would be left; hold out others"
            )

    token_mixup = 0.0
    """See `CaptionDataConfig.token_mixup`."""

    def _sample(self, sample: int, key: SampleKey) -> TokenSample:
        made = super()._sample(sample, key)
        others = self._siblings(sample) if self.token_mixup else []
        if not others:
            return made
        draws = generator(key.seed, "mixed groups", key.step, key.index)
        other = self._make(others[int(torch.randint(len(others), (), generator=draws))], 0)
        tokens = torch.where(
            torch.rand(len(made.tokens), generator=draws) < self.token_mixup, other.tokens, made.tokens
        )
        return replace(made, tokens=tokens)

    def _siblings(self, sample: int) -> list[int]:
        """The other samples of the object that lie in the sample's row group, and so are held with it."""
        found = []
        for step in (-1, 1):
            near = sample + step
            while 0 <= near < self.size and self._together(sample, near):
                found.append(near)
                near += step
        return found

    def _together(self, one: int, other: int) -> bool:
        """Whether two samples are rows of one object in one row group."""
        rows = self._samples[[one, other]]
        blocks, spans = self._blocks(rows), self.index.spans[rows]
        return bool(blocks[0] == blocks[1] and (spans[0] == spans[1]).all())

    def first_of_objects(self) -> Integers:
        """The first sample of each object."""
        return np.unique(self._objects()[self._samples], return_index=True)[1]

    def made(self, sample: int) -> TokenSample:
        with self._held(sample):
            return self._make(sample, 0)

    def _objects(self) -> Integers:
        """(N,) a number for the object of each row."""
        files = self.index.blocks[self._blocks(np.arange(len(self.index.rows))), 0]
        return files << 32 | self.index.spans[:, 0].astype(np.int64)


class CaptionDataset:
    """The samples of a tokens dataset with the descriptions of their objects; picklable. It is indexed when it is made.

    Args:
        tokens: files of the tokens dataset.
        descriptions: of the objects; those without a caption are left out and counted in `without_caption`.
        config: which view groups of which objects.
        vqvae: digest of the model that the codes must come from.
        split: part of the objects.
        held_out: the view groups that `config` holds out instead of the others.
        withheld: objects that are in the splits `held_out` and `all` only.

    Raises:
        UserError: the tokens are another VQVAE's, a file is missing or of another kind, or no sample is left.
    """

    def __init__(
        self,
        tokens: Sequence[str | os.PathLike[str]],
        descriptions: Descriptions,
        config: CaptionDataConfig | None = None,
        *,
        vqvae: str | None = None,
        split: SplitName = "train",
        held_out: bool = False,
        withheld: Withheld | None = None,
    ) -> None:
        self.config = config or CaptionDataConfig()
        self.descriptions = descriptions
        self.tokens = _ChosenTokens(tokens, (), self.config.tokens(), vqvae=vqvae, split=split, withheld=withheld)
        self.tokens.choose(descriptions, self.config.held_out.groups, held_out)
        self.tokens.token_mixup = self.config.token_mixup

    @property
    def size(self) -> int:
        """Samples."""
        return self.tokens.size

    @property
    def sizes(self) -> Integers:
        """Samples of each block of the order."""
        return self.tokens.sizes

    @property
    def objects(self) -> int:
        """Objects that they are of."""
        return len(self.tokens.first_of_objects())

    @property
    def without_caption(self) -> int:
        """Objects that are left out."""
        return self.tokens.without_caption

    def batches(
        self, order: Order, start: int = 0, rank: int = 0, world: int = 1, prefetch: int = 2
    ) -> Iterator[tuple[int, list[tuple[SampleKey, CaptionSample]]]]:
        """See `sar3d.training.task.Dataset`."""
        with closing(self.tokens.batches(order, start, rank, world, prefetch)) as batches:
            for step, pairs in batches:
                yield step, [(key, self._described(sample)) for key, sample in pairs]

    def samples(self) -> Iterator[CaptionSample]:
        """Every sample, in the order of the files."""
        return map(self._described, self.tokens.samples())

    def shown(self, limit: int) -> list[CaptionSample]:
        """The first sample of each of at most `limit` objects, spread evenly over the dataset."""
        first: list[int] = self.tokens.first_of_objects().tolist()
        return [self._described(self.tokens.made(sample)) for sample in evenly_spaced(first, limit)]

    def _described(self, sample: TokenSample) -> CaptionSample:
        return CaptionSample(sample.uid, sample.group, sample.tokens, self.descriptions.find(sample.uid))
