"""What an object is in space: a radiance field, read from three feature planes (paper section 3.1; LRM's field)."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from sar3d.vqvae.config import PLANES, FieldConfig
from sar3d.vqvae.planes import gather, locate, padded_table

EMPTY = -torch.finfo(torch.float32).max / 3
"""Raw density outside the cube: its density is zero, also where it is averaged with that of a neighboring sample."""

RGB_WIDENING = 0.001
"""Colors reach this far beyond [0, 1], so that a sigmoid can reach black and white."""


@dataclass(frozen=True)
class FieldSample:
    """A field at N points of each of B objects."""

    rgb: Float[Tensor, "B N 3"]
    """Color in [0, 1] (to within 0.001)."""
    raw: Float[Tensor, "B N 1"]
    """Density before its activation; `Field.density` activates it."""


class Field(Protocol):
    """All that renderers and exporters know of an object."""

    @property
    def side(self) -> float:
        """Side of the cube, centered at the origin, outside which the field is empty."""
        ...

    def query(self, points: Float[Tensor, "B N 3"]) -> FieldSample:
        """Color and raw density at world points."""
        ...

    def density(self, raw: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Density per unit length of raw densities."""
        ...


class SmoothField(Field, Protocol):
    """A field with normals."""

    def density_gradient(self, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N 3"]:
        """∇σ at world points, differentiable with respect to the field's parameters."""
        ...


@runtime_checkable
class MeshField(Field, Protocol):
    """A field whose surface is a mesh: exporters take its triangles as they are, and read colors on them."""

    def triangles(self) -> tuple[Float[Tensor, "N 3"], Int[Tensor, "F 3"]]:
        """Vertices in the world and faces, counter-clockwise seen from outside, of a field of one object."""
        ...

    def color(self, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N 3"]:
        """Color at points of the surface."""
        ...


class FieldMLP(nn.Module):
    """From the features of three planes, concatenated, to raw density and raw color (published.md, rendering)."""

    def __init__(self, channels: int, config: FieldConfig) -> None:
        super().__init__()
        widths = [channels, *[config.hidden] * config.hidden_layers]
        layers: list[nn.Module] = []
        for width, following in pairwise(widths):
            layers += [nn.Linear(width, following), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.Linear(widths[-1], 4))

    def linears(self) -> list[nn.Linear]:
        """The layers with weights, first to last."""
        return [layer for layer in self.net if isinstance(layer, nn.Linear)]

    def forward(self, features: Float[Tensor, "*N channels"]) -> Float[Tensor, "*N 4"]:
        out: Tensor = self.net(features)
        return out


def plane_coordinates(points: Float[Tensor, "B N 3"], side: float) -> Float[Tensor, "B 3 N 2"]:
    """Where world points fall on the planes, [-1, 1] from edge to edge: (x, y), (y, z), (z, x) as (width, height)."""
    x, y, z = (points * (2 / side)).unbind(-1)
    return torch.stack([torch.stack(pair, -1) for pair in ((x, y), (y, z), (z, x))], dim=1)


def sample_planes(
    planes: Float[Tensor, "B 3 C R R"], points: Float[Tensor, "B N 3"], side: float
) -> Float[Tensor, "B N 3*C"]:
    """Bilinear features at world points, plane after plane; beyond the planes' edges they fade to zero."""
    grid = rearrange(plane_coordinates(points, side), "b p n uv -> (b p) n 1 uv")
    features = F.grid_sample(rearrange(planes.to(points.dtype), "b p c v u -> (b p) c v u"), grid, align_corners=False)
    return rearrange(features, "(b p) c n 1 -> b n (p c)", p=PLANES)


def activate(out: Float[Tensor, "B N 4"], points: Float[Tensor, "B N 3"], side: float) -> FieldSample:
    """Raw density and color of the MLP's output; points outside the cube are black and empty."""
    inside = (points.detach().abs() <= side / 2).all(-1, keepdim=True)
    raw, rgb = out.to(torch.promote_types(out.dtype, torch.float32)).split((1, 3), dim=-1)
    rgb = torch.sigmoid(rgb) * (1 + 2 * RGB_WIDENING) - RGB_WIDENING
    return FieldSample(rgb=rgb * inside, raw=raw.masked_fill(~inside, EMPTY))


class PlainTriplaneField:
    """The published field, as it is described: sample three planes, concatenate, apply the MLP. The reference."""

    def __init__(self, planes: Float[Tensor, "B 3 C R R"], mlp: FieldMLP, config: FieldConfig) -> None:
        self.planes = planes
        self.mlp = mlp
        self.config = config

    @property
    def side(self) -> float:
        return self.config.side

    def query(self, points: Float[Tensor, "B N 3"]) -> FieldSample:
        """Points outside the cube are black and empty."""
        return activate(self.mlp(sample_planes(self.planes, points, self.side)), points, self.side)

    def density(self, raw: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return self.config.density_scale * F.softplus(raw + self.config.density_shift)


class TriplaneField(PlainTriplaneField):
    """The field that a triplane and an MLP span over a cube; equal to the plain one, and faster.

    The MLP's first layer is linear in the concatenated features, so it is applied to the planes once and each point
    sums three interpolated vectors: a texel is shared by many points. Interpolation and sum are one gather.

    Args:
        planes: (B, 3, C, R, R), planes XY, YZ, ZX; the first coordinate of each runs along the width.
        mlp: shared by all objects; its weights are read now, later changes do not show.
    """

    def __init__(self, planes: Float[Tensor, "B 3 C R R"], mlp: FieldMLP, config: FieldConfig) -> None:
        super().__init__(planes, mlp, config)
        first, *self.others = mlp.linears()
        with torch.autocast(planes.device.type, enabled=False):
            weight = rearrange(first.weight, "h (p c) -> p h c", p=PLANES)
            maps = torch.einsum("bpcvu,phc->bpvuh", planes.to(weight.dtype), weight)
            self.table = padded_table(maps, first.bias)

    def query(self, points: Float[Tensor, "B N 3"]) -> FieldSample:
        """Points outside the cube are black and empty. Gradients reach the planes and the MLP; and the points, slower."""
        if points.requires_grad:
            return super().query(points)
        cells = locate(points, self.planes.shape[-1], self.side)
        hidden = gather(self.table, cells, cells.weights())
        for layer in self.others:
            hidden = layer(hidden.relu_())
        return activate(rearrange(hidden, "(b n) c -> b n c", b=len(points)), points, self.side)

    def density_gradient(self, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N 3"]:
        """∇σ at world points, analytic; zero outside the cube. Differentiable with respect to planes and MLP.

        The bilinear weights are differentiated by hand, because `grid_sample` has no second derivative; the MLP is
        piecewise linear, so its gradient is the product of its weights over the active units.
        """
        resolution = self.planes.shape[-1]
        cells = locate(points.detach(), resolution, self.side)
        hidden = gather(self.table, cells, cells.weights())
        active = [hidden > 0]
        last = self.others[-1]
        for layer in self.others[:-1]:
            hidden = layer(hidden.relu())
            active.append(hidden > 0)
        raw = hidden.relu() @ last.weight[0] + last.bias[0]
        back = last.weight[0] * active[-1]
        for layer, mask in zip(self.others[-2::-1], active[-2::-1], strict=True):
            back = (back @ layer.weight) * mask
        slopes = torch.stack([(back * gather(self.table, cells, along)).sum(-1) for along in cells.slopes()], dim=-1)
        steepness = self.config.density_scale * torch.sigmoid(raw + self.config.density_shift)
        gradient = steepness[:, None] * slopes * (resolution / self.side)
        inside = (points.detach().abs() <= self.side / 2).all(-1, keepdim=True)
        return torch.where(inside, rearrange(gradient, "(b n) xyz -> b n xyz", b=len(points)), 0.0)
