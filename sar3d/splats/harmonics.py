"""Colors of splats from their spherical harmonics, real and orthonormal, up to degree 3 (Sloan 2008)."""

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from sar3d.splats.scene import Splats

_0 = 0.5 * np.sqrt(1 / np.pi)
_1 = 0.5 * np.sqrt(3 / np.pi)
_2 = (0.5 * np.sqrt(15 / np.pi), 0.25 * np.sqrt(5 / np.pi), 0.25 * np.sqrt(15 / np.pi))
_3 = (
    0.25 * np.sqrt(35 / (2 * np.pi)),
    0.5 * np.sqrt(105 / np.pi),
    0.25 * np.sqrt(21 / (2 * np.pi)),
    0.25 * np.sqrt(7 / np.pi),
    0.25 * np.sqrt(105 / np.pi),
)


def basis(directions: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """(N, count) values at unit directions (N, 3), signed as 3D Gaussian splatting has them."""
    x, y, z = directions.T
    values = [np.full(len(x), _0), -_1 * y, _1 * z, -_1 * x]
    values += [
        _2[0] * x * y,
        -_2[0] * y * z,
        _2[1] * (3 * z * z - 1),
        -_2[0] * x * z,
        _2[2] * (x * x - y * y),
        -_3[0] * y * (3 * x * x - y * y),
        _3[1] * x * y * z,
        -_3[2] * y * (5 * z * z - 1),
        _3[3] * z * (5 * z * z - 3),
        -_3[2] * x * (5 * z * z - 1),
        _3[4] * z * (x * x - y * y),
        -_3[0] * x * (x * x - 3 * y * y),
    ]
    return np.stack(values[:count], axis=1)


def colors_of(splats: Splats, chosen: NDArray[np.int64], eye: NDArray[np.float64]) -> Float[Tensor, "M 3"]:
    """Colors, not below 0, of some splats seen from `eye` (3,)."""
    sh = splats.sh[chosen].astype(np.float64)
    away = splats.means[chosen].astype(np.float64) - eye
    away /= np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-12)
    values = basis(away @ splats.sh_frame, sh.shape[1])
    color = np.maximum(0.5 + np.einsum("nk,nkc->nc", values, sh), 0)
    return torch.from_numpy(color.astype(np.float32))
