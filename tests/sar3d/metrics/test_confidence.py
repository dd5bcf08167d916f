"""Intervals over objects: their width and coverage, what is paired, and what duplicates must not falsify."""

import numpy as np
import pytest
from scipy import linalg

from sar3d.errors import UserError
from sar3d.metrics.confidence import bootstrap, half_subsamples, mean_of, mmd_of, paired
from sar3d.metrics.features.frechet import frechet_distance, frechet_of
from sar3d.metrics.features.kernel import kernel_blocks, kernel_distance, kernel_of
from sar3d.metrics.numbers import better_of, mean_difference, mean_numbers, set_numbers
from sar3d.metrics.shapes.sets import SetDistances, coverage, one_nn_accuracy


def test_a_mean_has_the_interval_that_theory_gives() -> None:
    values = np.random.default_rng(0).normal(5, 2, 400)
    found = bootstrap(mean_of(values.tolist()), 400)
    assert found.value == pytest.approx(values.mean())
    error = values.std() / 20
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.25 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.25 * error)
    assert found == bootstrap(mean_of(values.tolist()), 400), "the seed alone decides"


def test_most_intervals_hold_the_truth() -> None:
    data = np.random.default_rng(1).exponential(1.0, (150, 60))
    held = [i.low < 1 < i.high for i in (bootstrap(mean_of(d.tolist()), 60, 300) for d in data)]
    assert 0.86 < np.mean(held) <= 0.99


def test_pairs_tell_what_two_intervals_cannot() -> None:
    random = np.random.default_rng(0)
    second = random.normal(0, 1, 50)
    first = second + 0.1 + random.normal(0, 0.05, 50)
    apart = [bootstrap(mean_of(v.tolist()), 50) for v in (first, second)]
    assert apart[0].low < apart[1].high
    difference = mean_difference(first.tolist(), second.tolist())
    assert difference.interval.low > 0
    assert difference.share == 1.0
    assert mean_difference(second.tolist(), second.tolist()).share == 0.5


def test_objects_without_a_value_do_not_count() -> None:
    (number,) = mean_numbers({"psnr": [1.0, np.nan, 3.0, np.nan, 2.0]})
    assert (number.value, number.objects, number.better) == (2.0, 3, "higher")
    assert number.interval is not None
    assert 1 <= number.interval.low < number.interval.high <= 3
    assert mean_numbers({"psnr": [np.nan]}) == []
    assert [better_of(m) for m in ("visible_chamfer_l1_posed", "fid", "cov_x", "one_nna_x")] == [
        "lower",
        "lower",
        "higher",
        "half",
    ]
    with pytest.raises(UserError, match="at least two objects"):
        bootstrap(mean_of([1.0]), 1)


def random_sets(count: int, paired_uids: bool = True) -> SetDistances:
    """Generated and true shapes of one distribution: points on a line, their distances."""
    random = np.random.default_rng(count)
    made, true = random.normal(size=count), random.normal(size=count)
    uids = [f"u{i}" for i in range(count)]
    others = uids if paired_uids else [f"v{i}" for i in range(count)]
    between, inside, outside = (abs(a[:, None] - b) for a, b in ((made, true), (made, made), (true, true)))
    return SetDistances(uids, others, between, inside, outside)


@pytest.mark.parametrize("paired_uids", [True, False])
def test_sets_are_halved_and_never_duplicated(paired_uids: bool) -> None:
    """With duplicates 1-NNA would be near 1 and COV near 0.63 of itself; halves stay around the number."""
    distances = random_sets(80, paired_uids)
    accuracy = half_subsamples(one_nn_accuracy, distances, 200)
    assert accuracy.low < accuracy.value < accuracy.high
    assert accuracy.low < 0.5 < accuracy.high, "of one distribution half of the neighbors are of the own set"
    covered = half_subsamples(coverage, distances, 200)
    assert 0.02 < covered.high - covered.low < 0.4
    with pytest.raises(UserError, match="six of each"):
        half_subsamples(coverage, random_sets(5), 10)


def test_sets_are_summed_up_with_their_sizes() -> None:
    cov, mmd, nna = set_numbers(random_sets(20), "chamfer_l2_unit_box", 100)
    assert [n.metric for n in (cov, mmd, nna)] == [f"{m}_chamfer_l2_unit_box" for m in ("cov", "mmd", "one_nna")]
    assert cov.about == "20 generated, 20 references"
    assert mmd.interval is not None
    assert mmd.interval.low <= mmd.value <= mmd.interval.high
    assert mmd.interval == bootstrap(mmd_of(random_sets(20)), 20, 100)
    assert all(n.interval is None for n in set_numbers(random_sets(4), "x", 10) if not n.metric.startswith("mmd"))


def objects(count: int, shift: float = 0.0, seed: int = 0) -> list[np.ndarray]:
    """Features of four pictures of each object."""
    return list(np.random.default_rng(seed).normal(shift, 1, (count, 4, 6)))


def test_the_resampled_statistics_are_the_distances() -> None:
    made, true = objects(30, shift=0.3), objects(30, seed=1)
    drawn = np.random.default_rng(0).integers(30, size=30)
    counts = np.bincount(drawn, minlength=30)[None]
    again = np.concatenate([made[i] for i in drawn]), np.concatenate([true[i] for i in drawn])
    assert frechet_of(made, true)(counts)[0] == pytest.approx(frechet_distance(*again), rel=1e-6)
    ones = np.ones((1, 30), np.int64)
    whole = np.concatenate(made), np.concatenate(true)
    assert frechet_of(made, true)(ones)[0] == pytest.approx(frechet_distance(*whole), rel=1e-6)
    assert kernel_of(kernel_blocks(made, true))(ones)[0] == pytest.approx(kernel_distance(*whole).value, abs=1e-9)


def test_few_pictures_of_wide_features_have_the_distance_of_their_covariances() -> None:
    random = np.random.default_rng(0)
    made, true = (list(random.normal(shift, 1, (5, 3, 40))) for shift in (0.2, 0.0))
    whole = [np.concatenate(side) for side in (made, true)]
    roots = linalg.sqrtm(np.cov(whole[0].T) @ np.cov(whole[1].T) + 1e-12 * np.eye(40)).real
    spread = np.trace(np.cov(whole[0].T)) + np.trace(np.cov(whole[1].T)) - 2 * np.trace(roots)
    expected = np.square(whole[0].mean(0) - whole[1].mean(0)).sum() + spread
    assert frechet_distance(*whole) == pytest.approx(expected, rel=1e-3)
    counts = np.array([[1, 1, 1, 1, 1], [2, 0, 1, 1, 1]])
    drawn = [np.concatenate([side[i] for i in (0, 0, 2, 3, 4)]) for side in (made, true)]
    found = frechet_of(made, true)(counts)
    assert found == pytest.approx([frechet_distance(*whole), frechet_distance(*drawn)])
    assert frechet_distance(whole[0], whole[0]) < 1e-9


def test_objects_drawn_twice_do_not_raise_the_kernel_distance() -> None:
    """A picture is no partner of its own copy: of one distribution resamples stay around 0."""
    statistic = kernel_of(kernel_blocks(objects(40), objects(40, seed=1)))
    counts = np.random.default_rng(0).multinomial(40, np.full(40, 1 / 40), 500)
    values = statistic(counts)
    assert abs(values.mean() - statistic(np.ones((1, 40), np.int64))[0]) < 0.2 * values.std()
    found = bootstrap(statistic, 40)
    assert found.low < 0 < found.high
    other = kernel_of(kernel_blocks(objects(40, shift=0.8), objects(40, seed=1)))
    assert bootstrap(other, 40).low > 0
    assert paired(other, statistic, 40).share == 1.0
