"""From the world to pixels, differentiable."""

import torch
from jaxtyping import Float
from torch import Tensor

NEAR = 1e-6
"""Depth from which points lie in front of a camera."""


def to_screen(
    vertices: Float[Tensor, "N 3"],
    c2w: Float[Tensor, "V 4 4"],
    intrinsics: Float[Tensor, "V 3 3"],
    height: int,
    width: int,
) -> Float[Tensor, "V N 3"]:
    """Pixel coordinates x (to the right), y (down) and z-depth of world points in V pictures.

    The center of pixel (row i, column j) is at (j + 0.5, i + 0.5). Points that are not in front of the camera keep their
    depth; their x and y mean nothing.

    Args:
        c2w: OpenCV camera-to-world matrices.
        intrinsics: normalized by the picture's size, see `sar3d.geometry`.
    """
    pose, lens = c2w.to(vertices.dtype), intrinsics.to(vertices.dtype)
    offset = vertices - pose[:, None, :3, 3]
    # Written out: a matrix product would run in half precision under autocast.
    x, y, z = ((offset * pose[:, None, :3, axis]).sum(-1) for axis in range(3))
    depth = torch.where(z > NEAR, z, 1.0)
    k = lens[:, :, :, None]
    column = k[:, 0, 0] * x / depth + k[:, 0, 1] * y / depth + k[:, 0, 2]
    row = k[:, 1, 1] * y / depth + k[:, 1, 2]
    return torch.stack([column * width, row * height, z], dim=-1)
