"""The inverses of `sar3d.geometry`'s maps, written independently of it."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def cartesian_to_spherical(points: ArrayLike) -> NDArray[np.float64]:
    """(…, 3): radius, elevation and azimuth in degrees of `points` (…, 3); azimuth is 0 on the z axis."""
    x, y, z = np.moveaxis(np.asarray(points, np.float64), -1, 0)
    flat = np.hypot(x, y)
    return np.stack([np.hypot(flat, z), np.degrees(np.arctan2(z, flat)), np.degrees(np.arctan2(y, x))], axis=-1)


def back_project(depth: ArrayLike, c2w: ArrayLike, intrinsic: ArrayLike) -> NDArray[np.float64]:
    """World points (…, H, W, 3) seen at the pixel centers of z-depth images `depth` (…, H, W)."""
    z, pose = np.asarray(depth, np.float64), np.asarray(c2w, np.float64)
    height, width = z.shape[-2:]
    row, column = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
    image = np.stack([column, row, np.ones_like(row)], -1)
    local = np.einsum("...ij,hwj->...hwi", np.linalg.inv(np.asarray(intrinsic, np.float64)), image) * z[..., None]
    return np.einsum("...ij,...hwj->...hwi", pose[..., :3, :3], local) + pose[..., None, None, :3, 3]
