"""Kernel distance of two sets of features (KID), by torchmetrics; and the statistic that its interval is resampled from.

The kernel is (x · y / C + 1)³ and the estimate unbiased (Bińkowski et al. 2018): of two samples of one distribution it
is 0 on average, and may be negative.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sar3d.errors import UserError
from sar3d.metrics.confidence import Counts, Statistic
from sar3d.metrics.features.frechet import Condition, Given

SUBSETS = 100
LARGEST = 1000
"""Pictures in a subset, or all where there are fewer."""


@dataclass(frozen=True)
class KernelDistance:
    """A distance with what it was taken over."""

    value: float
    """Mean over the subsets."""
    subset: int
    """Pictures of either side in a subset: part of the number's identity."""
    subsets: int


def kernel_distance(made: Condition, truth: Condition, subset: int = 0, seed: int = 0) -> KernelDistance:
    """Unbiased squared maximum mean discrepancy, the mean over random subsets. Independent of the pictures' order.

    Args:
        subset: pictures in a subset; 0 for as many as there are, up to 1,000.

    Raises:
        UserError: there are fewer pictures than a subset holds, or fewer than two.
    """
    fewest = min(len(made), len(truth))
    subset = subset or min(fewest, LARGEST)
    if fewest < max(subset, 2):
        raise UserError(
            f"a kernel distance over subsets of {max(subset, 2)} pictures needs as many on either side, and there are "
            f"{len(made)} and {len(truth)}: evaluate more objects or set a smaller subset"
        )
    from torchmetrics.image.kid import KernelInceptionDistance

    # Subsets that are the whole are all the same.
    subsets = 1 if subset == len(made) == len(truth) else SUBSETS
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # it says that it keeps all features
        torch.manual_seed(seed)
        metric = KernelInceptionDistance(feature=Given(made.shape[1]), subsets=subsets, subset_size=subset)
        metric.update(_in_order(truth), real=True)
        metric.update(_in_order(made), real=False)
        return KernelDistance(float(metric.compute()[0]), subset, subsets)


def _in_order(features: Condition) -> torch.Tensor:
    """Sorted, so that the random subsets do not depend on the order in which pictures came."""
    order = np.lexsort(features[:, : min(8, features.shape[1])].T)
    return torch.from_numpy(np.ascontiguousarray(features[order], np.float64))


@dataclass(frozen=True)
class KernelBlocks:
    """Sums of the kernel over pairs of pictures, by pair of objects; N objects of which both sides have pictures."""

    of_made: NDArray[np.float64]
    """(N, N)"""
    of_truth: NDArray[np.float64]
    between: NDArray[np.float64]
    """(N, N): made pictures of the row's object, true ones of the column's."""
    made_diagonal: NDArray[np.float64]
    """(N,) sum of the kernel of each made picture of an object with itself."""
    truth_diagonal: NDArray[np.float64]
    made_sizes: NDArray[np.int64]
    """(N,) pictures of each object."""
    truth_sizes: NDArray[np.int64]


def kernel_blocks(made: Sequence[Condition], truth: Sequence[Condition]) -> KernelBlocks:
    """Blocks of N objects, of whose pictures `made[i]` and `truth[i]` are the features."""
    return KernelBlocks(
        of_made=_block_sums(made, made),
        of_truth=_block_sums(truth, truth),
        between=_block_sums(made, truth),
        made_diagonal=_diagonals(made),
        truth_diagonal=_diagonals(truth),
        made_sizes=np.array([len(o) for o in made]),
        truth_sizes=np.array([len(o) for o in truth]),
    )


def kernel_of(blocks: KernelBlocks) -> Statistic:
    """The unbiased distance of all pictures, over draws of objects.

    An object that was drawn twice is two objects with the same pictures: pairs across the two do not count, as a picture
    is no independent partner of its own copy.
    """
    sizes = blocks.made_sizes * blocks.truth_sizes

    def statistic(counts: Counts) -> NDArray[np.float64]:
        drawn = counts.astype(np.float64)
        made = _within(drawn, blocks.of_made, blocks.made_diagonal, blocks.made_sizes)
        truth = _within(drawn, blocks.of_truth, blocks.truth_diagonal, blocks.truth_sizes)
        pairs = (drawn @ blocks.made_sizes) * (drawn @ blocks.truth_sizes) - (drawn**2 - drawn) @ sizes
        return np.asarray(made + truth - 2 * _summed(drawn, blocks.between, np.diag(blocks.between)) / pairs)

    return statistic


def _within(
    drawn: NDArray[np.float64], sums: NDArray[np.float64], diagonal: NDArray[np.float64], sizes: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(K,) mean of the kernel over pairs of different pictures of one side."""
    pictures = drawn @ sizes
    pairs = pictures**2 - drawn**2 @ sizes**2 + drawn @ (sizes * (sizes - 1))
    return np.asarray(_summed(drawn, sums, np.diag(sums) - diagonal) / pairs)


def _summed(drawn: NDArray[np.float64], sums: NDArray[np.float64], inside: NDArray[np.float64]) -> NDArray[np.float64]:
    """(K,) sums over pairs of different objects, and once inside each object that was drawn."""
    apart = sums - np.diag(np.diag(sums))
    return np.asarray(((drawn @ apart) * drawn).sum(axis=1) + drawn @ inside)


def _kernel(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((x @ y.T / x.shape[1] + 1) ** 3)


def _block_sums(rows: Sequence[Condition], columns: Sequence[Condition]) -> NDArray[np.float64]:
    """(N, N) sums of the kernel over the pairs of pictures of two objects, an object's row at a time."""
    stacked = np.concatenate(columns).astype(np.float64)
    starts = np.cumsum([0, *(len(o) for o in columns[:-1])])
    return np.stack([np.add.reduceat(_kernel(o.astype(np.float64), stacked).sum(axis=0), starts) for o in rows])


def _diagonals(objects: Sequence[Condition]) -> NDArray[np.float64]:
    """(N,) sums over the pictures of an object of the kernel with themselves."""
    squares = [np.square(o.astype(np.float64)).sum(axis=1) / o.shape[1] for o in objects]
    return np.array([((square + 1) ** 3).sum() for square in squares])
