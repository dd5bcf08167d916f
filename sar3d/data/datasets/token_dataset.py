"""Training samples of the transformers: the codes of a view group, with one condition of its object.

Tokens drive: each row of the tokens dataset is a sample, and its conditions are found by an index. Both datasets hold
their objects in the same order, so a run of samples needs few row groups of either.
"""

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float16, Int64
from numpy.typing import NDArray
from torch import Tensor

from sar3d.conditions.kinds import ConditionKind
from sar3d.data.datasets.token_config import TokenDataConfig as TokenDataConfig
from sar3d.data.formats.conditions import DTYPE
from sar3d.data.formats.tokens import TokensInfo, tokens_info
from sar3d.data.loading.condition_index import STORED_COLUMNS, ConditionIndex, build_condition_index, name_hashes
from sar3d.data.loading.order import Integers, permutation
from sar3d.data.loading.row_groups import ParquetFiles
from sar3d.data.loading.row_index import RowIndex, Selection, SplitName, build_index
from sar3d.data.loading.row_samples import RowSamples
from sar3d.data.loading.withheld import Withheld
from sar3d.errors import NothingSelectedError, ObjectError, UserError
from sar3d.seeds import SampleKey

_CHOICE = 4
"""Names the stream that draws conditions."""
_TOKENS, _CONDITIONS = 0, 1
_LEAST_BLOCK = 16 << 20
_TOKENS_SHARE = 6
"""A block holds at least this many times as many bytes of conditions as of the tokens' row group it lies in, which
several blocks fetch: that bounds what is fetched twice."""

Key = tuple[int, int, int]
"""Which dataset, file, row group."""


@dataclass(frozen=True)
class TokenSample:
    """One sample."""

    uid: str
    sha256: str
    group: int
    tokens: Int64[Tensor, " L"]
    """Scale-major, then plane, then raster."""
    condition: Float16[Tensor, "N Cc"] | None
    """Tokens of the condition; None without conditions, as below."""
    pooled: Float16[Tensor, " D"] | None
    condition_id: int | None
    """Caption number or view id."""


@dataclass(frozen=True)
class _StoredTokens:
    uids: list[str]
    hashes: list[str]
    groups: list[int]
    tokens: NDArray[np.uint16]


class TokenDataset(RowSamples[Key, TokenSample]):
    """The samples of a tokens dataset, joined with conditions; picklable. It is indexed when it is made.

    `vqvae` is the digest of the model that the codes must come from. Objects without a condition of the wanted kind
    are left out and counted in `without_condition`. Objects in `withheld` are in the splits `held_out` and `all` only.

    Raises:
        UserError: the tokens are another VQVAE's, a file is missing or of another kind, or no sample is left.
    """

    def __init__(
        self,
        tokens: Sequence[str | os.PathLike[str]],
        conditions: Sequence[str | os.PathLike[str]] = (),
        config: TokenDataConfig | None = None,
        *,
        vqvae: str | None = None,
        split: SplitName = "train",
        uids: Collection[str] | None = None,
        withheld: Withheld | None = None,
    ) -> None:
        if not tokens:
            raise UserError("the tokens dataset has no files: cache the tokens first")
        self.config: TokenDataConfig = config or TokenDataConfig()
        self.tokens, self.conditions = ParquetFiles(tokens), ParquetFiles(conditions)
        self.info = self._checked(vqvae)
        wanted = None if uids is None else tuple(uids)
        selection = Selection(split, self.config.val, self.config.test, wanted, withheld=withheld)
        self.index: RowIndex = build_index(self.tokens, selection, "tokens")
        self.without_condition = 0
        self._joined: ConditionIndex | None = None
        rows = len(self.index.rows)
        self._matches = np.zeros((2, rows), np.int64)
        self._samples: Integers = np.arange(rows)
        if self.config.condition is not None:
            self._join(self.config.condition)
        self._start()

    def _checked(self, vqvae: str | None) -> TokensInfo:
        """What is common to all token files."""
        infos = {}
        for i, file in enumerate(self.tokens.files):
            infos[tokens_info(self.tokens.schema(i), file)] = file
        if len(infos) > 1:
            one, other = list(infos.values())[:2]
            raise UserError(f"{one} and {other} hold tokens of different VQVAEs: give the files of one output")
        info = next(iter(infos))
        if vqvae is not None and info.vqvae != vqvae:
            raise UserError(
                f"{self.tokens.files[0]} holds tokens of the VQVAE {info.vqvae[:16]}, not of {vqvae[:16]}: cache the "
                "tokens again with this model, or give the model they were made with"
            )
        return info

    def _join(self, kind: ConditionKind) -> None:
        if not self.conditions.files:
            raise UserError(f"{kind} conditions are wanted, but the conditions dataset has no files: cache them first")
        joined = build_condition_index(self.conditions, kind, self.config.encoder)
        names = []
        for file, group in self.index.blocks.tolist():
            table = self.tokens.read((file, group), ["uid", "group"])
            groups = table.column("group").to_pylist() if joined.by_group else None
            names.append(name_hashes(table.column("uid").to_pylist(), groups))
        starts = np.cumsum([0, *(len(part) for part in names)])[:-1]
        rows = np.repeat(starts, self.index.sizes) + self.index.rows
        first, count = joined.find(np.concatenate(names)[rows])
        self._matches = np.stack([first, count])
        self._samples = np.flatnonzero(count)
        self.without_condition = len(count) - len(self._samples)
        self._joined = joined
        if not len(self._samples):
            raise NothingSelectedError(
                f"no object has a {kind} condition: cache the conditions of the same objects as the tokens"
            )

    @property
    def size(self) -> int:
        """Samples."""
        return len(self._samples)

    @property
    def bytes_fetched(self) -> int:
        """Bytes that the file systems gave so far, the indices included."""
        return self.tokens.fetched + self.conditions.fetched

    @property
    def sizes(self) -> Integers:
        """Samples of each block of the order: runs that share row groups, or single ones where everything fits."""
        conditions = 0 if self._joined is None else int(self._joined.weights.sum())
        if self.index.weight + conditions <= self.config.keep_bytes // 2:
            return np.ones(self.size, np.int64)
        block = self._blocks(self._samples)
        if self._joined is None:
            return np.unique(block, return_counts=True)[1].astype(np.int64)
        needed = self._joined.blocks[self._matches[0, self._samples]]
        fresh = np.diff(needed, prepend=-1) != 0
        passed = np.cumsum(np.where(fresh, self._joined.weights[needed], 0))
        room = max(_LEAST_BLOCK, _TOKENS_SHARE * self.index.weight // len(self.index.blocks))
        part = (passed - 1) // room
        cuts = np.flatnonzero((np.diff(block, prepend=-1) != 0) | (np.diff(part, prepend=-1) != 0))
        return np.diff(cuts, append=self.size)

    def samples(
        self, uids: Collection[str] | None = None, groups: Collection[int] | None = None
    ) -> Iterator[TokenSample]:
        """Samples in the order of the files, each with its first condition, limited to some objects or view groups."""
        for sample in range(self.size):
            with self._held(sample):
                made = self._make(sample, 0)
                if (uids is None or made.uid in uids) and (groups is None or made.group in groups):
                    yield made

    # ---- rows

    def _load(self, key: Key) -> tuple[Any, int]:
        which, file, group = key
        if which == _CONDITIONS:
            table = self.conditions.read((file, group), STORED_COLUMNS)
            return {name: table.column(name).chunk(0) for name in STORED_COLUMNS}, table.nbytes
        table = self.tokens.read((file, group), ("uid", "sha256", "group", "codes"))
        stored = _StoredTokens(
            uids=table.column("uid").to_pylist(),
            hashes=table.column("sha256").to_pylist(),
            groups=table.column("group").to_pylist(),
            tokens=np.asarray(table.column("codes").chunk(0).flatten()).reshape(len(table), -1),
        )
        return stored, stored.tokens.nbytes

    def _blocks(self, rows: Integers) -> Integers:
        """The row groups, as numbers of the index, in which rows of tokens lie."""
        return np.searchsorted(self._bounds, rows, "right") - 1

    def _keys(self, samples: Integers) -> list[Key]:
        """The row groups that some samples are made of, all their conditions included."""
        rows = self._samples[samples]
        places = self.index.blocks[np.unique(self._blocks(rows))].tolist()
        keys: set[Key] = {(_TOKENS, file, group) for file, group in places}
        if self._joined is not None:
            first, count = self._matches[:, rows]
            matches = np.concatenate([np.arange(f, f + c) for f, c in zip(first, count, strict=True)])
            places = self._joined.places[np.unique(self._joined.blocks[matches])].tolist()
            keys |= {(_CONDITIONS, file, group) for file, group in places}
        return sorted(keys)

    # ---- samples

    def _sample(self, sample: int, key: SampleKey) -> TokenSample:
        count = int(self._matches[1, self._samples[sample]])
        # A stream of its own, apart from what the task draws from the same key.
        chosen = int(permutation(count, key.seed, _CHOICE, key.step, key.index)[0]) if count > 1 else 0
        return self._make(sample, chosen)

    def _make(self, sample: int, chosen: int) -> TokenSample:
        row = int(self._samples[sample])
        file, group = self.index.blocks[int(self._blocks(np.array([row]))[0])].tolist()
        stored: _StoredTokens = self._cache.get((_TOKENS, file, group))
        place = int(self.index.rows[row])
        tokens = stored.tokens[place].astype(np.int64)
        if tokens.max() >= self.info.codebook_size:
            raise ObjectError(
                "bad_row",
                f"the tokens of view group {stored.groups[place]} of {stored.uids[place]} lie beyond the codebook.",
            )
        condition = None if self._joined is None else self._condition(int(self._matches[0, row]) + chosen, self._joined)
        return TokenSample(
            uid=stored.uids[place],
            sha256=stored.hashes[place],
            group=stored.groups[place],
            tokens=torch.from_numpy(tokens),
            condition=None if condition is None else condition[0],
            pooled=None if condition is None else condition[1],
            condition_id=None if condition is None else condition[2],
        )

    def _condition(self, match: int, joined: ConditionIndex) -> tuple[Tensor, Tensor, int]:
        file, group = joined.places[joined.blocks[match]].tolist()
        stored: dict[str, pa.Array] = self._cache.get((_CONDITIONS, file, group))
        row = int(joined.rows[match])
        column = {name: values[row] for name, values in stored.items()}
        shape = column["tokens_shape"].as_py()
        # Copied, as the tensor outlives the row group and may be written to.
        tokens, pooled = (np.frombuffer(column[name].as_buffer(), DTYPE).copy() for name in ("tokens", "pooled"))
        if tokens.size != shape[0] * shape[1]:
            raise ObjectError("bad_row", f"a condition in {self.conditions.files[file]} is not of its stated shape.")
        index = column["view_id" if column["kind"].as_py() == "image" else "caption_id"].as_py()
        return torch.from_numpy(tokens.reshape(shape)), torch.from_numpy(pooled), index
