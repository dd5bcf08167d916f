"""Samples on rays and what they weigh: stratified places, transmittance, importance sampling (published.md, rendering)."""

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from sar3d.vqvae.config import VolumeConfig
from sar3d.vqvae.field import Field

MissingRays = Literal["skip", "published"]

_FLOOR = 0.01
"""Added to every bin's weight before importance sampling, so that no part of a ray is never looked at."""


@dataclass(frozen=True)
class Rays:
    """N rays for each of B objects."""

    origins: Float[Tensor, "B N 3"]
    """In the world."""
    directions: Float[Tensor, "B N 3"]
    """Unit length, in the world."""

    def flat(self) -> "Rays":
        """All of them as the rays of one object, (1, B·N)."""
        return Rays(*(rearrange(part, "b n c -> 1 (b n) c") for part in (self.origins, self.directions)))

    def part(self, which: slice) -> "Rays":
        """Some of the rays of each object."""
        return Rays(self.origins[:, which], self.directions[:, which])


@dataclass(frozen=True)
class RayNoise:
    """The random numbers of a rendering, uniform in [0, 1)."""

    stratified: Float[Tensor, "B N coarse"]
    """Place of each coarse sample within its step."""
    importance: Float[Tensor, "B N fine"]
    """Where each fine sample falls in the distribution that the coarse ones give."""

    @staticmethod
    def draw(
        objects: int, rays: int, config: VolumeConfig, generator: torch.Generator, device: torch.device
    ) -> "RayNoise":
        """Fresh numbers, drawn on the generator's device."""
        drawn = torch.rand(objects, rays, config.coarse + config.fine, generator=generator, device=generator.device)
        coarse, fine = drawn.to(device).split((config.coarse, config.fine), dim=-1)
        return RayNoise(stratified=coarse, importance=fine)

    def part(self, which: slice) -> "RayNoise":
        """The numbers of some of the rays of each object."""
        return RayNoise(self.stratified[:, which], self.importance[:, which])


_DARK = 40.0
"""Optical depth at which nothing is left to see (4e-18). Beyond it products become denormal, which makes a CPU slow."""


def slab_span(
    rays: Rays, low: float | Float[Tensor, "B 1 3"], high: float | Float[Tensor, "B 1 3"]
) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]]:
    """Distances at which rays enter and leave the box from `low` to `high`; near >= far where they miss."""
    inverse = 1 / rays.directions
    first, second = (low - rays.origins) * inverse, (high - rays.origins) * inverse
    # A ray parallel to a slab gives ±inf, or NaN when it runs in the slab's face: then the slab does not bound it.
    near = torch.minimum(first, second).nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf).amax(-1)
    far = torch.maximum(first, second).nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf).amin(-1)
    return near.clamp(min=0), far


def march_span(rays: Rays, side: float, missing_rays: MissingRays) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]]:
    """Distances between which rays are marched. Rays that miss the cube get the length 0 ("skip").

    "published": they get the smallest and the largest *entry* of the rays of the batch that hit.
    """
    near, far = slab_span(rays, -side / 2, side / 2)
    missed = near >= far
    if missing_rays == "skip":
        return torch.where(missed, 0.0, near), torch.where(missed, 0.0, far)
    entries = near[~missed]
    if entries.numel() == 0:
        return torch.zeros_like(near), torch.zeros_like(far)
    return torch.where(missed, entries.min(), near), torch.where(missed, entries.max(), far)


def stratified(
    near: Float[Tensor, "B N"], far: Float[Tensor, "B N"], count: int, noise: Float[Tensor, "B N Z"] | None
) -> Float[Tensor, "B N Z"]:
    """Distances near + (i + U)·(far - near)/(count - 1); U = 0.5 without noise. The last one may exceed far."""
    steps = torch.arange(count, dtype=near.dtype, device=near.device)
    place = steps + (0.5 if noise is None else noise)
    return near[..., None] + place * ((far - near) / (count - 1))[..., None]


def weights_of(
    raw: Float[Tensor, "B N Z"], distances: Float[Tensor, "B N Z"], field: Field
) -> Float[Tensor, "B N Z-1"]:
    """Share of the light stopped between neighboring samples, w_i = T_i - T_(i+1) with T = exp(-optical depth).

    The density of an interval is that of the mean raw density of its ends.
    """
    middle = (raw[..., 1:] + raw[..., :-1]) / 2
    depth = (field.density(middle) * distances.diff(dim=-1)).cumsum(-1)
    transmittance = torch.exp(-depth.clamp(max=_DARK))
    return torch.cat([1 - transmittance[..., :1], -transmittance.diff(dim=-1)], dim=-1)


def importance(
    distances: Float[Tensor, "B N Z"],
    weights: Float[Tensor, "B N Z-1"],
    count: int,
    noise: Float[Tensor, "B N fine"] | None,
) -> Float[Tensor, "B N fine"]:
    """Distances drawn where the coarse samples found density, by inverting the cumulated weights of the inner bins.

    Weights are first spread to their neighbors (maximum, then mean, of pairs). Without noise u = (i + 0.5)/count.
    """
    edge = weights[..., :1] * 0
    pairs = torch.maximum(torch.cat([edge, weights], -1), torch.cat([weights, edge], -1))
    spread = (pairs[..., 1:] + pairs[..., :-1]) / 2 + _FLOOR
    bins = (distances[..., 1:] + distances[..., :-1]) / 2
    inner = spread[..., 1:-1] + 1e-5
    cdf = (inner / inner.sum(-1, keepdim=True)).cumsum(-1)
    cdf = torch.cat([torch.zeros_like(edge), cdf], dim=-1)
    if noise is None:
        u = ((torch.arange(count, dtype=cdf.dtype, device=cdf.device) + 0.5) / count).expand(*cdf.shape[:-1], count)
    else:
        u = noise
    above = torch.searchsorted(cdf, u.contiguous(), right=True)
    below = (above - 1).clamp(min=0)
    above = above.clamp(max=cdf.shape[-1] - 1)
    low, high = cdf.gather(-1, below), cdf.gather(-1, above)
    start, end = bins.gather(-1, below), bins.gather(-1, above)
    width = high - low
    share = (u - low) / torch.where(width < 1e-5, 1.0, width)
    return start + share * (end - start)
