"""Batches made ahead in threads: row groups are fetched some steps before the samples in them are decoded."""

import itertools
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from sar3d.data.loading.order import Integers, Order, Window
from sar3d.data.loading.row_groups import RowGroupCache
from sar3d.errors import UserError
from sar3d.seeds import SampleKey

Sample = TypeVar("Sample")
_REACH = 8
"""Steps beyond those being decoded for which row groups are fetched at least."""


class _Holdings:
    """Keeps the row groups of the windows that some lanes draw from in the cache."""

    def __init__(
        self, order: Order, lanes: range, cache: RowGroupCache[Any, Any], keys: Callable[[Integers], list[Any]]
    ) -> None:
        self._order, self._cache, self._keys = order, cache, keys
        self._held: dict[int, deque[tuple[Window, list[Any]]]] = {lane: deque() for lane in lanes}

    def reach(self, step: int) -> None:
        """Hold what `step` and the steps soon after it need; called for every step in turn."""
        for number, (lane, held) in enumerate(self._held.items()):
            if not held:
                self._hold(lane, step)
            # Lanes come to the end of their windows at about the same time. Each reaches ahead by another part of a
            # window, or they would all fetch at once.
            last = held[-1][0]
            lead = _REACH + (last.stop - last.first) * number // len(self._held)
            while held[-1][0].stop - 1 <= step + lead:
                stop = held[-1][0].stop
                if not self._hold(lane, stop - 1):
                    self._hold(lane, stop)

    def _hold(self, lane: int, step: int) -> bool:
        """Hold the windows of `lane` at `step` that are not held yet; whether there were any."""
        held, before = self._held[lane], len(self._held[lane])
        for window in self._order.windows(step, lane):
            if not held or (window.first, window.offset) > (held[-1][0].first, held[-1][0].offset):
                keys = self._keys(window.samples)
                self._cache.hold(keys)
                held.append((window, keys))
        return len(held) > before

    def drop(self, step: int | None = None) -> None:
        """Release what no step after `step` needs, or everything."""
        for held in self._held.values():
            # The last window stays as the mark of how far was held, unless all is dropped.
            while held and (step is None or (held[0][0].stop <= step + 1 and len(held) > 1)):
                self._cache.release(held.popleft()[1])


class _Ahead(Generic[Sample]):
    """Steps of which `rank`'s part of the global batch is being loaded, the oldest first."""

    def __init__(
        self,
        order: Order,
        cache: RowGroupCache[Any, Any],
        keys: Callable[[Integers], list[Any]],
        submit: Callable[[int, SampleKey], Future[Sample]],
        rank: int,
        world: int,
    ) -> None:
        self._order, self._submit = order, submit
        self._share, per_lane = order.batch_size // world, order.batch_size // order.lanes
        self._first = rank * self._share
        self._lanes = range(self._first // per_lane, -(-(self._first + self._share) // per_lane))
        self._skip = self._first - self._lanes.start * per_lane
        self._holdings = _Holdings(order, self._lanes, cache, keys)
        self._steps: deque[tuple[int, list[tuple[SampleKey, Future[Sample]]]]] = deque()

    def begin(self, step: int) -> None:
        """Fetch what a step needs, and begin to load its samples."""
        self._holdings.reach(step)
        drawn = [int(sample) for lane in self._lanes for sample in self._order.lane_samples(step, lane)]
        keys = [SampleKey(self._order.seed, step, self._first + i) for i in range(self._share)]
        chosen = zip(keys, drawn[self._skip : self._skip + self._share], strict=True)
        self._steps.append((step, [(key, self._submit(sample, key)) for key, sample in chosen]))

    def finish(self) -> tuple[int, list[tuple[SampleKey, Sample]]]:
        """The oldest step and its samples, once they are loaded."""
        step, futures = self._steps.popleft()
        return step, [(key, future.result()) for key, future in futures]

    def drop(self, step: int | None = None) -> None:
        """Release the row groups that no step after `step` needs, or all."""
        self._holdings.drop(step)

    def cancel(self) -> None:
        """Begin to load no more samples."""
        for _, futures in self._steps:
            for _, future in futures:
                future.cancel()


def batches(
    order: Order,
    cache: RowGroupCache[Any, Any],
    keys: Callable[[Integers], list[Any]],
    load: Callable[[int, SampleKey], Sample],
    *,
    start: int,
    rank: int,
    world: int,
    prefetch: int,
    threads: int,
) -> Generator[tuple[int, list[tuple[SampleKey, Sample]]], None, None]:
    """From step `start` on, endlessly: the step and the part of its global batch that falls to `rank` of `world`.

    That part is a contiguous batch / world of the global batch. `keys` names what samples need from the cache, and
    `load` makes one of them; `prefetch` steps are loaded ahead in `threads` threads. What `load` raises is raised here.

    Raises:
        UserError: the global batch is no multiple of `world`.
    """
    if order.batch_size % world:
        raise UserError(
            f"a batch of {order.batch_size} cannot be shared by {world} workers: give a multiple of {world}"
        )
    with ThreadPoolExecutor(threads, thread_name_prefix="load") as pool:
        ahead = _Ahead(order, cache, keys, lambda *of: pool.submit(load, *of), rank, world)
        try:
            for step in range(start, start + prefetch):
                ahead.begin(step)
            for following in itertools.count(start + prefetch):
                ahead.begin(following)
                step, samples = ahead.finish()
                yield step, samples
                ahead.drop(step)
        finally:
            ahead.cancel()
            pool.shutdown()
            ahead.drop()
