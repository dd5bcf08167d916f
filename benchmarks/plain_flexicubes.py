"""FlexiCubes the plain way: a list of cubes, and edges made unique by sorting. What `sar3d.flexicubes` is measured by.

It gives the same mesh, its vertices and faces in another order; fields must be positive on the grid's border.
"""

import torch
from torch import Tensor

from sar3d.flexicubes.mesh import WEIGHT_SCALE
from sar3d.flexicubes.tables import CORNERS, EDGES, TABLES

_AROUND = torch.tensor([[0, 2, 3, 1], [0, 1, 3, 2], [0, 2, 3, 1]])
"""For edges along x, y and z: the four cubes around, which come in the order of their numbers, counter-clockwise."""


def cubes_of(resolution: int, device: torch.device | str = "cpu") -> Tensor:
    """(R³, 8) numbers of the grid points at each cube's corners."""
    number = torch.arange((resolution + 1) ** 3, device=device).view(*3 * (resolution + 1,))
    parts = [number[x : x + resolution, y : y + resolution, z : z + resolution] for x, y, z in CORNERS]
    return torch.stack([part.reshape(-1) for part in parts], -1)


def plain_extract(positions: Tensor, sdf: Tensor, weights: Tensor, cubes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Vertices, faces and deviations in training mode of points (P, 3), a field (P,), weights (R³, 21), cubes (R³, 8)."""
    inside = sdf.detach() < 0
    signs = (inside[cubes] * (2 ** torch.arange(8, device=sdf.device))).sum(-1)
    surface = (signs != 0) & (signs != 255)
    pairs = cubes[surface][:, torch.tensor(EDGES, device=sdf.device)]
    sorted_pairs = pairs.flatten(0, 1).sort(-1).values
    edges, number = sorted_pairs.unique(dim=0, return_inverse=True)
    resolved = _resolved(signs, round(len(cubes) ** (1 / 3)))[surface]
    owner, count = (torch.from_numpy(t).to(sdf.device)[resolved] for t in (TABLES.edge_patch, TABLES.patch_count))
    cube, edge = (owner >= 0).nonzero(as_tuple=True)
    dual = ((count.cumsum(0) - count)[:, None] + owner)[cube, edge]
    used = weights[surface]
    vertices, deviation = _duals(positions, sdf, used, pairs, cube, edge, dual, int(count.sum()))
    gamma = (WEIGHT_SCALE * used[:, 20].sigmoid() + (1 - WEIGHT_SCALE) / 2).repeat_interleave(count)
    quads = _quads(number.view(-1, 12)[cube, edge], dual, edges, inside)
    return *_triangles(vertices, gamma, quads), deviation


def _resolved(signs: Tensor, resolution: int) -> Tensor:
    """Cases of all cubes, those with a problematic face towards another such cube complemented."""
    volume = signs.view(*3 * (resolution,))
    step = torch.from_numpy(TABLES.problem).to(signs.device)[volume]
    place = torch.stack(torch.meshgrid(*3 * [torch.arange(resolution, device=signs.device)], indexing="ij"), -1) + step
    within = ((place >= 0) & (place < resolution)).all(-1)
    x, y, z = place.clamp(0, resolution - 1).unbind(-1)
    both = within & (step != 0).any(-1) & (step[x, y, z] != 0).any(-1)
    return torch.where(both, 255 - volume, volume).flatten()


def _duals(
    positions: Tensor, sdf: Tensor, weights: Tensor, pairs: Tensor, cube: Tensor, edge: Tensor, dual: Tensor, total: int
) -> tuple[Tensor, Tensor]:
    beta, alpha = 1 + WEIGHT_SCALE * weights[:, :12].tanh(), 1 + WEIGHT_SCALE * weights[:, 12:20].tanh()
    ends = torch.tensor(EDGES, device=sdf.device)[edge]
    x, s = positions[pairs[cube, edge]], sdf[pairs[cube, edge]]
    crossing, straight = _zero(x, s * alpha[cube[:, None], ends]), _zero(x, s)
    strength = beta[cube, edge, None]
    vertices = _sums(strength * crossing, dual, total) / _sums(strength, dual, total)
    distance = (straight - vertices[dual]).norm(dim=-1, keepdim=True)
    mean = _sums(distance, dual, total) / _sums(torch.ones_like(distance), dual, total)
    return vertices, (distance - mean[dual]).abs()[:, 0]


def _zero(x: Tensor, s: Tensor) -> Tensor:
    return x[:, 0] + (s[:, 0] / (s[:, 0] - s[:, 1]))[:, None] * (x[:, 1] - x[:, 0])


def _sums(values: Tensor, owner: Tensor, total: int) -> Tensor:
    return values.new_zeros(total, values.shape[1]).index_add(0, owner, values)


def _quads(number: Tensor, dual: Tensor, edges: Tensor, inside: Tensor) -> Tensor:
    """(Q, 4) the dual vertices around every crossed edge, counter-clockwise seen from outside."""
    number, order = number.sort(stable=True)
    quads = dual[order].view(-1, 4)
    lower, upper = edges[number[::4]].unbind(-1)
    distance = upper - lower
    axis = (distance < distance.max()).long() + (distance == 1)
    quads = quads.gather(1, _AROUND.to(quads.device)[axis])
    return torch.where(inside[lower, None], quads, quads.flip(-1))


def _triangles(vertices: Tensor, gamma: Tensor, quads: Tensor) -> tuple[Tensor, Tensor]:
    g, v = gamma[quads], vertices[quads]
    first, second = g[:, 0] * g[:, 2], g[:, 1] * g[:, 3]
    middle = first[:, None] * (v[:, 0] + v[:, 2]) / 2 + second[:, None] * (v[:, 1] + v[:, 3]) / 2
    middle = middle / (first + second + 1e-8)[:, None]
    number = len(vertices) + torch.arange(len(quads), device=quads.device)
    faces = torch.cat([torch.stack([quads[:, i], quads[:, (i + 1) % 4], number], -1) for i in range(4)])
    return torch.cat([vertices, middle]), faces
