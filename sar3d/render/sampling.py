"""Where all renderers take their samples, and how samples become pixels.

An H x W picture is made from (2H + 1) x (2W + 1) samples half a pixel apart, such that sample (2i + 1, 2j + 1) is
exactly the center of pixel (i, j) and the outermost samples lie on the picture's border. Depth and normal of a pixel are
its center sample's. Its color and alpha are the 3 x 3 samples around the center under a tent, (1 2 1) x (1 2 1) / 16, on
linear light multiplied with alpha. Compared with averaging 2 x 2 samples per pixel this needs no more samples, has one
that lies on the center, and filters wider, so that fine textures alias less.
"""

import numpy as np
from numpy.typing import NDArray

from sar3d.render.lighting import srgb_encode

Rect = tuple[int, int, int, int]
"""First row, first column, last row + 1, last column + 1, in pixels."""


def samples(resolution: int) -> int:
    """Samples along one side of a picture of `resolution` pixels."""
    return 2 * resolution + 1


def sample_projection(
    c2w: NDArray[np.float64], intrinsics: NDArray[np.float64], resolution: int, near: float, far: float
) -> NDArray[np.float64]:
    """(4, 4) world → OpenGL clip space of the sample image, whose first row in memory is the picture's top."""
    n = samples(resolution)
    to_window = np.array([[2 * resolution / n, 0, 0.5 / n], [0, 2 * resolution / n, 0.5 / n], [0, 0, 1]])
    rows = to_window @ intrinsics
    clip = np.zeros((4, 4))
    clip[0, :3] = 2 * rows[0] - rows[2]
    clip[1, :3] = 2 * rows[1] - rows[2]
    clip[2, 2:] = (far + near) / (far - near), -2 * far * near / (far - near)
    clip[3, 2] = 1
    return clip @ np.linalg.inv(c2w)


def sample_rays(
    c2w: NDArray[np.float64], intrinsics: NDArray[np.float64], resolution: int, rect: Rect
) -> NDArray[np.float64]:
    """(2h + 1, 2w + 1, 3) world ray directions of the samples of the rectangle's pixels.

    They are of unit length along the camera's forward axis: origin + z * direction is the point at depth z.
    """
    top, left, bottom, right = rect
    v = np.arange(2 * top, 2 * bottom + 1) / (2 * resolution)
    u = np.arange(2 * left, 2 * right + 1) / (2 * resolution)
    uv1 = np.stack([*np.meshgrid(u, v), np.ones((len(v), len(u)))], axis=-1)
    return uv1 @ np.linalg.inv(intrinsics).T @ c2w[:3, :3].T


def covered_rect(
    bounds: NDArray[np.float64], c2w: NDArray[np.float64], intrinsics: NDArray[np.float64], resolution: int
) -> Rect:
    """The pixels outside which nothing of the box `bounds` (2, 3) can be seen; the whole picture if the box reaches the
    camera's plane."""
    corners = np.stack(np.meshgrid(*bounds.T, indexing="ij"), axis=-1).reshape(8, 3)
    camera = (corners - c2w[:3, 3]) @ c2w[:3, :3]
    if camera[:, 2].min() <= 1e-3:
        return 0, 0, resolution, resolution
    homogeneous = camera @ intrinsics.T
    uv = homogeneous[:, :2] / homogeneous[:, 2:] * resolution
    low = np.clip(np.floor(uv.min(axis=0)) - 2, 0, resolution).astype(int)
    high = np.clip(np.ceil(uv.max(axis=0)) + 2, 0, resolution).astype(int)
    return int(low[1]), int(low[0]), int(high[1]), int(high[0])


def covered_by_points(
    points: NDArray[np.float32], c2w: NDArray[np.float64], intrinsics: NDArray[np.float64], resolution: int
) -> Rect:
    """Like `covered_rect`, from the vertices (4, N), homogeneous, of the triangles: dearer, and a fifth tighter in area."""
    project = intrinsics @ np.linalg.inv(c2w)[:3] * np.array([[resolution], [resolution], [1.0]])
    x, y, z = project.astype(np.float32) @ points
    if z.min() <= 1e-3:
        return 0, 0, resolution, resolution
    x /= z
    y /= z
    low = [int(np.clip(np.floor(a.min()) - 2, 0, resolution)) for a in (y, x)]
    high = [int(np.clip(np.ceil(a.max()) + 2, 0, resolution)) for a in (y, x)]
    return low[0], low[1], high[0], high[1]


def tent(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """(2H + 1, 2W + 1, C) samples → (H, W, C)."""
    rows = values[0:-2:2] + 2 * values[1:-1:2] + values[2::2]
    filtered: NDArray[np.floating] = (rows[:, 0:-2:2] + 2 * rows[:, 1:-1:2] + rows[:, 2::2]) / 16
    return filtered


def resolve(color: NDArray[np.floating]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(2H + 1, 2W + 1, 4) linear light times alpha, and alpha → (H, W, 3) sRGB on white, (H, W) alpha.

    The filter works in linear light; laying the result over white works in sRGB values, as every image program and the
    training's volume renderer do, so that the picture's color can be had back from picture and alpha.
    """
    mean = tent(color)
    alpha = mean[..., 3:]
    encoded = srgb_encode(np.clip(mean[..., :3] / np.maximum(alpha, 1e-6), 0, 1))
    rgb = encoded * alpha + (1 - alpha)
    return to_bytes(rgb), to_bytes(alpha[..., 0])


def to_bytes(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """[0, 1] → 0..255, to the nearest."""
    return (np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8)
