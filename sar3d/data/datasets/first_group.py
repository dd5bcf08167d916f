"""One account of each object: every sample of it has the codes of its first view group, whatever its condition."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sar3d.data.datasets.token_dataset import TokenDataset, TokenSample
from sar3d.data.loading.order import Integers, Order
from sar3d.seeds import SampleKey


class FirstGroupTokens:
    """The samples of a token dataset, the codes of each replaced by those of its object's first view group; picklable.

    The codes of an object differ from group to group, as other views were encoded. A short run learns one account of
    each object sooner than several, and the pictures of all groups may still prompt it. The codes of all objects are
    kept in memory, 4 KB an object in the published layout.
    """

    def __init__(self, dataset: TokenDataset) -> None:
        self._dataset = dataset
        first: dict[str, tuple[int, NDArray[np.uint16]]] = {}
        for file, group in dataset.index.blocks.tolist():
            table = dataset.tokens.read((file, group), ["uid", "group", "codes"])
            tokens = np.asarray(table.column("codes").combine_chunks().flatten()).reshape(len(table), -1)
            names = zip(table.column("uid").to_pylist(), table.column("group").to_pylist(), tokens, strict=True)
            for uid, number, row in names:
                if uid not in first or number < first[uid][0]:
                    first[uid] = (number, row.copy())
        self._tokens = {uid: row for uid, (_, row) in first.items()}

    @property
    def sizes(self) -> Integers:
        """See `TokenDataset.sizes`."""
        return self._dataset.sizes

    def batches(
        self, order: Order, start: int = 0, rank: int = 0, world: int = 1, prefetch: int = 2
    ) -> Iterator[tuple[int, list[tuple[SampleKey, TokenSample]]]]:
        """See `TokenDataset.batches`."""
        for step, pairs in self._dataset.batches(order, start, rank, world, prefetch):
            yield step, [(key, self._changed(sample)) for key, sample in pairs]

    def _changed(self, sample: TokenSample) -> TokenSample:
        tokens: Any = self._tokens[sample.uid]
        return replace(sample, tokens=torch.from_numpy(tokens.astype(np.int64)))
