"""Bilinear sums over three planes as one weighted gather, forward and backward, without an atomic or a scatter."""

from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from sar3d.vqvae.config import PLANES

CORNERS = 4


@dataclass(frozen=True)
class Cells:
    """Where points fall on the planes of a padded table.

    The planes are padded by one texel of zeros on each side, which is what fading to zero beyond the edge means.
    """

    first: Int[Tensor, "M 3"]
    """Row of the table that holds the upper left corner of each point's cell, per plane."""
    fraction: Float[Tensor, "M 3 2"]
    """Position within the cell, (u, v) in [0, 1]."""
    stride: int
    """Rows of the table from one texel to the one below it."""

    @property
    def steps(self) -> tuple[int, int, int, int]:
        """From a cell's first row to its corners: upper left, upper right, lower left, lower right."""
        return 0, 1, self.stride, self.stride + 1

    def corners(self) -> Int[Tensor, "M 12"]:
        """Rows of the four corners of the three cells."""
        steps = torch.tensor(self.steps, dtype=self.first.dtype, device=self.first.device)
        return (self.first[..., None] + steps).flatten(-2)

    def weights(self) -> Float[Tensor, "M 12"]:
        """Bilinear weights of the corners."""
        u, v = torch.stack([1 - self.fraction, self.fraction], dim=-1).unbind(-2)
        return (v[..., :, None] * u[..., None, :]).flatten(1)

    def slopes(self) -> tuple[Float[Tensor, "M 12"], Float[Tensor, "M 12"], Float[Tensor, "M 12"]]:
        """Derivatives of the weights with respect to x, y and z, per texel."""
        u, v = self.fraction.unbind(-1)
        along_u = torch.stack([v - 1, 1 - v, -v, v], dim=-1)
        along_v = torch.stack([u - 1, -u, 1 - u, u], dim=-1)
        zero = torch.zeros_like(along_u[:, 0])
        by_axis = (
            (along_u[:, 0], zero, along_v[:, 2]),
            (along_v[:, 0], along_u[:, 1], zero),
            (zero, along_v[:, 1], along_u[:, 2]),
        )
        x, y, z = (torch.cat(parts, dim=-1) for parts in by_axis)
        return x, y, z


def locate(points: Float[Tensor, "B N 3"], resolution: int, side: float) -> Cells:
    """The cells of world points on planes of `resolution` texels over a cube of `side`; M = B·N.

    Outside the cube, too, the weighted sum of the corners is what fading to zero beyond the planes' edges gives.
    """
    batch, count, _ = points.shape
    scaled = (points * (resolution / side) + (resolution + 1) / 2).clamp(0, resolution + 1)
    whole = scaled.floor().clamp_(max=resolution)
    fraction, cell = scaled - whole, whole.int()
    stride = resolution + 2
    across, down = cell, cell.roll(-1, dims=-1)
    objects = torch.arange(batch, dtype=torch.int32, device=points.device)[:, None, None]
    planes = torch.arange(PLANES, dtype=torch.int32, device=points.device)
    base = (objects * PLANES + planes) * (stride * stride)
    return Cells(
        first=(base + down * stride + across).view(batch * count, PLANES),
        fraction=torch.stack([fraction, fraction.roll(-1, dims=-1)], dim=-1).view(batch * count, PLANES, 2),
        stride=stride,
    )


def _by_cell(first: Int[Tensor, "M 3"], rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Points and planes sorted by cell: their order (M·3), the points' numbers (M·3), where each row's begin (rows + 1)."""
    keys, order = torch.sort(first.flatten())
    numbers = torch.arange(rows + 1, dtype=torch.int32, device=keys.device)
    return order, (order // PLANES).int(), torch.searchsorted(keys, numbers, out_int32=True)


class _Gather(torch.autograd.Function):
    """Σ_k weights[m, k] · table[corners[m, k]]; only the table has a gradient."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, weights: Tensor, cells: Cells) -> Tensor:
        ctx.save_for_backward(weights, cells.first)
        ctx.rows, ctx.steps = len(table), cells.steps
        return F.embedding_bag(cells.corners(), table, mode="sum", per_sample_weights=weights)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        # With the points sorted by cell the scatter is a weighted gather too: of the points in each cell.
        weights, first = ctx.saved_tensors
        order, points, bags = _by_cell(first, ctx.rows)
        total = torch.zeros(ctx.rows, gradient.shape[-1], dtype=gradient.dtype, device=gradient.device)
        gradient = gradient.contiguous()
        by_corner = weights.view(-1, CORNERS)[order].unbind(-1)
        for step, weight in zip(ctx.steps, by_corner, strict=True):
            part = F.embedding_bag(
                points, gradient, bags, mode="sum", per_sample_weights=weight.contiguous(), include_last_offset=True
            )
            total[step:] += part[: ctx.rows - step]
        return total, None, None


def gather(table: Float[Tensor, "rows C"], cells: Cells, weights: Float[Tensor, "M 12"]) -> Float[Tensor, "M C"]:
    """Σ over the 12 corners of each point's cells of weight · row; differentiable with respect to the table."""
    out: Tensor = _Gather.apply(table, weights, cells)
    return out


def padded_table(maps: Float[Tensor, "B 3 R R C"], bias: Float[Tensor, "C"]) -> Float[Tensor, "rows C"]:
    """The rows of planes with their border of zeros, object after object, plane after plane, in raster order.

    `bias` is added to all rows of plane 0, border and all: the corners' weights sum to 1, so it reaches every point once.
    """
    padded = F.pad(maps, (0, 0, 1, 1, 1, 1))
    once = torch.zeros(PLANES, 1, 1, 1, dtype=maps.dtype, device=maps.device)
    once[0] = 1
    return rearrange(padded + once * bias, "b p v u h -> (b p v u) h")
