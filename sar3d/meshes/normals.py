"""Vertex normals: made where missing, repaired where broken."""

import numpy as np
from numpy.typing import NDArray

_UP = np.array([0.0, 1.0, 0.0])


def flat_geometry(
    positions: NDArray[np.floating], faces: NDArray[np.uint32]
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.uint32]]:
    """Unshare vertices so that each face has its own normal.

    Returns (source vertex of each new one (3F,), normals (3F, 3), faces (F, 3)).
    """
    order = faces.reshape(-1).astype(np.intp)
    normals = np.repeat(unit(_face_vectors(positions, faces)), 3, axis=0)
    return order, normals, np.arange(len(order), dtype=np.uint32).reshape(-1, 3)


def repaired_normals(
    normals: NDArray[np.floating], positions: NDArray[np.floating], faces: NDArray[np.uint32]
) -> tuple[NDArray[np.floating], int]:
    """Unit normals (N, 3); those that are not finite or zero become the area-weighted mean of the faces around.

    Also returns how many these were.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.square(normals, dtype=np.float64).sum(axis=1)
        good = np.isfinite(squares) & (squares > 1e-200)
        if not good.all():
            normals = np.where(good[:, None], normals, _vertex_vectors(positions, faces))
            return unit(normals.astype(np.float64)), int((~good).sum())
    if np.abs(squares - 1.0).max(initial=0.0) < 1e-5:
        return normals, 0
    return normals / np.sqrt(squares)[:, None], 0


def unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit vectors (N, 3); +y for a zero vector, such as a degenerate face's, which covers no pixel."""
    # Two steps: squares of tiny areas would underflow.
    greatest = np.abs(vectors).max(axis=1, keepdims=True)
    zero = ~(greatest > 0)
    vectors = vectors / np.where(zero, 1.0, greatest)
    length = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
    return np.where(zero, _UP, vectors / np.where(zero, 1.0, length))


def _face_vectors(positions: NDArray[np.floating], faces: NDArray[np.uint32]) -> NDArray[np.float64]:
    """(F, 3) normals as long as twice the face's area."""
    a, b, c = (positions[faces[:, i]].astype(np.float64) for i in range(3))
    return np.cross(b - a, c - a)


def _vertex_vectors(positions: NDArray[np.floating], faces: NDArray[np.uint32]) -> NDArray[np.float64]:
    vectors = _face_vectors(positions, faces)
    corners = faces.reshape(-1)
    spread = np.repeat(vectors, 3, axis=0)
    return np.stack([np.bincount(corners, spread[:, i], len(positions)) for i in range(3)], axis=1)
