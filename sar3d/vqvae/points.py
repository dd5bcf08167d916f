"""The point encoder: what the pixels of the views show is laid onto the latent planes where their depth says it lies.

The published encoder fuses feature maps of views, so it has to learn from examples which pixel belongs to which place of a
plane, for every order of the views. Depth and Plücker rays tell that place exactly (compare Peng et al. 2020, Convolutional
Occupancy Networks), and what is learned then holds for objects and cameras that training did not have.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from sar3d.vqvae.config import PLANES, EncoderConfig
from sar3d.vqvae.encoder import GEGLU, DownLevel, ImageSelfAttention
from sar3d.vqvae.layers import ResBlock, check_heads, conv3, group_norm, run

_OCTAVES = 4
"""Frequencies that tell a point's place, from half a wave over the cube on."""

_SEEN = 3 + 6 * _OCTAVES + 3 + 3 + 1
"""Channels of a point: place, its sines and cosines, color, ray direction, covered share of its pixels."""


@dataclass(frozen=True)
class Points:
    """M surface points that the views of B objects see."""

    place: Float[Tensor, "M 3"]
    """In the world."""
    color: Float[Tensor, "M 3"]
    """As the encoder input has it, the mean over the covered pixels."""
    direction: Float[Tensor, "M 3"]
    """Of the ray that sees it, of unit length."""
    covered: Float[Tensor, "M 1"]
    """Share of the pixels of its square that show the object."""
    owner: Int[Tensor, "M"]
    """Number of its object."""


def camera_axes(directions: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 3"]:
    """Unit axes of pinhole cameras, from the unit directions of their pixels' rays.

    The rays through the corners meet a plane across the axis in a parallelogram: that fixes how long each is there, and with
    it the plane.
    """
    a, b, c, d = directions[:, :, 0, 0], directions[:, :, 0, -1], directions[:, :, -1, 0], directions[:, :, -1, -1]
    lengths = torch.linalg.solve(torch.stack([b, c, -d], -1).double(), a.double())
    across = b * lengths[:, 0:1].float() - a, c * lengths[:, 1:2].float() - a
    axis = F.normalize(torch.linalg.cross(*across), dim=-1)
    return axis * torch.sign((axis * directions.mean((2, 3))).sum(-1, keepdim=True))


def surface(views: Float[Tensor, "N 10 H W"]) -> Float[Tensor, "N 3 H W"]:
    """World points that the pixels show (meaningless where the depth is 0), from Plücker rays and z-depth alone.

    The camera's center is the point nearest to all of its rays.
    """
    moment, direction, depth = views[:, 3:6], views[:, 6:9], views[:, 9:10]
    flat = direction.flatten(2)
    identity = torch.eye(3, dtype=flat.dtype, device=flat.device)
    square = flat.shape[-1] * identity - flat @ flat.transpose(1, 2)
    nearest = torch.linalg.cross(direction, moment, dim=1).flatten(2).sum(-1)
    center = torch.linalg.solve(square.double(), nearest.double()).float()
    cosine = (direction * camera_axes(direction)[..., None, None]).sum(1, keepdim=True)
    return center[..., None, None] + depth / cosine * direction


def seen_points(views: Float[Tensor, "B V 10 H W"], stride: int) -> Points:
    """One point for each square of `stride` pixels that shows something: where its nearest pixel lies."""
    flat = rearrange(views, "b v c h w -> (b v) c h w")
    depth, covered = flat[:, 9:10], (flat[:, 9:10] > 0).to(flat.dtype)
    share = F.avg_pool2d(covered, stride)
    color = F.avg_pool2d(flat[:, :3] * covered, stride) / share.clamp_min(1 / stride**2)
    near = torch.where(depth > 0, -depth, -torch.inf)
    _, chosen = F.max_pool2d(near, stride, stride, return_indices=True)
    whole = torch.cat([surface(flat), flat[:, 6:9]], 1).flatten(2)
    there = whole.gather(2, chosen.flatten(2).expand(-1, whole.shape[1], -1))
    rows = rearrange(torch.cat([there, color.flatten(2), share.flatten(2)], 1), "n c l -> (n l) c")
    shown = (rows[:, -1] > 0).nonzero()[:, 0]
    place, direction, color, share = rows[shown].split((3, 3, 3, 1), dim=-1)
    return Points(place, color, direction, share, shown // (len(rows) // len(views)))


class _CellMeans(torch.autograd.Function):
    """Means of points' features over the cells of all planes, forward and backward without an atomic addition."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, cells: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        keys, order = torch.sort(cells.flatten())
        bounds = torch.searchsorted(keys, torch.arange(rows + 1, device=keys.device))
        count = bounds.diff()
        members = order // PLANES
        means = F.embedding_bag(members, features, bounds, mode="sum", include_last_offset=True)
        share = 1 / count.clamp_min(1).to(features.dtype)[:, None]
        ctx.save_for_backward(cells, share)
        ctx.mark_non_differentiable(count)
        return means * share, count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        cells, share = ctx.saved_tensors
        return (gradient * share)[cells].sum(1), None, None


def cells_of(points: Points, grid: int, side: float) -> Int[Tensor, "M 3"]:
    """The cell of each point on its object's XY, YZ and ZX plane, of `grid` cells over `side`; raster order, planes and
    objects one after another. Points outside fall into the nearest cell."""
    x, y, z = ((points.place / side + 0.5) * grid).floor().long().clamp(0, grid - 1).unbind(-1)
    within = torch.stack([y * grid + x, z * grid + y, x * grid + z], -1)
    planes = torch.arange(PLANES, device=within.device) + points.owner[:, None] * PLANES
    return planes * grid**2 + within


class CrossPlaneTransformer(nn.Module):
    """One transformer block over the pixels of an object's three planes."""

    def __init__(self, channels: int, width: int, heads: int, side: int) -> None:
        super().__init__()
        check_heads("encoder's cross-plane attention", width, heads)
        self.norm = group_norm(channels)
        self.proj_in = nn.Conv2d(channels, width, 1)
        self.pos_embed = nn.Parameter(torch.randn(1, PLANES * side * side, width) * 0.02)
        self.norm1 = nn.LayerNorm(width)
        self.cross_plane = ImageSelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.feed_forward = GEGLU(width, 2)
        self.proj_out = nn.Conv2d(width, channels, 1)
        for parameter in self.proj_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Float[Tensor, "BP C G G"]) -> Float[Tensor, "BP C G G"]:
        h = rearrange(self.proj_in(self.norm(x)), "(b p) c h w -> b (p h w) c", p=PLANES) + self.pos_embed
        h = h + self.cross_plane(self.norm1(h))
        h = h + self.feed_forward(self.norm2(h))
        return x + self.proj_out(rearrange(h, "b (p h w) c -> (b p) c h w", p=PLANES, h=x.shape[-1]))


class PointEncoder(nn.Module):
    """Surface points to features, their means on three planes, convolutions down to the latent side.

    Args:
        config: `channels`, `multipliers` and `blocks` are those of the planes' levels.
        dim: D, channels of a latent plane.
        side: G, side of a latent plane.
        extent: side of the cube that the planes cover.
    """

    def __init__(self, config: EncoderConfig, dim: int, side: int, extent: float) -> None:
        super().__init__()
        self.stride, self.extent = config.point_stride, extent
        self.grid = side * 2 ** (len(config.multipliers) - 1)
        widths = [config.channels] + [config.channels * m for m in config.multipliers]
        last = len(config.multipliers) - 1
        self.point = nn.Sequential(
            nn.Linear(_SEEN, config.channels), nn.SiLU(), nn.Linear(config.channels, config.channels), nn.SiLU()
        )
        self.conv_in = conv3(config.channels + 1, config.channels)
        self.plane_embed = nn.Parameter(torch.randn(PLANES, config.channels, 1, 1) * 0.02)
        self.levels = nn.ModuleList(
            DownLevel(a, b, config.blocks, is_last=i == last) for i, (a, b) in enumerate(itertools.pairwise(widths))
        )
        self.mid_attention = CrossPlaneTransformer(widths[-1], config.attention_width, config.attention_heads, side)
        self.mid_block = ResBlock(widths[-1], widths[-1])
        self.norm_out = group_norm(widths[-1])
        self.conv_out = conv3(widths[-1], dim)

    def forward(self, views: Float[Tensor, "B V C H W"], *, recompute: bool = False) -> Float[Tensor, "BP D G G"]:
        """Latent planes, row 3b + p = plane p of object b. The order of the views does not matter.

        Args:
            views: encoder input (see `sar3d.data.loading.view_tensors.encoder_input`).
            recompute: save memory by computing the activations of the levels twice.
        """
        x = self.conv_in(self.planes(views))
        x = (x.unflatten(0, (len(views), PLANES)) + self.plane_embed).flatten(0, 1)
        for level in self.levels:
            x = run(level, x, recompute=recompute)
        x = self.mid_block(self.mid_attention(x))
        return self.conv_out(F.silu(self.norm_out(x)))

    def planes(self, views: Float[Tensor, "B V C H W"]) -> Float[Tensor, "BP C2 R R"]:
        """Mean features of the points in each cell of each plane, and the logarithm of their number."""
        with torch.autocast(views.device.type, enabled=False):
            points = seen_points(views.float(), self.stride)
            place = points.place * (2 / self.extent)
            octaves = math.pi * 2.0 ** torch.arange(_OCTAVES, device=place.device)
            angles = (place[:, :, None] * octaves).flatten(1)
            seen = [place, angles.sin(), angles.cos(), points.color, points.direction, points.covered]
        features = self.point(torch.cat(seen, -1)).float()
        rows = len(views) * PLANES * self.grid**2
        means, count = _CellMeans.apply(features, cells_of(points, self.grid, self.extent), rows)
        filled = torch.cat([means, count.to(means.dtype).log1p()[:, None]], -1)
        return rearrange(filled, "(n h w) c -> n c h w", h=self.grid, w=self.grid)
