"""How close the shape is: depth, normals, masks and surfaces as they are seen. Unknown values are NaN, never 0."""

from dataclasses import dataclass

import numpy as np
import torch
from einops import reduce
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from sar3d.vqvae.cameras import rays_of, z_depth

_POINTS = 20_000
"""Of each visible surface, at most."""


@dataclass(frozen=True)
class DepthError:
    """Depth of N images against the truth."""

    error: Float[Tensor, "N"]
    """Mean absolute difference of z-depth on the foreground that both have, in world units; NaN where there is none."""
    missing: Float[Tensor, "N"]
    """Share of the true foreground that was rendered empty; NaN where there is no foreground."""


def depth_error(
    depth: Float[Tensor, "N h w"],
    opacity: Float[Tensor, "N h w"],
    target: Float[Tensor, "N h w"],
    alpha: Float[Tensor, "N h w"],
) -> DepthError:
    """Errors of rendered z-depth (the mean over the ray, already divided by the opacity) against the target's.

    Foreground is where more than half is covered; the true one must also have a depth (0 = none).
    """
    truth = (alpha > 0.5) & (target > 0)
    common = truth & (opacity > 0.5)
    seen = reduce(truth.float(), "n h w -> n", "sum")
    return DepthError(
        error=_mean_where((depth.float() - target.float()).abs(), common),
        missing=1 - reduce(common.float(), "n h w -> n", "sum") / seen,
    )


def normal_error(
    normals: Float[Tensor, "N 3 h w"], targets: Float[Tensor, "N 3 h w"], mask: Bool[Tensor, "N h w"]
) -> Float[Tensor, "N"]:
    """Mean angle between normals under the mask, in degrees; NaN where the mask is empty.

    Neither side need be of unit length. A normal of length 0 has no direction and counts as 90 degrees.
    """
    a, b = F.normalize(normals.float(), dim=1), F.normalize(targets.float(), dim=1)
    # The arc cosine loses half of its digits near 0 degrees; the arc tangent of sine and cosine does not.
    sine = torch.linalg.vector_norm(torch.linalg.cross(a, b, dim=1), dim=1)
    cosine = reduce(a * b, "n c h w -> n h w", "sum")
    known = (sine > 0) | (cosine != 0)
    angle = torch.where(known, torch.rad2deg(torch.atan2(sine, cosine)), torch.full_like(cosine, 90.0))
    return _mean_where(angle, mask)


def mask_iou(opacity: Float[Tensor, "N h w"], target: Float[Tensor, "N h w"]) -> float:
    """Intersection over union of all views' pixels that are covered by more than half; NaN where none is."""
    ours, theirs = opacity > 0.5, target > 0.5
    union = (ours | theirs).sum()
    return float((ours & theirs).sum() / union) if union else float("nan")


def visible_chamfer(
    depth: Float[Tensor, "V h w"], target: Float[Tensor, "V h w"], cameras: Float[Tensor, "V 25"]
) -> float:
    """Mean of the two mean distances between the surfaces that V cameras see, in world units; NaN where one is not seen.

    Args:
        depth, target: z-depth at pixel centers, 0 where there is nothing.
    """
    from scipy.spatial import cKDTree  # the other distances are measured on machines without it, too

    ours, theirs = visible_points(depth, cameras), visible_points(target, cameras)
    if not len(ours) or not len(theirs):
        return float("nan")
    there, back = cKDTree(theirs).query(ours)[0], cKDTree(ours).query(theirs)[0]
    return float(there.mean() + back.mean()) / 2


def visible_points(depth: Float[Tensor, "V h w"], cameras: Float[Tensor, "V 25"]) -> NDArray[np.float32]:
    """(N, 3) world points at the centers of pixels with z-depth `depth`, spread evenly if they are many."""
    depth, cameras = depth.cpu(), cameras.cpu()
    rays = rays_of(cameras, *depth.shape[-2:])
    along = z_depth(torch.ones_like(rays.directions[..., 0]), rays.directions, cameras)
    points = rays.origins + rays.directions * (depth.flatten(1) / along)[..., None]
    seen: NDArray[np.float32] = points[depth.flatten(1) > 0].numpy()
    return seen[:: max(1, len(seen) // _POINTS)]


def _mean_where(values: Float[Tensor, "N h w"], mask: Bool[Tensor, "N h w"]) -> Float[Tensor, "N"]:
    # Masked by selection: a value outside the mask may be infinite, and infinity times 0 is not 0.
    kept = torch.where(mask, values, torch.zeros_like(values))
    return reduce(kept, "n h w -> n", "sum") / reduce(mask.float(), "n h w -> n", "sum")
