"""Volume rendering of a field: stratified and importance samples on each ray, mid-point compositing (published.md, rendering)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sar3d.vqvae.config import VolumeConfig
from sar3d.vqvae.field import Field
from sar3d.vqvae.marching import march
from sar3d.vqvae.occupancy import Occupancy, march_occupied
from sar3d.vqvae.rays import MissingRays, RayNoise, Rays, march_span

__all__ = [
    "MissingRays",
    "RayNoise",
    "Rays",
    "Rendering",
    "published_depth",
    "published_image",
    "published_mask",
    "render",
]

_AUTOMATIC = {"cpu": 1 << 18, "cuda": 1 << 20}
"""Samples in flight when nobody asked for a chunk and no gradient is needed: more are not faster."""


@dataclass(frozen=True)
class Rendering:
    """What N rays of each of B objects see."""

    rgb: Float[Tensor, "B N 3"]
    """Color on white, in [0, 1] (to within 0.001)."""
    opacity: Float[Tensor, "B N"]
    """Σw, the share of light that the object stops."""
    depth: Float[Tensor, "B N"]
    """Σw·t, t the distance along the ray from its origin. Divided by `opacity` it is the expected distance."""
    normal: Float[Tensor, "B N 3"] | None
    """Σw·n, n = -∇σ/|∇σ|, in the world; shorter than 1 where the ray meets more than one direction. None unless asked."""
    first: Float[Tensor, "B N"]
    """Distance of the first sample; 0 on rays that were not marched."""
    last: Float[Tensor, "B N"]
    """Distance of the last sample; 0 on rays that were not marched."""


def published_image(rendering: Rendering) -> Float[Tensor, "B N 3"]:
    """The published picture: colors in [-1, 1]."""
    return rendering.rgb * 2 - 1


def published_depth(rendering: Rendering) -> Float[Tensor, "B N"]:
    """The published depth: Σw·t, not divided by the opacity, clamped to the distances sampled in the whole batch."""
    return rendering.depth.clamp(rendering.first.min(), rendering.last.max())


def published_mask(rendering: Rendering) -> Float[Tensor, "B N"]:
    """The published mask: the opacity widened by 0.001 on both sides."""
    return rendering.opacity * 1.002 - 0.001


def render(
    field: Field,
    rays: Rays,
    config: VolumeConfig,
    *,
    generator: torch.Generator | None = None,
    noise: RayNoise | None = None,
    chunk: int | None = None,
    occupancy: Occupancy | None = None,
    normals: bool = False,
    missing_rays: MissingRays = "skip",
) -> Rendering:
    """What rays see of a field.

    Args:
        field: of B objects; with `normals` it must have a `density_gradient`.
        generator: jitters the samples; without it and without `noise` they lie in the middle of their steps.
        noise: the jitter itself.
        chunk: rays of each object marched at a time. With gradients each chunk is marched again in the backward pass,
            so that memory is that of one chunk. None marches all at once, or, where no gradient is needed, as many as
            fit in little memory.
        occupancy: of this field; space it knows to be empty is not looked at, nor what lies behind an opaque surface.
            Only without gradients, and with `missing_rays="skip"`.
        normals: composite normals as well.
        missing_rays: "skip" leaves rays that miss the cube white; "published" marches them as the published system.

    Raises:
        ValueError: `occupancy` is given where it cannot be used.
    """
    if occupancy is not None and (torch.is_grad_enabled() or missing_rays != "skip"):
        raise ValueError("empty space is skipped only without gradients and with missing rays skipped")
    batch, count, _ = rays.origins.shape
    if generator is not None:
        noise = RayNoise.draw(batch, count, config, generator, rays.origins.device)
    span = march_span(rays, field.side, missing_rays)
    if chunk is None:
        samples = _AUTOMATIC.get(rays.origins.device.type, 1 << 20) // max(config.coarse, config.fine)
        chunk = count if torch.is_grad_enabled() else max(1, samples // batch)
    return _rendering(_marched(field, rays, span, config, noise, normals, occupancy, chunk), normals)


def _marched(
    field: Field,
    rays: Rays,
    span: tuple[Tensor, Tensor],
    config: VolumeConfig,
    noise: RayNoise | None,
    normals: bool,
    occupancy: Occupancy | None,
    chunk: int,
) -> tuple[Tensor, ...]:
    """What `sar3d.vqvae.marching.march` gives for all rays, marched in chunks of this many of each object."""
    count = rays.origins.shape[1]

    def part(start: int) -> tuple[Tensor, ...]:
        piece = slice(start, start + chunk)
        near_far = (span[0][:, piece], span[1][:, piece])
        given = (field, rays.part(piece), near_far, config, None if noise is None else noise.part(piece), normals)
        if occupancy is not None:
            return march_occupied(occupancy, *given)
        if not torch.is_grad_enabled() or chunk >= count:
            return march(*given)
        again: tuple[Tensor, ...] = checkpoint(march, *given, use_reentrant=False, preserve_rng_state=False)
        return again

    parts = [part(start) for start in range(0, count, chunk)]
    return tuple(torch.cat(found, dim=1) for found in zip(*parts, strict=True))


def _rendering(marched: tuple[Tensor, ...], normals: bool) -> Rendering:
    channels, opacity, depth, first, last = marched
    return Rendering(
        rgb=channels[..., :3] + (1 - opacity)[..., None],
        opacity=opacity,
        depth=depth,
        normal=channels[..., 3:] if normals else None,
        first=first,
        last=last,
    )
