"""The mesh on a topology: dual vertices and triangles, differentiable in points, field and weights."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sar3d.flexicubes.tables import EDGES
from sar3d.flexicubes.topology import Topology

WEIGHT_SCALE = 0.5
"""How far the weights reach from neutral, as in InstantMesh and SAR3D (0.99 in the first publication)."""

WEIGHTS = 21
"""Raw weights of a cube: 12 β of its edges, 8 α of its corners, 1 γ."""

_LEAST = 1e-12
"""Differences of weighted field values count as no less than this."""


@dataclass(frozen=True)
class FlexiMesh:
    """The surface of one object."""

    vertices: Float[Tensor, "V 3"]
    """Dual vertices; in training then the centers of the quads."""
    faces: Int[Tensor, "F 3"]
    """int64; counter-clockwise seen from outside."""
    l_dev: Float[Tensor, "E"]
    """How much the distance from a dual vertex to each crossing of its edges deviates from their mean, unreduced: one
    value per dual vertex and edge (equation 8)."""
    valid: bool
    """False for an object without a surface: empty or full throughout. There is then no vertex and no face."""


def dual_mesh(
    topology: Topology,
    positions: Float[Tensor, "P 3"],
    sdf: Float[Tensor, "P"],
    weights: Float[Tensor, "M 21"],
    *,
    training: bool,
) -> list[FlexiMesh]:
    """The meshes of a topology's objects, from values at its points and cubes alone.

    Args:
        topology: of a field with the signs of `sdf`.
        positions: of `topology.points`.
        sdf: at `topology.points`. Values on the border that are not positive are taken as just outside.
        weights: raw, of `topology.cubes`.
        training: True inserts a vertex into every quad, which lets γ have a gradient; False cuts quads in two.
    """
    beta, alpha, gamma = _activated(weights)
    just_outside = torch.finfo(sdf.dtype).tiny
    sdf = torch.where(topology.border & (sdf <= 0), just_outside, sdf)
    ends = torch.tensor(EDGES, device=sdf.device)[topology.pair_edge]
    rows = topology.corners[topology.pair_cube[:, None], ends]
    places = [_rows(positions, rows[:, i]) for i in range(2)]
    values = [sdf.index_select(0, rows[:, i]) for i in range(2)]
    reach = [alpha.flatten().index_select(0, topology.pair_cube * 8 + ends[:, i]) for i in range(2)]
    strength = beta.flatten().index_select(0, topology.pair_cube * 12 + topology.pair_edge)
    crossings = _between(places, [v * r for v, r in zip(values, reach, strict=True)])
    duals = len(topology.dual_cube)
    total = _sums(strength, topology.pair_dual, duals)
    weighted = [_sums(strength * column, topology.pair_dual, duals) / total for column in crossings.unbind(-1)]
    vertices = torch.stack(weighted, -1)
    l_dev = _deviation(topology, vertices, _between(places, values))
    vertices, faces = _triangles(topology, vertices, gamma.index_select(0, topology.dual_cube), training=training)
    return _by_object(topology, vertices, faces, l_dev, training=training)


def _activated(
    weights: Float[Tensor, "M 21"],
) -> tuple[Float[Tensor, "M 12"], Float[Tensor, "M 8"], Float[Tensor, "M"]]:
    """β, α and γ, positive."""
    flexible = 1 + WEIGHT_SCALE * torch.tanh(weights[:, :20])
    gamma = WEIGHT_SCALE * torch.sigmoid(weights[:, 20]) + (1 - WEIGHT_SCALE) / 2
    return flexible[:, :12], flexible[:, 12:], gamma


def _rows(values: Float[Tensor, "P 3"], rows: Int[Tensor, "K"]) -> Float[Tensor, "K 3"]:
    """`values[rows]`; column by column, because the gradient of that is several times faster on a CPU."""
    return torch.stack([column.index_select(0, rows) for column in values.unbind(-1)], -1)


def _sums(values: Float[Tensor, "K"], owner: Int[Tensor, "K"], count: int) -> Float[Tensor, "count"]:
    return values.new_zeros(count).index_add(0, owner, values)


def _between(places: list[Float[Tensor, "K 3"]], values: list[Float[Tensor, "K"]]) -> Float[Tensor, "K 3"]:
    """Where the field, linear between two places with values of different signs, is zero."""
    low, high = places
    difference = values[0] - values[1]
    sign = torch.where(difference.detach() < 0, -1.0, 1.0).to(difference.dtype)
    share = (values[0] / (sign * (sign * difference).clamp_min(_LEAST))).clamp(0, 1)
    return low + share[:, None] * (high - low)


def _deviation(
    topology: Topology, vertices: Float[Tensor, "D 3"], crossings: Float[Tensor, "N 3"]
) -> Float[Tensor, "N"]:
    """|d - mean of the patch's d|, d the distance of a dual vertex from the unweighted crossing of an edge."""
    offset = crossings - _rows(vertices, topology.pair_dual)
    distance = torch.linalg.vector_norm(offset, dim=-1)
    count = topology.pair_dual.bincount(minlength=len(vertices))
    mean = _sums(distance, topology.pair_dual, len(vertices)) / count
    return (distance - mean.index_select(0, topology.pair_dual)).abs()


def _triangles(
    topology: Topology, vertices: Float[Tensor, "D 3"], gamma: Float[Tensor, "D"], *, training: bool
) -> tuple[Float[Tensor, "V 3"], Int[Tensor, "F 3"]]:
    """All objects' vertices, dual ones before centers, and triangles, quad after quad."""
    quads = topology.quads
    strength = gamma.index_select(0, quads.flatten()).view(-1, 4)
    first, second = strength[:, 0] * strength[:, 2], strength[:, 1] * strength[:, 3]
    if not training:
        a, b, c, d = quads.unbind(-1)
        along_first = torch.stack([a, b, c, a, c, d], -1)
        along_second = torch.stack([a, b, d, b, c, d], -1)
        return vertices, torch.where((first > second)[:, None], along_first, along_second).view(-1, 3)
    p, q, r, s = (_rows(vertices, quads[:, i]) for i in range(4))
    total = first + second + 1e-8
    centers = ((first / total)[:, None] * (p + r) + (second / total)[:, None] * (q + s)) / 2
    number = torch.arange(len(vertices), len(vertices) + len(quads), device=quads.device)
    sides = [torch.stack([quads[:, i], quads[:, (i + 1) % 4], number], -1) for i in range(4)]
    return torch.cat([vertices, centers]), torch.stack(sides, 1).view(-1, 3)


def _by_object(
    topology: Topology,
    vertices: Float[Tensor, "V 3"],
    faces: Int[Tensor, "F 3"],
    l_dev: Float[Tensor, "N"],
    *,
    training: bool,
) -> list[FlexiMesh]:
    """One mesh for each object, its vertices counted from zero."""
    duals = len(topology.dual_cube)
    dual_parts = vertices[:duals].split(topology.duals_of)
    center_parts = vertices[duals:].split(topology.quads_of if training else [0] * len(topology.quads_of))
    per_quad = 4 if training else 2
    face_parts = faces.split([per_quad * count for count in topology.quads_of])
    meshes, first_dual, first_center = [], 0, duals
    for part, (own, middle) in enumerate(zip(dual_parts, center_parts, strict=True)):
        numbers = face_parts[part]
        shift = torch.where(numbers < duals, first_dual, first_center - len(own))
        meshes.append(
            FlexiMesh(
                vertices=torch.cat([own, middle]),
                faces=numbers - shift,
                l_dev=l_dev.split(topology.pairs_of)[part],
                valid=topology.valid[part],
            )
        )
        first_dual += len(own)
        first_center += len(middle)
    return meshes
