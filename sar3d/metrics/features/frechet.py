"""Fréchet distance of two sets of features, by torchmetrics; and the statistic that its interval is resampled from."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from sar3d.errors import UserError
from sar3d.metrics.confidence import Counts, Statistic

FAST = "192"
"""Features of the interval: a distance of 2,048 features takes seconds, of these milliseconds. It bears their number."""
RESAMPLES = 100

Condition = Float[np.ndarray, "N C"]


class Given(nn.Module):
    """A network for torchmetrics whose input is features already."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(made: Condition, truth: Condition) -> float:
    """Squared Fréchet distance of the Gaussians with the means and covariances of two sets (Heusel et al. 2017).

    Of sets that are smaller than their features are wide it is the same number, taken from the pictures themselves: their
    covariances have no more directions than there are pictures.

    Raises:
        UserError: a set has fewer than two pictures.
    """
    if min(len(made), len(truth)) < 2:
        raise UserError(f"a Fréchet distance needs two pictures on either side, not {len(made)} and {len(truth)}")
    if max(len(made), len(truth)) < made.shape[1]:
        return max(0.0, float(_of_few([made], [truth])(np.ones((1, 1), np.int64))[0]))
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=Given(made.shape[1])).set_dtype(torch.float64)
    metric.update(_tensor(truth), real=True)
    metric.update(_tensor(made), real=False)
    # Of equal sets rounding may leave a little less than nothing.
    return max(0.0, float(metric.compute()))


def frechet_of(made: Sequence[Condition], truth: Sequence[Condition]) -> Statistic:
    """The distance over draws of N objects, of whose pictures `made[i]` and `truth[i]` are the features.

    Both sides are drawn together: they are of the same objects.
    """
    if max(sum(map(len, made)), sum(map(len, truth))) < made[0].shape[1]:
        return _of_few(made, truth)
    ours, true = _Moments(made), _Moments(truth)
    at_once = max(1, _NUMBERS // made[0].shape[1] ** 2)

    def statistic(counts: Counts) -> NDArray[np.float64]:
        chunks = (counts[i : i + at_once] for i in range(0, len(counts), at_once))
        moments = (zip(*ours.of(chunk), *true.of(chunk), strict=True) for chunk in chunks)
        return np.array([_distance(*numbers) for chunk in moments for numbers in chunk])

    return statistic


def _of_few(made: Sequence[Condition], truth: Sequence[Condition]) -> Statistic:
    """The distance where features are wider than there are pictures.

    With the centered and weighted pictures of a side as rows of A, its covariance is AᵀA. The trace of the root of AᵀA BᵀB
    is the sum of the singular values of ABᵀ, a matrix of pictures by pictures.
    """
    sides = [
        (np.concatenate(of).astype(np.float64), np.repeat(np.arange(len(of)), [len(o) for o in of]))
        for of in (made, truth)
    ]

    def distance(counts: NDArray[np.int64]) -> float:
        means, rows = [], []
        for features, owner in sides:
            drawn = counts[owner].astype(np.float64)
            means.append(drawn @ features / drawn.sum())
            rows.append(np.sqrt(drawn / (drawn.sum() - 1))[:, None] * (features - means[-1]))
        cross = np.linalg.svd(rows[0] @ rows[1].T, compute_uv=False).sum()
        spread = sum(float(np.square(side).sum()) for side in rows)
        return float(np.square(means[0] - means[1]).sum() + spread - 2 * cross)

    return lambda counts: np.array([distance(drawn) for drawn in counts])


_NUMBERS = 1 << 25
"""Of covariances that are held at once."""


class _Moments:
    """Means and covariances of the pictures of N objects, for any draw of them."""

    def __init__(self, objects: Sequence[Condition]) -> None:
        stacked = np.concatenate(objects).astype(np.float64)
        # Sums of squares keep their digits only near the origin.
        self.center = stacked.mean(axis=0)
        self.objects = [o.astype(np.float64) - self.center for o in objects]
        self.sums = np.stack([o.sum(axis=0) for o in self.objects])
        self.sizes = np.array([len(o) for o in objects])

    def of(self, counts: Counts) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Means (K, C) and covariances (K, C, C) where object i was drawn `counts[k, i]` times."""
        drawn, width = counts.astype(np.float64), len(self.center)
        products = np.zeros((len(drawn), width * width))
        step = max(1, _NUMBERS // width**2)
        for start in range(0, len(self.objects), step):
            part = np.stack([(o.T @ o).ravel() for o in self.objects[start : start + step]])
            products += drawn[:, start : start + step] @ part
        total = (drawn @ self.sizes)[:, None]
        means = drawn @ self.sums / total
        centered = products.reshape(-1, width, width) - total[..., None] * means[:, :, None] * means[:, None, :]
        return means + self.center, centered / (total[..., None] - 1)


def _distance(
    mean: NDArray[np.float64], covariance: NDArray[np.float64], true: NDArray[np.float64], other: NDArray[np.float64]
) -> float:
    """From means (C,) and covariances (C, C), in float64.

    The trace of the root of a product of covariances is the sum of the singular values of the product of their roots,
    which are symmetric and so never leave the real numbers.
    """
    cross = np.linalg.svd(_root(covariance) @ _root(other), compute_uv=False).sum()
    return float(np.square(mean - true).sum() + np.trace(covariance) + np.trace(other) - 2 * cross)


def _root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T)


def _tensor(features: Condition) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(features, np.float64))
