"""Pixel rays of cameras, in torch; the counterpart of `sar3d.geometry` for training and rendering."""

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from sar3d.vqvae.rays import Rays


def matrices(cameras: Float[Tensor, "*V 25"]) -> tuple[Float[Tensor, "*V 4 4"], Float[Tensor, "*V 3 3"]]:
    """Camera-to-world matrices and normalized intrinsics of 25-vectors (published.md, data)."""
    pose, intrinsic = cameras.split((16, 9), dim=-1)
    return pose.unflatten(-1, (4, 4)), intrinsic.unflatten(-1, (3, 3))


def all_pixels(height: int, width: int, device: torch.device | None = None) -> Int[Tensor, "H*W 2"]:
    """(row, column) of every pixel in raster order."""
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    return torch.cartesian_prod(rows, columns)


def rays_of(
    cameras: Float[Tensor, "*V 25"], height: int, width: int, pixels: Int[Tensor, "*V N 2"] | None = None
) -> Rays:
    """Rays (…, N, 3) through the centers of pixels of images of `height` × `width`.

    Args:
        cameras: 16 numbers camera-to-world, 9 normalized intrinsics; OpenCV axes.
        pixels: (row, column) of the pixels wanted; None: all, in raster order (N = H·W).

    Origins are the cameras' centers, directions have unit length; both in the world.
    """
    pose, k = matrices(cameras)
    if pixels is None:
        pixels = all_pixels(height, width, cameras.device)
    v = (pixels[..., 0] + 0.5) / height
    u = (pixels[..., 1] + 0.5) / width
    k = k[..., None, :, :]
    y = (v - k[..., 1, 2]) / k[..., 1, 1]
    x = (u - k[..., 0, 2] - k[..., 0, 1] * y) / k[..., 0, 0]
    local = torch.nn.functional.normalize(torch.stack([x, y, torch.ones_like(x)], dim=-1), dim=-1)
    # Written out: a matrix product would run in half precision under autocast.
    directions = (pose[..., None, :3, :3] * local[..., None, :]).sum(-1)
    return Rays(origins=pose[..., None, :3, 3].expand_as(directions), directions=directions)


def _cosine(directions: Float[Tensor, "*V N 3"], cameras: Float[Tensor, "*V 25"]) -> Float[Tensor, "*V N"]:
    """Of the angle between rays and their camera's axis."""
    forward = matrices(cameras)[0][..., :3, 2]
    return (directions * rearrange(forward, "... xyz -> ... 1 xyz")).sum(-1)


def z_depth(
    distance: Float[Tensor, "*V N"], directions: Float[Tensor, "*V N 3"], cameras: Float[Tensor, "*V 25"]
) -> Float[Tensor, "*V N"]:
    """Depth along the camera's axis of points at `distance` along unit `directions`."""
    return distance * _cosine(directions, cameras)
