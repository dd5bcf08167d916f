"""Numbers over objects with their intervals: from what rows keep of each object to the lines of a table.

Whoever evaluates measures each object once (`ObjectFeatures`, values by metric) and sums up here; a further system is
further objects.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from sar3d.metrics.confidence import (
    RESAMPLES,
    Difference,
    Interval,
    bootstrap,
    half_subsamples,
    mean_of,
    mmd_of,
    paired,
    recentered,
)
from sar3d.metrics.features.frechet import RESAMPLES as FRECHET_RESAMPLES
from sar3d.metrics.features.frechet import frechet_distance, frechet_of
from sar3d.metrics.features.kernel import kernel_blocks, kernel_distance, kernel_of
from sar3d.metrics.features.networks import PictureFeatures, SetNames
from sar3d.metrics.shapes.sets import SetDistances, coverage, minimum_matching_distance, one_nn_accuracy

Better = Literal["higher", "lower", "half"]
"""`half`: 0.5 is best."""


@dataclass(frozen=True)
class Number:
    """One metric over objects."""

    metric: str
    value: float
    interval: Interval | None
    """None for a distance whose interval is taken on other features (its own line), or of too few objects."""
    better: Better
    objects: int
    about: str = ""
    """What else the number depends on, such as the size of the sets."""


_LOWER = (
    "chamfer",
    "error",
    "missing",
    "lpips",
    "vgg",
    "laplacian",
    "mmd",
    "frechet",
    "fid",
    "kernel",
    "kid",
    "latency",
)


def better_of(metric: str) -> Better:
    """Which values of a metric are better, by its name."""
    if "one_nna" in metric:
        return "half"
    return "lower" if any(part in metric for part in _LOWER) else "higher"


def mean_numbers(values: Mapping[str, Sequence[float]], seed: int = 0) -> list[Number]:
    """Means over objects by metric, of values in the same order of objects; NaN where an object has none."""
    found = []
    for metric, numbers in values.items():
        statistic, known = mean_of(numbers), int(np.isfinite(numbers).sum())
        if known:
            interval = bootstrap(statistic, len(numbers), seed=seed) if known > 1 else None
            found.append(Number(metric, float(np.nanmean(numbers)), interval, better_of(metric), known))
    return found


def mean_difference(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Difference:
    """Of two systems' values of one metric, of the same objects in the same order."""
    return paired(mean_of(first), mean_of(second), len(first), seed=seed)


def set_numbers(distances: SetDistances, name: str, resamples: int = RESAMPLES, seed: int = 0) -> list[Number]:
    """COV, MMD and, where its matrices are there, 1-NNA, named after the distance (`chamfer_l2_unit_box`)."""
    sizes = f"{len(distances.generated)} generated, {len(distances.references)} references"
    count = len(distances.references)
    enough = min(len(distances.generated), count) >= 6

    def halves(statistic: Callable[[SetDistances], float]) -> Interval | None:
        if not enough:
            return None
        found = half_subsamples(statistic, distances, resamples, seed)
        # Both are shares; the spread of halves around the number knows nothing of that.
        return replace(found, low=max(0.0, found.low), high=min(1.0, found.high))

    mmd = bootstrap(mmd_of(distances), count, resamples, seed)
    found = [
        Number(f"cov_{name}", coverage(distances), halves(coverage), "higher", count, sizes),
        Number(f"mmd_{name}", minimum_matching_distance(distances), mmd, "lower", count, sizes),
    ]
    if distances.of_generated is not None and distances.of_references is not None:
        accuracy = one_nn_accuracy(distances)
        found.append(Number(f"one_nna_{name}", accuracy, halves(one_nn_accuracy), "half", count, sizes))
    return found


def picture_numbers(
    names: SetNames, made: Sequence[PictureFeatures], truth: Sequence[PictureFeatures], seed: int = 0
) -> list[Number]:
    """Fréchet and kernel distances of the pictures of N objects, made and true ones in the same order of objects.

    The Fréchet distance has its interval on the fast features, as a line of its own.
    """
    full_made, full_truth = [o.full for o in made], [o.full for o in truth]
    fast_made, fast_truth = [o.fast for o in made], [o.fast for o in truth]
    pictures = f"{sum(map(len, full_made))} pictures against {sum(map(len, full_truth))}"
    kernel = kernel_distance(np.concatenate(full_made), np.concatenate(full_truth), seed=seed)
    count, enough = len(made), len(made) > 1
    sampled = bootstrap(kernel_of(kernel_blocks(full_made, full_truth)), count, seed=seed) if enough else None
    fast = recentered(frechet_of(fast_made, fast_truth), count, FRECHET_RESAMPLES, seed) if enough else None
    whole = frechet_distance(np.concatenate(full_made), np.concatenate(full_truth))
    part = frechet_distance(np.concatenate(fast_made), np.concatenate(fast_truth))
    subsets = f"{pictures}, {kernel.subsets} subsets of {kernel.subset}"
    return [
        Number(names.frechet, whole, None, "lower", count, pictures),
        Number(names.fast, part, fast, "lower", count, pictures),
        Number(names.kernel, kernel.value, sampled, "lower", count, subsets),
    ]
