"""What the datasets of training samples share: row groups that are fetched when they are needed, and held in between."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np

from sar3d.data.loading.order import Integers, Order
from sar3d.data.loading.prefetch import batches
from sar3d.data.loading.row_groups import RowGroupCache
from sar3d.data.loading.row_index import RowIndex
from sar3d.seeds import SampleKey

K = TypeVar("K", bound=tuple[int, ...])
S = TypeVar("S")


class HoldingConfig(Protocol):
    """Settings of every such dataset."""

    @property
    def keep_bytes(self) -> int:
        """Memory, on each worker, for row groups that may be needed again."""
        ...

    @property
    def threads(self) -> int:
        """Threads that decode on each worker."""
        ...


class RowSamples(ABC, Generic[K, S]):
    """Samples S made of rows that lie in row groups named K. Picklable: what was fetched stays behind."""

    config: HoldingConfig
    index: RowIndex
    _LAZY: ClassVar[tuple[str, ...]] = ("_bounds", "_lock", "_cache_made")
    """Attributes that `_start` makes and that are not pickled."""

    def _start(self) -> None:
        self._bounds = np.concatenate([[0], np.cumsum(self.index.sizes)])
        self._lock = threading.Lock()
        self._cache_made: RowGroupCache[K, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in self._LAZY}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._start()

    @property
    @abstractmethod
    def sizes(self) -> Integers:
        """Samples of each block of the order."""

    @abstractmethod
    def _load(self, key: K) -> tuple[Any, int]:
        """A row group and its bytes in memory."""

    @abstractmethod
    def _keys(self, samples: Integers) -> list[K]:
        """The row groups that some samples are made of."""

    @abstractmethod
    def _sample(self, sample: int, key: SampleKey) -> S:
        """A sample whose row groups are held; the key decides its random choices."""

    def order(self, seed: int, batch: int, lanes: int | None = None, window: int | None = None) -> Order:
        """The order of training with a global `batch`; `window` is the number of blocks a lane shuffles among."""
        return Order(self.sizes, seed, batch, lanes, window)

    def batches(
        self, order: Order, start: int = 0, rank: int = 0, world: int = 1, prefetch: int = 2
    ) -> Generator[tuple[int, list[tuple[SampleKey, S]]], None, None]:
        """From step `start` on, endlessly: the step and the part of its global batch that falls to `rank` of `world`."""
        return batches(
            order,
            self._cache,
            self._keys,
            self._sample,
            start=start,
            rank=rank,
            world=world,
            prefetch=prefetch,
            threads=self.config.threads,
        )

    @property
    def _cache(self) -> RowGroupCache[K, Any]:
        with self._lock:
            if self._cache_made is None:
                self._cache_made = RowGroupCache(self._load, self.config.keep_bytes)
            return self._cache_made

    @contextmanager
    def _held(self, sample: int) -> Iterator[None]:
        """A sample's row groups stay in memory meanwhile."""
        keys = self._keys(np.array([sample]))
        self._cache.hold(keys)
        try:
            yield
        finally:
            self._cache.release(keys)
