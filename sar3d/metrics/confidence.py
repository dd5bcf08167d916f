"""How sure a number over objects is: intervals by resampling objects, never single pictures of them.

A statistic is a function from counts (K, N), how often each of N objects was drawn in each of K resamples, to K values.
Counts of 1 give the number itself, and the same counts given to two systems compare them on the same draws. What
duplicates would falsify (COV, 1-NNA) is subsampled without replacement.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sar3d.errors import UserError
from sar3d.metrics.shapes.sets import SetDistances

Counts = NDArray[np.int64]
"""(K, N)"""
Statistic = Callable[[Counts], NDArray[np.float64]]
Method = Literal["bootstrap", "recentered bootstrap", "paired bootstrap", "half subsamples"]
RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A number with the range that it is known to."""

    value: float
    low: float
    high: float
    method: Method
    resamples: int
    level: float = LEVEL


@dataclass(frozen=True)
class Difference:
    """One system's number less another's, over the same objects."""

    interval: Interval
    share: float
    """Of the resamples in which the first one's number is higher; a tie counts half."""


def bootstrap(statistic: Statistic, objects: int, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Percentile interval from draws of as many objects, with replacement (Efron 1979).

    Raises:
        UserError: fewer than two objects.
    """
    values = statistic(_counts(objects, resamples, seed))
    return _percentiles(_value(statistic, objects), values, "bootstrap")


def recentered(statistic: Statistic, objects: int, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """As `bootstrap`, moved so that the mean of the resamples is the number itself: those of a biased statistic, such as
    a Fréchet distance, lie all on one side of it.
    """
    value = _value(statistic, objects)
    values = _around(value, statistic(_counts(objects, resamples, seed)))
    return _percentiles(value, values, "recentered bootstrap")


def paired(first: Statistic, second: Statistic, objects: int, resamples: int = RESAMPLES, seed: int = 0) -> Difference:
    """Whether one system's number is higher than another's, both of the same objects in the same order.

    Raises:
        UserError: fewer than two objects.
    """
    counts = _counts(objects, resamples, seed)
    value = _value(first, objects) - _value(second, objects)
    differences = first(counts) - second(counts)
    share = float(np.where(differences == 0, 0.5, differences > 0).mean())
    return Difference(_percentiles(value, differences, "paired bootstrap"), share)


def mean_of(values: Sequence[float]) -> Statistic:
    """The mean over N objects; those without a value (NaN) do not count."""
    numbers = np.asarray(values, np.float64)
    known = np.isfinite(numbers)
    filled = np.where(known, numbers, 0.0)

    def statistic(counts: Counts) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore"):  # a resample may hold none that is known
            return np.asarray(counts @ filled / (counts @ known))

    return statistic


def mmd_of(distances: SetDistances) -> Statistic:
    """MMD, over draws of the references. The generated set stays as it is: resampled, it would lack a third of itself,
    and every nearest shape would be farther.
    """
    return mean_of(distances.between.min(axis=0).tolist())


def half_subsamples(
    statistic: Callable[[SetDistances], float], distances: SetDistances, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Interval of a number of two sets from halves of them, drawn without replacement (delete-half jackknife, Shao and
    Wu 1989): halves vary as much around their mean as the whole does around the truth.

    A uid that stands in both sets is drawn in both or in neither. Halves are smaller sets, which shifts COV and MMD, so
    that only their spread is used, around the number of the whole.

    Raises:
        UserError: a set has fewer than six shapes.
    """
    if min(len(distances.generated), len(distances.references)) < 6:
        raise UserError(
            f"an interval of {len(distances.generated)} generated and {len(distances.references)} reference shapes needs "
            "six of each: evaluate more objects"
        )
    random = np.random.default_rng(seed)
    values = np.array([statistic(distances.subset(*_halves(distances, random))) for _ in range(resamples)])
    value = statistic(distances)
    return _percentiles(value, _around(value, values), "half subsamples")


def _halves(distances: SetDistances, random: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    generated, references = set(distances.generated), set(distances.references)
    drawn: set[str] = set()
    for group in (generated & references, generated - references, references - generated):
        members = sorted(group)
        # Of an odd number, one half or the other: on average exactly half.
        count = (len(members) + int(random.integers(2))) // 2
        drawn |= {members[i] for i in random.permutation(len(members))[:count]}
    return _places(distances.generated, drawn), _places(distances.references, drawn)


def _places(uids: Sequence[str], drawn: set[str]) -> NDArray[np.int64]:
    return np.array([i for i, uid in enumerate(uids) if uid in drawn], np.int64)


def _counts(objects: int, resamples: int, seed: int) -> Counts:
    if objects < 2:
        raise UserError(f"an interval over {objects} object cannot be had: evaluate at least two objects")
    draws = np.random.default_rng(seed).multinomial(objects, np.full(objects, 1 / objects), size=resamples)
    return np.asarray(draws, np.int64)


def _value(statistic: Statistic, objects: int) -> float:
    return float(statistic(np.ones((1, objects), np.int64))[0])


def _around(value: float, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Resamples, moved to the number as their mean."""
    return np.asarray(values - values.mean() + value)


def _percentiles(value: float, values: NDArray[np.float64], method: Method) -> Interval:
    tail = (1 - LEVEL) / 2
    # A resample may hold no object that has a value.
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return Interval(value, float(low), float(high), method, len(values))
