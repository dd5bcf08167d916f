"""Affine maps of whole meshes, in float64, and the normalization that every later stage assumes."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from sar3d.errors import ObjectError
from sar3d.meshes.scene import Scene

Y_UP_TO_Z_UP = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
"""(x, y, z) -> (x, -z, y)."""


def normalize(scene: Scene, half_extent: float = 0.45) -> tuple[Scene, NDArray[np.float64]]:
    """Turn a y-up scene z-up, center its bounding box and scale its largest half-extent to `half_extent`.

    Returns the scene and the (4, 4) float64 matrix that takes source coordinates (y up, `scene.offset` included) to
    normalized ones. Raises ObjectError `degenerate` where all points coincide.
    Source: the normalization of G-Objaverse (0.45).
    """
    low, high = scene.bounds()
    extent = float((high - low).max()) / 2
    if not (extent > 0 and np.isfinite(half_extent / extent)):
        raise ObjectError("degenerate", "all its points coincide")
    scale = half_extent / extent
    matrix = Y_UP_TO_Z_UP.copy()
    matrix[:3, :3] *= scale
    matrix[:3, 3] = -matrix[:3, :3] @ ((low + high) / 2)
    # The vertices are stored relative to the offset; adding it to them first would round their digits away.
    shift = matrix[:3, :3] @ np.asarray(scene.offset) + matrix[:3, 3]
    primitives = tuple(
        dataclasses.replace(
            p,
            positions=(p.positions.astype(np.float64) @ matrix[:3, :3].T + shift).astype(np.float32),
            normals=p.normals @ Y_UP_TO_Z_UP[:3, :3].T.astype(np.float32),
        )
        for p in scene.primitives
    )
    return dataclasses.replace(scene, primitives=primitives, offset=(0.0, 0.0, 0.0)), matrix


def cofactors(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., 3, 3): determinant x inverse transpose, which turns normals and exists for flattening maps too."""
    a, b, c = matrices[..., 0, :], matrices[..., 1, :], matrices[..., 2, :]
    return np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], axis=-2)
