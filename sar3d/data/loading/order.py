"""The order of training samples: a pure function of (seed, step), the same for any number of workers.

Samples lie in blocks (row groups), which are what can be fetched. An epoch is a permutation of the blocks, laid out as
one list of samples and cut into `lanes` equal pieces. A lane is read from front to back, shuffled within a window of a
few blocks; each global batch takes the same number of samples from every lane, lane after lane. A worker serves a run
of neighboring lanes, so it fetches each of its blocks once per epoch, and which worker serves a lane changes nothing.

Every sample comes once per epoch. What does not fill a batch at the end of an epoch opens the next one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sar3d.errors import UserError

Integers = NDArray[np.int64]

DEFAULT_WINDOW = 2
_MOST_LANES = 64
_BLOCKS, _WINDOW = 1, 2


def permutation(count: int, *key: int) -> Integers:
    """A permutation of `count` numbers that depends on `key` (integers from 0) alone, whatever the NumPy version."""
    # NumPy promises stable streams for raw bits, not for its own shuffles.
    bits = np.random.Philox(np.random.SeedSequence(key)).random_raw(count)
    return np.argsort(bits, kind="stable")


def default_lanes(batch: int) -> int:
    """The greatest divisor of `batch` up to 64: enough to mix blocks well, few enough to hold their blocks in memory."""
    return max(n for n in range(1, min(batch, _MOST_LANES) + 1) if batch % n == 0)


@dataclass(frozen=True)
class Window:
    """The samples among which one lane draws for some steps."""

    lane: int
    first: int
    """First step that draws from it."""
    stop: int
    """Step after the last one."""
    samples: Integers
    """In the order in which they are drawn."""
    offset: int
    """Samples of the lane, in its epoch, before this window."""


@dataclass(frozen=True)
class _Round:
    """One epoch, or as many as fill a batch, as a list of runs of samples."""

    number: int
    first_step: int
    batches: int
    ids: Integers
    """First sample of each run."""
    starts: Integers
    """Place of each run in the list; one more entry for the end."""


class Order:
    """Which samples each step trains on.

    `sizes` are the samples of each block; samples are numbered block after block. `batch` is the global batch.
    `lanes` divides it (by default the greatest divisor up to 64); workers whose share is no whole number of lanes
    fetch the blocks of the lane they share twice. `window` is counted in blocks: memory is lanes * window blocks.

    Raises:
        UserError: there are no samples, or a number does not fit.
    """

    def __init__(
        self,
        sizes: Sequence[int] | NDArray[Any],
        seed: int,
        batch: int,
        lanes: int | None = None,
        window: int | None = None,
    ) -> None:
        self.sizes = np.asarray(sizes, np.int64)
        self.seed, self.batch_size = seed, batch
        if self.sizes.ndim != 1 or self.sizes.sum() <= 0:
            raise UserError("there is nothing to train on: the dataset holds no samples")
        if batch < 1 or seed < 0:
            raise UserError(f"a batch of {batch} with seed {seed} is none: give a batch from 1 and a seed from 0")
        self.lanes = default_lanes(batch) if lanes is None else lanes
        self.window = DEFAULT_WINDOW if window is None else window
        if self.lanes < 1 or batch % self.lanes:
            raise UserError(f"lanes={self.lanes} does not divide the global batch of {batch}: choose a divisor of it")
        if self.window < 1:
            raise UserError(f"window={self.window} holds no block: give 1 or more")
        self._offsets = np.concatenate([[0], np.cumsum(self.sizes)])
        self.size = int(self._offsets[-1])
        # A dataset smaller than the batch is gone through several times per round, so that a round fills a batch.
        self._repeats = -(-batch // self.size)
        self._caches()

    def _caches(self) -> None:
        self._round = lru_cache(maxsize=2)(self._make_round)
        self._window = lru_cache(maxsize=4 * self.lanes)(self._make_window)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_round", "_window")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._caches()

    def epoch(self, step: int) -> float:
        """Epochs completed before `step`."""
        return step * self.batch_size / self.size

    def batch(self, step: int) -> Integers:
        """(batch,) samples of `step`; position p belongs to lane p // (batch / lanes)."""
        return np.concatenate([self.lane_samples(step, lane) for lane in range(self.lanes)])

    def lane_samples(self, step: int, lane: int) -> Integers:
        """(batch / lanes,) samples that `lane` gives to `step`."""
        per_step = self.batch_size // self.lanes
        first = (step - self._round(self._number(step)).first_step) * per_step
        parts = []
        for window in self.windows(step, lane):
            inside = window.samples[max(0, first - window.offset) : first + per_step - window.offset]
            parts.append(inside)
        return np.concatenate(parts)

    def windows(self, step: int, lane: int) -> list[Window]:
        """The windows from which `lane` draws at `step`: nearly always one, two or more where one ends within it."""
        this = self._round(self._number(step))
        per_step = self.batch_size // self.lanes
        found = []
        at = (step - this.first_step) * per_step
        end = at + per_step
        while at < end:
            window = self._window(this.number, lane, self._window_number(this, lane, at))
            found.append(window)
            at = window.offset + len(window.samples)
        return found

    def _number(self, step: int) -> int:
        length = self._repeats * self.size
        return -(-(step + 1) * self.batch_size // length) - 1

    def _make_round(self, number: int) -> _Round:
        length = self._repeats * self.size
        first_step, next_step = (n * length // self.batch_size for n in (number, number + 1))
        ids, counts = self._runs(number)
        carried = number * length % self.batch_size
        if carried:
            before, before_counts = _tail(*self._runs(number - 1), carried)
            ids, counts = np.concatenate([before, ids]), np.concatenate([before_counts, counts])
        starts = np.concatenate([[0], np.cumsum(counts)])
        return _Round(number, first_step, next_step - first_step, ids, starts)

    def _runs(self, number: int) -> tuple[Integers, Integers]:
        """First samples and lengths of the blocks of a round, without what the round before left."""
        epochs = range(number * self._repeats, (number + 1) * self._repeats)
        blocks = np.concatenate([permutation(len(self.sizes), self.seed, _BLOCKS, epoch) for epoch in epochs])
        blocks = blocks[self.sizes[blocks] > 0]
        return self._offsets[blocks], self.sizes[blocks]

    def _bounds(self, this: _Round, lane: int) -> tuple[int, int]:
        length = this.batches * (self.batch_size // self.lanes)
        return lane * length, (lane + 1) * length

    def _window_number(self, this: _Round, lane: int, at: int) -> int:
        begin, _ = self._bounds(this, lane)
        first, run = np.searchsorted(this.starts, [begin, begin + at], "right") - 1
        return int(run - first) // self.window

    def _make_window(self, number: int, lane: int, index: int) -> Window:
        this = self._round(number)
        begin, end = self._bounds(this, lane)
        first = int(np.searchsorted(this.starts, begin, "right")) - 1 + index * self.window
        last = min(first + self.window, len(this.ids))
        low, high = max(begin, int(this.starts[first])), min(end, int(this.starts[last]))
        places = np.arange(low, high)
        run = np.searchsorted(this.starts, places, "right") - 1
        samples = this.ids[run] + places - this.starts[run]
        samples = samples[permutation(len(samples), self.seed, _WINDOW, number, lane, index)]
        per_step = self.batch_size // self.lanes
        return Window(
            lane=lane,
            first=this.first_step + (low - begin) // per_step,
            stop=this.first_step - (begin - high) // per_step,
            samples=samples,
            offset=low - begin,
        )


def _tail(ids: Integers, counts: Integers, length: int) -> tuple[Integers, Integers]:
    """The runs that hold the last `length` samples."""
    after = np.cumsum(counts[::-1])[::-1]
    keep = int(np.searchsorted(-after, -length, "right")) - 1
    ids, counts = ids[keep:].copy(), counts[keep:].copy()
    surplus = int(after[keep]) - length
    ids[0] += surplus
    counts[0] -= surplus
    return ids, counts
