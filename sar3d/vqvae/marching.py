"""Marching rays through a field: samples, their order along a ray, and mid-point compositing (published.md, rendering)."""

from dataclasses import dataclass
from typing import cast

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from sar3d.vqvae.config import VolumeConfig
from sar3d.vqvae.field import Field, SmoothField
from sar3d.vqvae.rays import RayNoise, Rays, importance, stratified, weights_of


@dataclass(frozen=True)
class Samples:
    """The field at Z points of each ray."""

    distances: Float[Tensor, "B N Z"]
    raw: Float[Tensor, "B N Z"]
    channels: Float[Tensor, "B N Z C"]
    """Color, and behind it the normal if one was asked for."""


def points_on(rays: Rays, distances: Float[Tensor, "*B N Z"]) -> Float[Tensor, "*B N Z 3"]:
    """World points at `distances` along the rays."""
    return rays.origins[..., None, :] + distances[..., None] * rays.directions[..., None, :]


def ask(
    field: Field, points: Float[Tensor, "B N 3"], normals: bool
) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N C"]]:
    """Raw densities and channels: color, and behind it the normal if one is asked for."""
    found = field.query(points)
    if not normals:
        return found.raw[..., 0], found.rgb
    outward = -cast(SmoothField, field).density_gradient(points)
    return found.raw[..., 0], torch.cat([found.rgb, unit(outward)], dim=-1)


def look(field: Field, rays: Rays, distances: Float[Tensor, "B N Z"], normals: bool) -> Samples:
    """Ask the field at `distances` along the rays."""
    raw, channels = ask(field, rearrange(points_on(rays, distances), "b n s xyz -> b (n s) xyz"), normals)
    count = distances.shape[-1]
    return Samples(
        distances=distances,
        raw=rearrange(raw, "b (n s) -> b n s", s=count),
        channels=rearrange(channels, "b (n s) c -> b n s c", s=count),
    )


def unit(vectors: Float[Tensor, "*N 3"]) -> Float[Tensor, "*N 3"]:
    """Vectors of length 1; those shorter than 1e-6, where a density is flat, fade to zero."""
    return vectors / (vectors.square().sum(-1, keepdim=True) + 1e-12).sqrt()


def merged(first: Samples, second: Samples) -> Samples:
    """Both sets of samples, ordered along each ray."""
    distances, order = torch.cat([first.distances, second.distances], dim=-1).sort(dim=-1)
    channels = torch.cat([first.channels, second.channels], dim=-2)
    return Samples(
        distances=distances,
        raw=torch.cat([first.raw, second.raw], dim=-1).gather(-1, order),
        channels=channels.gather(-2, order[..., None].expand_as(channels)),
    )


def composite(samples: Samples, weights: Float[Tensor, "B N Z-1"]) -> tuple[Tensor, Tensor, Tensor]:
    """Σw·channels (B, N, C), Σw (B, N) and Σw·t (B, N), where an interval shows the mean of its two ends."""
    half = F.pad(weights, (1, 1)) / 2
    share = half[..., 1:] + half[..., :-1]
    channels = (share[..., None] * samples.channels).sum(-2)
    return channels, weights.sum(-1), (share * samples.distances).sum(-1)


def march(
    field: Field,
    rays: Rays,
    span: tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]],
    config: VolumeConfig,
    noise: RayNoise | None,
    normals: bool,
) -> tuple[Tensor, ...]:
    """Channels, opacity, depth, first and last distance of every ray; the field is asked at every sample."""
    places = stratified(*span, config.coarse, None if noise is None else noise.stratified)
    samples = look(field, rays, places, normals)
    weights = weights_of(samples.raw, samples.distances, field)
    if config.fine:
        with torch.no_grad():
            drawn = importance(places, weights, config.fine, None if noise is None else noise.importance)
        samples = merged(samples, look(field, rays, drawn, normals))
        weights = weights_of(samples.raw, samples.distances, field)
    return *composite(samples, weights), samples.distances[..., 0], samples.distances[..., -1]
