"""Chamfer distances between point clouds, and matrices of them in blocks of rows.

On a CPU the nearest points are found by k-d trees, on a GPU by all distances; both give the same numbers.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import KDTree

from sar3d.metrics.shapes.points import Points

Distance = Literal["chamfer_l1", "chamfer_l2"]
DISTANCES: tuple[Distance, ...] = ("chamfer_l1", "chamfer_l2")
_PAIRS = 1 << 27
"""Point pairs whose distances are held at once on a GPU: 1 GiB in float64."""


def chamfer(a: Points, b: Points, distance: Distance = "chamfer_l2") -> float:
    """Distance of two clouds (N, 3) and (M, 3); see the package for what each name means."""
    return _of_nearest(KDTree(b).query(a)[0], KDTree(a).query(b)[0], distance)


def distance_rows(
    rows: Sequence[Points],
    columns: Sequence[Points],
    distance: Distance = "chamfer_l2",
    device: str = "cpu",
    first: Sequence[int] | None = None,
) -> NDArray[np.float64]:
    """(R, C) distances between R and C clouds: one block of rows of a matrix.

    The blocks of a matrix are independent and equal whatever their size, so that they can be tasks of their own.

    Args:
        first: the first column of each row that is computed, what lies left of it is 0; default all.
    """
    starts = first or [0] * len(rows)
    if torch.device(device).type == "cpu":
        return _by_trees(rows, columns, distance, starts)
    return dense_rows(rows, columns, distance, device, starts)


def symmetric_rows(
    clouds: Sequence[Points], start: int, stop: int, distance: Distance = "chamfer_l2", device: str = "cpu"
) -> NDArray[np.float64]:
    """(stop - start, N) rows of the matrix of N clouds with themselves, of which only what lies right of the diagonal
    is computed; the rest is 0. `symmetric` completes the stacked rows.
    """
    return distance_rows(clouds[start:stop], clouds, distance, device, range(start + 1, stop + 1))


def symmetric(upper: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, N) from rows that hold what lies right of the diagonal."""
    return np.triu(upper, 1) + np.triu(upper, 1).T


def _by_trees(
    rows: Sequence[Points], columns: Sequence[Points], distance: Distance, first: Sequence[int]
) -> NDArray[np.float64]:
    least = min(first, default=0)
    trees = [KDTree(_in_order(cloud)) for cloud in columns[least:]]
    block = np.zeros((len(rows), len(columns)))
    for i, cloud in enumerate(rows):
        tree = KDTree(_in_order(cloud))
        for j, other in enumerate(trees[first[i] - least :], first[i]):
            block[i, j] = _of_nearest(other.query(tree.data)[0], tree.query(other.data)[0], distance)
    return block


def _in_order(cloud: Points) -> Points:
    """The points leaf by leaf: queries one after another then find the nodes in the processor's cache."""
    return np.ascontiguousarray(cloud[KDTree(cloud).indices])


def _of_nearest(there: NDArray[np.float64], back: NDArray[np.float64], distance: Distance) -> float:
    """From the distances of each point of either cloud to the nearest one of the other."""
    if distance == "chamfer_l1":
        return float(there.mean() + back.mean()) / 2
    return float(there @ there) / len(there) + float(back @ back) / len(back)


def dense_rows(
    rows: Sequence[Points],
    columns: Sequence[Points],
    distance: Distance = "chamfer_l2",
    device: str = "cuda",
    first: Sequence[int] | None = None,
) -> NDArray[np.float64]:
    """`distance_rows` from the distances of all pairs of points, in float64."""
    clouds = [torch.from_numpy(cloud).to(device, torch.float64) for cloud in columns]
    block = np.zeros((len(rows), len(columns)))
    for i, cloud in enumerate(rows):
        a = torch.from_numpy(cloud).to(device, torch.float64)
        start = first[i] if first else 0
        nearest = [_nearest(a, b) for b in clouds[start:]]
        block[i, start:] = [_of_nearest(there.cpu().numpy(), back.cpu().numpy(), distance) for there, back in nearest]
    return block


def _nearest(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Distances from each point of a (N, 3) to the nearest of b (M, 3), and back."""
    there, back = [], torch.full((len(b),), torch.inf, dtype=a.dtype, device=a.device)
    for part in a.split(max(1, _PAIRS // len(b))):
        # The expansion |a|^2 - 2ab + |b|^2 would lose the digits of small distances.
        found = torch.cdist(part, b, compute_mode="donot_use_mm_for_euclid_dist")
        there.append(found.amin(1))
        back = torch.minimum(back, found.amin(0))
    return torch.cat(there), back
