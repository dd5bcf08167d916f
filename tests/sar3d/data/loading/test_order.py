"""The order of samples: complete, seeded, the same for any number of workers, and kind to row groups."""

import pickle
from collections import Counter

import numpy as np
import pytest

from sar3d.data.loading.order import Order, default_lanes, permutation
from sar3d.errors import UserError

CASES = [
    ([3, 5, 1, 7, 4], 4, None),
    ([3, 5, 1, 7, 4], 7, 7),
    ([3, 5, 1, 7, 4], 6, 2),
    ([3], 8, 4),
    ([1] * 64, 8, None),
    ([64], 8, 8),
    ([5] * 30, 12, 6),
    ([2, 2], 3, 1),
    ([0, 4, 0, 1], 2, 2),
]


@pytest.mark.parametrize(("sizes", "batch", "lanes"), CASES)
def test_every_sample_comes_once_per_epoch_and_none_is_dropped(sizes: list[int], batch: int, lanes: int | None) -> None:
    order, count = Order(sizes, 3, batch, lanes), sum(sizes)
    drawn = np.concatenate([order.batch(step) for step in range(3 * count)])
    counts = Counter(drawn.tolist())
    assert counts == dict.fromkeys(range(count), 3 * batch)


def test_an_epochs_batches_hold_different_samples_when_the_batch_divides_it() -> None:
    order = Order([4] * 12, 0, 8)
    for epoch in range(3):
        drawn = np.concatenate([order.batch(step) for step in range(6 * epoch, 6 * epoch + 6)])
        assert sorted(drawn) == list(range(48))


def test_what_an_epoch_leaves_over_opens_the_next() -> None:
    order = Order([4] * 5, 0, 6)
    drawn = np.concatenate([order.batch(step) for step in range(10)])
    assert len(set(drawn[:18])) == 18
    left_over = set(range(20)) - set(drawn[:18])
    assert left_over < set(drawn[18:36])
    assert Counter(drawn[:60]) == dict.fromkeys(range(20), 3)


def test_epochs_and_seeds_differ_and_repeat_themselves() -> None:
    order = Order([4] * 12, 0, 8)
    first, second = (np.concatenate([order.batch(s) for s in range(e, e + 6)]) for e in (0, 6))
    assert not np.array_equal(first, second)
    assert not np.array_equal(order.batch(0), Order([4] * 12, 1, 8).batch(0))
    assert np.array_equal(order.batch(0), Order([4] * 12, 0, 8).batch(0))


def test_any_step_can_be_asked_first() -> None:
    order = Order([3, 5, 1, 7, 4] * 10, 5, 8, 4, window=3)
    steps = [order.batch(step) for step in range(80)]
    for step in (79, 3, 41, 40, 0):
        assert np.array_equal(Order([3, 5, 1, 7, 4] * 10, 5, 8, 4, window=3).batch(step), steps[step])
    assert np.array_equal(pickle.loads(pickle.dumps(order)).batch(17), steps[17])


def test_a_lane_draws_from_few_blocks_at_a_time_and_returns_to_none() -> None:
    sizes = [16] * 96
    order = Order(sizes, 0, 32, window=2)
    steps = sum(sizes) // 32
    for lane in range(order.lanes):
        blocks = [int(s) // 16 for step in range(steps) for s in order.lane_samples(step, lane)]
        first = {b: blocks.index(b) for b in set(blocks)}
        last = {b: len(blocks) - 1 - blocks[::-1].index(b) for b in set(blocks)}
        live = [sum(first[b] <= i <= last[b] for b in first) for i in range(len(blocks))]
        assert max(live) <= 2


def test_windows_name_the_steps_that_draw_from_them() -> None:
    order = Order([3, 5, 1, 7, 4] * 4, 1, 8, 4)
    for step in range(40):
        for lane in range(4):
            windows = order.windows(step, lane)
            assert all(w.first <= step < w.stop for w in windows)
            assert set(order.lane_samples(step, lane)) <= set(np.concatenate([w.samples for w in windows]))


def test_neighbors_in_a_block_are_shuffled() -> None:
    order = Order([64] * 8, 0, 4, 1, window=2)
    drawn = np.concatenate([order.batch(s) for s in range(128)])
    assert np.mean(np.abs(np.diff(drawn)) == 1) < 0.1


def test_a_permutation_is_a_fixed_function_of_its_key() -> None:
    assert permutation(8, 1, 2, 3).tolist() == [1, 2, 4, 6, 5, 0, 7, 3]
    assert sorted(permutation(1000, 7).tolist()) == list(range(1000))


def test_default_lanes_divide_the_batch() -> None:
    assert [default_lanes(b) for b in (1, 8, 28, 63, 100, 1024, 127)] == [1, 8, 28, 63, 50, 64, 1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (([], 0, 4), "holds no samples"),
        (([4], 0, 0), "a batch of 0"),
        (([4], 0, 4, 3), "lanes=3 does not divide"),
        (([4], 0, 4, 2, 0), "window=0"),
    ],
)
def test_what_makes_no_order_is_said(arguments: tuple, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Order(*arguments)


def test_millions_of_samples_cost_no_more_than_their_row_groups() -> None:
    order = Order(np.full(500_000, 16), 0, 1024)
    assert len(set(order.batch(10**6).tolist())) == 1024
