"""Raw densities on a regular grid, asked only where the surface passes."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from sar3d.vqvae.field import Field

BRICK = 2
"""Points along a side of what is asked or left out as a whole."""

_SLACK = 0.25
"""A brick is asked if the level lies within the range of its neighborhood, widened by this share on both sides."""

_POINTS = 1 << 16
"""Points asked at a time: as many as caches hold are fastest on a CPU."""

_POINTS_CUDA = 1 << 20


def ask_raw(field: Field, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N"]:
    """Raw densities at world points of a field of one object, some points at a time."""
    size = _POINTS_CUDA if points.is_cuda else _POINTS
    return torch.cat([field.query(part[None]).raw[0, :, 0].float() for part in points.split(size)])


def axis(field: Field, count: int, device: torch.device | str = "cpu") -> Float[Tensor, "count"]:
    """Coordinates of the grid's points, from face to face of the cube."""
    half = field.side / 2
    return torch.linspace(-half, half, count, device=device).clamp(-half, half)


@torch.no_grad()
def dense_lattice(field: Field, count: int, device: torch.device | str = "cpu") -> Float[Tensor, "X X X"]:
    """Raw densities at all `count`³ points, axes x, y, z, on `device`. The reference."""
    line = axis(field, count, device)
    slabs = line.split(max(1, _POINTS_CUDA // count**2))
    parts = [ask_raw(field, torch.cartesian_prod(slab, line, line)) for slab in slabs]
    return torch.cat(parts).view(count, count, count)


@torch.no_grad()
def surface_lattice(
    field: Field, count: int, level: float, device: torch.device | str = "cpu"
) -> tuple[Float[Tensor, "X X X"], int]:
    """`dense_lattice` where it crosses raw density `level`, and how often the field was asked.

    Values on both sides of every crossing are exact; elsewhere they only lie on the right side of the level. Bricks of
    points are looked at in their middles first and asked wherever the level may pass through their neighborhood. The
    surface is then followed: wherever it reaches a brick that was not asked, that one is asked too, so what has been
    found at all is found whole. A detail thinner than a brick, far from all else, can be missed.
    """
    bricks = -(-count // BRICK)
    line = axis(field, count, device)
    middles = F.pad(line, (0, bricks * BRICK - count), value=float(line[-1])).view(bricks, BRICK).mean(-1)
    coarse = ask_raw(field, torch.cartesian_prod(middles, middles, middles)).view(bricks, bricks, bricks)
    values = coarse
    for dim in range(3):
        values = values.repeat_interleave(BRICK, dim)
    asked = torch.zeros_like(coarse, dtype=torch.bool)
    wanted, queries = _crossed(coarse, level), coarse.numel()
    while wanted.any():
        places = wanted.nonzero()
        queries += _ask_bricks(field, values, places, line)
        asked |= wanted
        wanted = _reached(values[:count, :count, :count] > level, bricks) & ~asked
    return values[:count, :count, :count], queries


def _crossed(coarse: Float[Tensor, "b b b"], level: float) -> Bool[Tensor, "b b b"]:
    """Bricks through whose neighborhood the level may pass."""
    high = F.max_pool3d(coarse[None, None], 3, stride=1, padding=1)[0, 0]
    low = -F.max_pool3d(-coarse[None, None], 3, stride=1, padding=1)[0, 0]
    reach = _SLACK * (high - low)
    return (low - reach <= level) & (high + reach >= level)


def _ask_bricks(
    field: Field, values: Float[Tensor, "X X X"], places: Int[Tensor, "M 3"], line: Float[Tensor, "count"]
) -> int:
    """Enter the field's answers in the bricks at `places`; how many points were asked."""
    step = torch.arange(BRICK, device=places.device)
    inner = torch.cartesian_prod(step, step, step)
    total = 0
    for part in places.split(_POINTS_CUDA // BRICK**3):
        points = (BRICK * part[:, None] + inner).flatten(0, 1)
        points = points[(points < len(line)).all(-1)]
        values[tuple(points.unbind(-1))] = ask_raw(field, line[points])
        total += len(points)
    return total


def _reached(inside: Bool[Tensor, "X X X"], bricks: int) -> Bool[Tensor, "b b b"]:
    """Bricks at whose faces a point and its neighbor in the next brick lie on different sides of the level."""
    reached = inside.new_zeros(bricks, bricks, bricks)
    padding = bricks * BRICK - len(inside)
    for dim in range(3):
        moved = inside.movedim(dim, 0)
        last, first = moved[BRICK - 1 :: BRICK][: bricks - 1], moved[BRICK::BRICK]
        change = F.pad(last != first, (0, padding, 0, padding))
        change = change.unflatten(2, (bricks, BRICK)).unflatten(1, (bricks, BRICK)).any(4).any(2)
        side = reached.movedim(dim, 0)
        side[:-1] |= change
        side[1:] |= change
    return reached
