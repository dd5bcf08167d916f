"""A set of generated shapes against a set of references: coverage, minimum matching distance, 1-NN accuracy.

All three follow from matrices of distances between shapes (`chamfer.distance_rows`). G shapes were generated, R are
references. Coverage rises with noise and both depend on the sizes of the sets: print them beside the numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sar3d.errors import UserError

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class SetDistances:
    """Distances between G generated shapes and R references."""

    generated: Sequence[str]
    """G uids."""
    references: Sequence[str]
    """R uids."""
    between: Matrix
    """(G, R)"""
    of_generated: Matrix | None = None
    """(G, G), for 1-NN accuracy."""
    of_references: Matrix | None = None
    """(R, R)"""

    def __post_init__(self) -> None:
        """Raises `UserError` for sets that are too small, ValueError for matrices of other shapes."""
        g, r = len(self.generated), len(self.references)
        if min(g, r) < 2:
            raise UserError(
                f"COV, MMD and 1-NNA compare sets, and here are {g} generated and {r} reference shapes: give two of each"
            )
        for matrix, shape in ((self.between, (g, r)), (self.of_generated, (g, g)), (self.of_references, (r, r))):
            if matrix is not None and matrix.shape != shape:
                raise ValueError(f"a matrix of {g} generated and {r} reference shapes is {shape}, not {matrix.shape}")

    def subset(self, generated: NDArray[np.int64], references: NDArray[np.int64]) -> "SetDistances":
        """Those at the given places."""
        g, r = generated, references
        return SetDistances(
            generated=[self.generated[i] for i in g],
            references=[self.references[i] for i in r],
            between=self.between[np.ix_(g, r)],
            of_generated=None if self.of_generated is None else self.of_generated[np.ix_(g, g)],
            of_references=None if self.of_references is None else self.of_references[np.ix_(r, r)],
        )


def coverage(distances: SetDistances) -> float:
    """COV: share of the references that are the nearest one of some generated shape (Achlioptas et al. 2018)."""
    return len(np.unique(distances.between.argmin(axis=1))) / len(distances.references)


def minimum_matching_distance(distances: SetDistances) -> float:
    """MMD: mean over references of the distance to the nearest generated shape (Achlioptas et al. 2018)."""
    return float(distances.between.min(axis=0).mean())


def one_nn_accuracy(distances: SetDistances) -> float:
    """1-NNA: share of all shapes whose nearest other shape is of their own set; 0.5 is best (Lopez-Paz and Oquab 2017).

    Where the nearest of either set are equally far, the shape counts half.

    Raises:
        ValueError: the matrices inside the sets are not there.
    """
    if distances.of_generated is None or distances.of_references is None:
        raise ValueError("1-NN accuracy needs the distances inside both sets, not only between them")
    own = np.concatenate([_nearest_other(distances.of_generated), _nearest_other(distances.of_references)])
    foreign = np.concatenate([distances.between.min(axis=1), distances.between.min(axis=0)])
    return float(np.where(own == foreign, 0.5, own < foreign).mean())


def _nearest_other(matrix: Matrix) -> NDArray[np.float64]:
    """(N,) smallest distance to another shape of the same set."""
    return np.asarray((matrix + np.diag(np.full(len(matrix), np.inf))).min(axis=1))
