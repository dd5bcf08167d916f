"""Cameras as arrays: poses, pinhole intrinsics, pixel rays and Plücker coordinates.

World axes are right-handed with z up. Cameras follow OpenCV (x right, y down, z forward); a pose is a camera-to-world
matrix `c2w`. Intrinsics are normalized by the image size, so that they hold at every resolution: pixel (row i,
column j) has its center at ((j + 0.5) / W, (i + 0.5) / H). Everything is NumPy; leading axes "…" broadcast.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

_PARALLEL = 1e-9
"""Sine below which a viewing direction counts as vertical; roll is then no longer defined by "z is up"."""


def spherical_to_cartesian(radius: ArrayLike, elevation: ArrayLike, azimuth: ArrayLike) -> NDArray[np.float64]:
    """Points (…, 3) at `radius`, `elevation` above the xy plane and `azimuth` from +x towards +y, in degrees."""
    r, e, a = np.broadcast_arrays(
        np.asarray(radius, np.float64), np.radians(np.asarray(elevation)), np.radians(np.asarray(azimuth))
    )
    return np.stack([r * np.cos(e) * np.cos(a), r * np.cos(e) * np.sin(a), r * np.sin(e)], axis=-1)


def look_at(eye: ArrayLike, target: ArrayLike = (0.0, 0.0, 0.0)) -> NDArray[np.float64]:
    """Camera-to-world matrices (…, 4, 4), float64, det +1, of cameras at `eye` (…, 3) looking at `target` (…, 3).

    The world's z axis points up in the image. Where the view is vertical that says nothing, and the image is what
    tilting a camera in front of the object (at -y) gives in the limit: x points right in both; seen from the top the
    image's upper edge lies towards +y, seen from the bottom towards -y.

    Raises:
        ValueError: an eye lies at its target.
    """
    position, aim = np.broadcast_arrays(np.asarray(eye, np.float64), np.asarray(target, np.float64))
    forward = aim - position
    distance = np.linalg.norm(forward, axis=-1, keepdims=True)
    if not np.all(distance > 0):
        raise ValueError("a camera's eye and target coincide")
    forward = forward / distance
    right = np.cross(forward, [0.0, 0.0, 1.0])
    length = np.linalg.norm(right, axis=-1, keepdims=True)
    vertical = length < _PARALLEL
    right = np.where(vertical, [1.0, 0.0, 0.0], right / np.where(vertical, 1.0, length))
    down = np.cross(forward, right)
    c2w = np.zeros((*position.shape[:-1], 4, 4))
    c2w[..., :3, :] = np.stack([right, down, forward, position], axis=-1)
    c2w[..., 3, 3] = 1.0
    return c2w


def intrinsics(fov: float) -> NDArray[np.float64]:
    """Normalized pinhole matrix (3, 3) of a square image with `fov` degrees from edge to edge (39.6 -> f = 1.3888).

    Raises:
        ValueError: `fov` does not lie between 0 and 180 degrees.
    """
    if not 0 < fov < 180:
        raise ValueError(f"a field of view lies between 0 and 180 degrees, not at {fov}")
    focal = 0.5 / np.tan(np.radians(fov) / 2)
    return np.array([[focal, 0.0, 0.5], [0.0, focal, 0.5], [0.0, 0.0, 1.0]])


def _pixel_directions(intrinsic: ArrayLike, height: int, width: int) -> NDArray[np.float64]:
    """(…, H, W, 3): directions through the pixel centers in the camera's frame, scaled to z = 1."""
    k = np.asarray(intrinsic, np.float64)[..., None, None, :, :]
    u = (np.arange(width) + 0.5) / width
    v = ((np.arange(height) + 0.5) / height)[:, None]
    y = np.broadcast_to((v - k[..., 1, 2]) / k[..., 1, 1], (*k.shape[:-4], height, width))
    x = (u - k[..., 0, 2] - k[..., 0, 1] * y) / k[..., 0, 0]
    return np.stack([x, y, np.ones_like(y)], axis=-1)


def _rotated(local: NDArray[np.float64], c2w: NDArray[np.float64]) -> NDArray[np.float64]:
    """(…, H, W, 3): camera-frame vectors in the world. One product over all pixels, tenfold faster than einsum."""
    *lead, height, width, _ = local.shape
    world = local.reshape(*lead, height * width, 3) @ np.swapaxes(c2w[..., :3, :3], -1, -2)
    return world.reshape(*world.shape[:-2], height, width, 3)


def camera_rays(
    c2w: ArrayLike, intrinsic: ArrayLike, height: int, width: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Origins and unit directions, each (…, H, W, 3) in the world, of the rays through the pixel centers.

    `c2w` is (…, 4, 4), `intrinsic` (…, 3, 3), normalized.
    """
    pose = np.asarray(c2w, np.float64)
    local = _pixel_directions(intrinsic, height, width)
    local /= np.linalg.norm(local, axis=-1, keepdims=True)
    directions = _rotated(local, pose)
    origins = np.broadcast_to(pose[..., None, None, :3, 3], directions.shape)
    return origins, directions


def project(points: ArrayLike, c2w: ArrayLike, intrinsic: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Image coordinates (…, N, 2) in units of the image size (0 left or top, 1 right or bottom) and z-depths (…, N).

    `points` is (…, N, 3) in the world, `c2w` (…, 4, 4), `intrinsic` (…, 3, 3). Points with depth <= 0 lie behind the
    camera; their coordinates mean nothing.
    """
    pose = np.asarray(c2w, np.float64)
    relative = np.asarray(points, np.float64) - pose[..., None, :3, 3]
    local = np.einsum("...ji,...nj->...ni", pose[..., :3, :3], relative)
    image = np.einsum("...ij,...nj->...ni", np.asarray(intrinsic, np.float64), local)
    depth = local[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        return image[..., :2] / depth[..., None], depth
