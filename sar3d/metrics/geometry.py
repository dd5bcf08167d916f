"""How close the shape is: depth and normals as they are seen, one number per image. Unknown values are NaN, never 0."""

from dataclasses import dataclass

import torch
from einops import reduce
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F


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


def _mean_where(values: Float[Tensor, "N h w"], mask: Bool[Tensor, "N h w"]) -> Float[Tensor, "N"]:
    # Masked by selection: a value outside the mask may be infinite, and infinity times 0 is not 0.
    kept = torch.where(mask, values, torch.zeros_like(values))
    return reduce(kept, "n h w -> n", "sum") / reduce(mask.float(), "n h w -> n", "sum")
