"""Meshes of triplanes: heads on a grid, evaluated only where the surface passes."""

from dataclasses import dataclass
from functools import cached_property

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from sar3d.flexicubes import (
    FlexiMesh,
    Topology,
    dual_mesh,
    edge_sign_consistency,
    find_surface,
    surface_presence,
)
from sar3d.vqvae.config import PLANES
from sar3d.vqvae.field import RGB_WIDENING, FieldSample, sample_planes
from sar3d.vqvae.flexi_config import GRID_SCALE, FlexiConfig
from sar3d.vqvae.flexi_heads import WEIGHT_GAIN, MeshHeads, after_first, cube_maps, linears, point_maps
from sar3d.vqvae.planes import gather, locate, padded_table

_AT_ONCE = 1 << 16
"""Grid points whose field is computed at a time."""

_SOLID = 1e4
"""Density, per unit length, of what lies inside a mesh."""


@dataclass(frozen=True)
class Surfaces:
    """The meshes of B objects, and what regularizers need of the fields they were read from."""

    meshes: list[FlexiMesh]
    ends: Float[Tensor, "E 2"]
    """The field at the ends of all grid edges that surfaces cross."""
    weights: Float[Tensor, "M 21"]
    """Raw weights of the cubes that surfaces cross."""
    missing: Float[Tensor, "B"]
    """How far objects without a surface are from having one, see `surface_presence`; 0 for the others."""

    def sign_consistency(self) -> Float[Tensor, ""]:
        """See `sar3d.flexicubes.sign_consistency`."""
        return edge_sign_consistency(self.ends)


class FlexiField:
    """What B triplanes and the heads say of B objects: their meshes and their colors.

    It is a `sar3d.vqvae.field.MeshField`, and a field of solid objects for renderers that march along rays.

    Args:
        planes: (B, 3, C, R, R), planes XY, YZ and ZX.
        heads: shared by all objects; their weights are read now, later changes do not show.
        side: of the cube that the planes cover.
    """

    def __init__(self, planes: Float[Tensor, "B 3 C R R"], heads: MeshHeads, config: FlexiConfig, side: float) -> None:
        self.planes, self.heads, self.config, self._side = planes, heads, config, side
        with torch.autocast(planes.device.type, enabled=False):
            self.maps = grid_maps(planes, self.line(), side)
            self._sdf_maps = point_maps(heads.sdf, self.maps)

    @property
    def side(self) -> float:
        return self._side

    @property
    def cell(self) -> float:
        """Side of a cube of the grid."""
        return self.side * GRID_SCALE / self.config.grid

    def line(self) -> Float[Tensor, "N"]:
        """Coordinates of the grid's points along each axis."""
        half = self.side * GRID_SCALE / 2
        return torch.linspace(-half, half, self.config.grid + 1, device=self.planes.device, dtype=self.planes.dtype)

    @torch.no_grad()
    def dense_sdf(self) -> Float[Tensor, "B N N N"]:
        """The field at all grid points, negative inside, without gradients."""
        count = self.config.grid + 1
        size = max(1, _AT_ONCE // count**2)
        objects = []
        with torch.autocast(self.planes.device.type, enabled=False):
            for xy, yz, zx in self._sdf_maps:
                slabs = []
                for start in range(0, count, size):
                    x = slice(start, start + size)
                    hidden = xy[x, :, None] + yz + rearrange(zx[:, x], "z x h -> x 1 z h")
                    slabs.append(signed(after_first(self.heads.sdf, hidden)[..., 0]))
                objects.append(torch.cat(slabs))
        return torch.stack(objects)

    def sdf_at(self, points: Int[Tensor, "P"]) -> Float[Tensor, "P"]:
        """The field at grid points, by number among the B·N³, with gradients."""
        return signed(_at_points(self.heads.sdf, self._sdf_maps, points)[:, 0])

    def surfaces(self, *, training: bool, margin: float = 0.05) -> Surfaces:
        """The meshes of all objects, in the world, differentiable in planes and heads.

        Deformation and weights are computed only at cubes that the surface crosses: no other has a part in the mesh or in
        its gradient.

        Args:
            training: see `sar3d.flexicubes.extract`.
            margin: of `surface_presence`.
        """
        with torch.autocast(self.planes.device.type, enabled=False):
            dense = self.dense_sdf()
            topology = find_surface(dense)
            sdf = self.sdf_at(topology.points)
            weights = self._weights(topology.cubes)
            meshes = dual_mesh(topology, self._positions(topology), sdf, weights, training=training)
            ends = torch.stack([sdf.index_select(0, end) for end in topology.crossings.unbind(-1)], -1)
            return Surfaces(meshes, ends, weights, self._missing(dense, topology, margin))

    @torch.no_grad()
    def triangles(self) -> tuple[Float[Tensor, "V 3"], Int[Tensor, "F 3"]]:
        """Vertices and faces of a field of one object, without gradients; none if it has no surface."""
        (mesh,) = self.surfaces(training=False).meshes
        return mesh.vertices, mesh.faces

    def color(self, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N 3"]:
        """Color in [0, 1] (to within 0.001) at world points. Gradients reach planes and heads; and the points, slower."""
        with torch.autocast(self.planes.device.type, enabled=False):
            if points.requires_grad:
                out = self.heads.rgb(sample_planes(self.planes, points, self.side))
            else:
                cells = locate(points, self.planes.shape[-1], self.side)
                out = after_first(self.heads.rgb, gather(self._rgb_table, cells, cells.weights()))
                out = rearrange(out, "(b n) c -> b n c", b=len(points))
            return torch.sigmoid(out) * (1 + 2 * RGB_WIDENING) - RGB_WIDENING

    def query(self, points: Float[Tensor, "B N 3"]) -> FieldSample:
        """Color and raw density, which is positive inside; outside the cube objects are black and empty."""
        with torch.autocast(self.planes.device.type, enabled=False):
            raw = -signed(self.heads.sdf(sample_planes(self.planes, points, self.side)))
        inside = (points.detach().abs() <= self.side / 2).all(-1, keepdim=True)
        return FieldSample(rgb=self.color(points) * inside, raw=torch.where(inside, raw, -1.0))

    def density(self, raw: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return _SOLID * (raw > 0).to(raw.dtype)

    @cached_property
    def _rgb_table(self) -> Float[Tensor, "rows H"]:
        first = linears(self.heads.rgb)[0]
        weight = rearrange(first.weight, "h (p c) -> p h c", p=PLANES)
        return padded_table(torch.einsum("bpcvu,phc->bpvuh", self.planes, weight), first.bias)

    def _positions(self, topology: Topology) -> Float[Tensor, "P 3"]:
        """Of the grid points at surface cubes, moved."""
        shift = _at_points(self.heads.deformation, point_maps(self.heads.deformation, self.maps), topology.points)
        _, *places = _places(topology.points, self.config.grid + 1)
        regular = torch.stack([self.line()[place] for place in places], -1)
        return regular + torch.tanh(shift) * (self.config.deformation * self.cell)

    def _weights(self, cubes: Int[Tensor, "M"]) -> Float[Tensor, "M 21"]:
        """Raw weights of cubes, by number among the B·R³."""
        return WEIGHT_GAIN * _at_points(self.heads.weight, cube_maps(self.heads.weight, self.maps), cubes)

    def _missing(self, dense: Float[Tensor, "B N N N"], topology: Topology, margin: float) -> Float[Tensor, "B"]:
        """`surface_presence`; the field is computed with gradients at its extremes alone."""
        if all(topology.valid):
            return dense.new_zeros(len(dense))
        count = dense[0].numel()
        inner = F.pad(torch.ones_like(dense[:, 1:-1, 1:-1, 1:-1], dtype=torch.bool), (1,) * 6)
        lowest = dense.masked_fill(~inner, torch.inf).flatten(1).argmin(1)
        highest = dense.masked_fill(inner, -torch.inf).flatten(1).argmax(1)
        start = torch.arange(len(dense), device=dense.device) * count
        points = torch.cat([start + lowest, start + highest])
        return surface_presence(dense.flatten().index_copy(0, points, self.sdf_at(points)).view_as(dense), margin)


def signed(logit: Tensor) -> Tensor:
    """The field's value of the head's output: negative inside, between -0.5 and 0.5."""
    return torch.sigmoid(logit) - 0.5


def grid_maps(planes: Float[Tensor, "B 3 C R R"], line: Float[Tensor, "N"], side: float) -> Float[Tensor, "B 3 C N N"]:
    """Planes sampled along a grid's lines, first coordinate of each plane first; outside their edges they fade to zero."""
    first, second = torch.meshgrid(line * (2 / side), line * (2 / side), indexing="ij")
    grid = torch.stack([first, second], -1).expand(planes.shape[0] * PLANES, -1, -1, -1)
    maps = F.grid_sample(rearrange(planes, "b p c v u -> (b p) c v u"), grid, align_corners=False)
    return rearrange(maps, "(b p) c u v -> b p c u v", p=PLANES)


def _places(numbers: Int[Tensor, "K"], count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Object, x, y, z of numbers into (B, count, count, count)."""
    return numbers // count**3, numbers // count**2 % count, numbers // count % count, numbers % count


def _at_points(
    net: nn.Sequential, maps: Float[Tensor, "B 3 n n H"], numbers: Int[Tensor, "K"]
) -> Float[Tensor, "K outputs"]:
    """A head at grid points or cubes, by number among the B·n³, from its `point_maps` or `cube_maps`."""
    count = maps.shape[2]
    b, x, y, z = _places(numbers, count)
    rows = torch.stack([x * count + y, count**2 + y * count + z, 2 * count**2 + z * count + x], -1)
    rows = rows + (PLANES * count**2 * b)[:, None]
    hidden = F.embedding_bag(rows, maps.reshape(-1, maps.shape[-1]), mode="sum")
    return after_first(net, hidden)
