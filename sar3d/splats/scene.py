"""A set of Gaussian splats in the world, and the maps that place it."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

SH_COUNTS = (1, 4, 9, 16)
"""Coefficients per color of spherical harmonics of degree 0 to 3."""


@dataclass(frozen=True)
class Splats:
    """N Gaussians (Kerbl et al. 2023). Covariances stand for scales and rotations, so that mirrored splats are splats."""

    means: Floats
    """(N, 3)"""
    covariances: Floats
    """(N, 3, 3)"""
    opacities: Floats
    """(N,) in [0, 1]."""
    sh: Floats
    """(N, K, 3) coefficients of the color, K of `SH_COUNTS`; of degree 0 the color is 0.5 + 0.2821 · sh."""
    sh_frame: NDArray[np.float64]
    """(3, 3) orthogonal: a direction d of the world is `sh_frame.T @ d` in the frame of the coefficients."""

    def placed(self, matrix: NDArray[np.float64]) -> "Splats":
        """Moved by a similarity (4, 4), which may mirror.

        Raises:
            ValueError: the matrix stretches differently along different directions.
        """
        linear = np.asarray(matrix, np.float64)[:3, :3]
        scale = abs(np.linalg.det(linear)) ** (1 / 3)
        if not scale > 0 or not np.allclose(linear @ linear.T, scale**2 * np.eye(3), atol=1e-6 * scale**2):
            raise ValueError("splats are placed by rotations, mirrorings, scales and shifts alone")
        return replace(
            self,
            means=(self.means.astype(np.float64) @ linear.T + matrix[:3, 3]).astype(np.float32),
            covariances=(linear @ self.covariances.astype(np.float64) @ linear.T).astype(np.float32),
            sh_frame=linear / scale @ self.sh_frame,
        )

    def bounds(self, opacity: float = 0.05) -> NDArray[np.float64]:
        """(2, 3): the corners of the box of the centers that are more opaque than `opacity`, or of all if none is."""
        solid = self.opacities > opacity
        centers = self.means[solid] if solid.any() else self.means
        return np.stack([centers.min(axis=0), centers.max(axis=0)]).astype(np.float64)
