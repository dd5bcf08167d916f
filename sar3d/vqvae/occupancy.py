"""Where a field is empty, and marching rays without looking there; for whole images, without gradients."""

import math
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from sar3d.vqvae.config import VolumeConfig
from sar3d.vqvae.field import EMPTY, Field
from sar3d.vqvae.marching import Samples, ask, composite, merged, points_on
from sar3d.vqvae.rays import RayNoise, Rays, importance, slab_span, stratified, weights_of

OPAQUE = 1e-4
"""Transmittance below which nothing behind is looked at."""

_POINTS = 1 << 18
"""Points of the grid asked at a time."""


@dataclass(frozen=True)
class Occupancy:
    """A grid over the cube of each of B objects that knows which cells are empty."""

    raw: Float[Tensor, "B X X X"]
    """Raw density in the middle of each empty cell, axes x, y, z; infinite where the field must be asked."""
    low: Float[Tensor, "B 3"]
    """Lower corner of the box around all cells that are not empty; above `high` if there are none."""
    high: Float[Tensor, "B 3"]
    """Its upper corner."""
    side: float
    """Side of the cube."""

    @property
    def occupied(self) -> Bool[Tensor, "B X X X"]:
        """Cells where the field must be asked."""
        return self.raw.isinf()

    def at(self, objects: Int[Tensor, "M"], points: Float[Tensor, "M Z 3"]) -> Float[Tensor, "M Z"]:
        """What the grid knows at points of objects: `raw`, and `EMPTY` outside the cube."""
        resolution = self.raw.shape[-1]
        cells = (points * (resolution / self.side) + resolution / 2).floor_().int()
        inside = ((cells >= 0) & (cells < resolution)).all(-1)
        x, y, z = cells.clamp_(0, resolution - 1).unbind(-1)
        flat = ((objects.int()[:, None] * resolution + x) * resolution + y) * resolution + z
        known = self.raw.flatten().index_select(0, flat.flatten()).view(flat.shape)
        return torch.where(inside, known, EMPTY)


@torch.no_grad()
def occupancy_of(
    field: Field,
    objects: int = 1,
    resolution: int = 128,
    tolerance: float = 1e-2,
    device: torch.device | str = "cpu",
) -> Occupancy:
    """Find the empty cells of a field of B = `objects` objects.

    Args:
        resolution: cells along a side.
        tolerance: a cell is empty if a ray through the whole cube at the density of that cell and of all its
            neighbors would lose no more than about this share of its light. Rays that meet only empty cells are white.
    """
    side = field.side
    middles = ((torch.arange(resolution, device=device) + 0.5) / resolution - 0.5) * side
    parts = []
    for slab in middles.split(max(1, _POINTS // resolution**2)):
        grid = torch.cartesian_prod(slab, middles, middles)
        parts.append(field.query(repeat(grid, "n xyz -> b n xyz", b=objects)).raw[..., 0])
    raw = rearrange(torch.cat(parts, dim=1), "b (x y z) -> b x y z", x=resolution, y=resolution)
    around = F.max_pool3d(raw[:, None], kernel_size=3, stride=1, padding=1)[:, 0]
    occupied = field.density(around) * side > tolerance
    cell = side / resolution
    low, high = [], []
    for axes in ((2, 3), (1, 3), (1, 2)):
        line = occupied.any(axes[1]).any(axes[0])
        low.append(torch.where(line, middles, torch.inf).amin(-1) - cell / 2)
        high.append(torch.where(line, middles, -torch.inf).amax(-1) + cell / 2)
    return Occupancy(
        raw=raw.masked_fill(occupied, torch.inf), low=torch.stack(low, -1), high=torch.stack(high, -1), side=side
    )


def ask_some(
    field: Field, owners: Int[Tensor, "M"], points: Float[Tensor, "M 3"], objects: int, normals: bool
) -> tuple[Float[Tensor, "M"], Float[Tensor, "M C"]]:
    """`ask` at points of objects `owners`, which ascend; a field takes as many points of each object."""
    if objects == 1:
        raw, channels = ask(field, points[None], normals)
        return raw[0], channels[0]
    counts = torch.bincount(owners, minlength=objects)
    place = torch.arange(len(owners), device=owners.device) - (counts.cumsum(0) - counts)[owners]
    packed = points.new_zeros(objects, int(counts.max()), 3)
    packed[owners, place] = points
    raw, channels = ask(field, packed, normals)
    return raw[owners, place], channels[owners, place]


@dataclass(frozen=True)
class _Strand:
    """K of the rays, one after the other, whatever object they belong to."""

    numbers: Int[Tensor, "M"]
    """Among all B·N rays."""
    owners: Int[Tensor, "M"]
    """Their objects."""
    rays: Rays
    """(K, 3) each."""

    def where(self, keep: Bool[Tensor, "M"]) -> "_Strand":
        rays = Rays(self.rays.origins[keep], self.rays.directions[keep])
        return _Strand(self.numbers[keep], self.owners[keep], rays)


def _meeting(occupancy: Occupancy, rays: Rays) -> _Strand:
    """The rays that meet the box around what is there."""
    count = rays.origins.shape[1]
    near, far = slab_span(rays, occupancy.low[:, None], occupancy.high[:, None])
    numbers = (near < far).flatten().nonzero().squeeze(-1)
    flat = Rays(*(rearrange(part, "b n xyz -> (b n) xyz")[numbers] for part in (rays.origins, rays.directions)))
    return _Strand(numbers=numbers, owners=numbers // count, rays=flat)


def _fill(
    field: Field, strand: _Strand, samples: Samples, points: Tensor, wanted: Bool[Tensor, "M Z"], objects: int
) -> None:
    """Ask the field at the wanted points and enter the answers into the samples."""
    owners = strand.owners[:, None].expand_as(wanted)[wanted]
    raw, channels = ask_some(field, owners, points[wanted], objects, samples.channels.shape[-1] > 3)
    samples.raw[wanted] = raw
    samples.channels[wanted] = channels


def _front_to_back(
    field: Field, strand: _Strand, samples: Samples, points: Tensor, unknown: Bool[Tensor, "M Z"], objects: int
) -> None:
    """Ask the field at unknown samples, on each ray from the front, until the ray is opaque.

    The optical depth that stops a ray is a lower bound: each interval counts with the thinner of its two ends.
    """
    rank = unknown.cumsum(-1)
    steps = samples.distances.diff(dim=-1)
    depth = samples.distances.new_zeros(len(unknown))
    start, batch = 0, 4
    while (rank > start).any():
        open_rays = (depth < -math.log(OPAQUE))[:, None]
        wanted = unknown & (rank > start) & (rank <= start + batch) & open_rays
        if not wanted.any():
            return
        _fill(field, strand, samples, points, wanted, objects)
        ray, place = (wanted[:, 1:]).nonzero(as_tuple=True)
        thinner = torch.minimum(samples.raw[ray, place], samples.raw[ray, place + 1])
        depth.index_add_(0, ray, field.density(thinner) * steps[ray, place])
        start, batch = start + batch, 2 * batch


def march_occupied(
    occupancy: Occupancy,
    field: Field,
    rays: Rays,
    span: tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]],
    config: VolumeConfig,
    noise: RayNoise | None,
    normals: bool,
) -> tuple[Tensor, ...]:
    """`march` with the same samples, of which only those are asked that lie in occupied cells and can be seen."""
    objects, count = span[0].shape
    near, far = span[0].flatten(), span[1].flatten()
    strand = _meeting(occupancy, rays)
    jitter = None if noise is None else noise.stratified.flatten(0, 1)[strand.numbers]
    distances = stratified(near[strand.numbers], far[strand.numbers], config.coarse, jitter)
    points = points_on(strand.rays, distances)
    known = occupancy.at(strand.owners, points)
    hit = known.isinf().any(-1)
    strand, distances, points, known = strand.where(hit), distances[hit], points[hit], known[hit]
    samples = _samples(distances, known, normals)
    _front_to_back(field, strand, samples, points, known.isinf(), objects)
    weights = weights_of(samples.raw, distances, field)
    if config.fine:
        jitter = None if noise is None else noise.importance.flatten(0, 1)[strand.numbers]
        drawn = importance(distances, weights, config.fine, jitter)
        points = points_on(strand.rays, drawn)
        known = occupancy.at(strand.owners, points)
        light = F.pad(1 - weights.cumsum(-1), (2, 0), value=1.0)
        seen = light.gather(-1, torch.searchsorted(distances, drawn, right=True)) > OPAQUE
        fine = _samples(drawn, known, normals)
        _fill(field, strand, fine, points, known.isinf() & seen, objects)
        samples = merged(samples, fine)
        weights = weights_of(samples.raw, samples.distances, field)
    parts = (*composite(samples, weights), samples.distances[..., 0], samples.distances[..., -1])
    return tuple(_spread(part, strand.numbers, objects, count) for part in parts)


def _samples(distances: Float[Tensor, "M Z"], known: Float[Tensor, "M Z"], normals: bool) -> Samples:
    """Samples of which nothing is known but what the grid knows."""
    return Samples(
        distances=distances,
        raw=known.masked_fill(known.isinf(), EMPTY),
        channels=distances.new_zeros(*distances.shape, 6 if normals else 3),
    )


def _spread(part: Float[Tensor, "M *C"], numbers: Int[Tensor, "M"], objects: int, count: int) -> Tensor:
    """Values of some rays among those of all, zero elsewhere."""
    out = part.new_zeros(objects * count, *part.shape[1:])
    out[numbers] = part
    return out.unflatten(0, (objects, count))
