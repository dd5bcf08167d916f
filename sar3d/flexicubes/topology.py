"""Where the surface of a scalar field on a grid passes: integers only, without gradients.

Nothing is sorted and nothing is hashed: signs of neighboring grid points give a case per cube, and everything else is
looked up at the cubes that the surface crosses. A batch of objects is one computation.
"""

from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sar3d.flexicubes.tables import CORNERS, EDGES, TABLES

_EDGE_OF = {frozenset(corners): edge for edge, corners in enumerate(EDGES)}
_CORNER_OF = {place: corner for corner, place in enumerate(CORNERS)}


@dataclass(frozen=True)
class Topology:
    """The mesh of B objects on grids of R³ cubes, all objects in one list, without its geometry.

    M cubes that the surface crosses, P grid points at their corners, N pairs of a crossed edge and the patch it belongs
    to, D dual vertices, Q quads. Cubes, dual vertices and quads are in the order of the objects.
    """

    resolution: int
    """R"""
    valid: list[bool]
    """Of each object: whether it has a surface."""
    cubes: Int[Tensor, "M"]
    """Number of each cube among the B·R³ cubes."""
    points: Int[Tensor, "P"]
    """Number of each point among the B·(R+1)³ grid points, ascending."""
    corners: Int[Tensor, "M 8"]
    """Rows in `points`."""
    border: Bool[Tensor, "P"]
    """Whether a point lies on the grid's border."""
    pair_cube: Int[Tensor, "N"]
    """Rows in `cubes`, ascending."""
    pair_edge: Int[Tensor, "N"]
    """Number of the edge in the cube, see `tables.EDGES`."""
    pair_dual: Int[Tensor, "N"]
    """The dual vertex that the pair contributes to."""
    dual_cube: Int[Tensor, "D"]
    """Rows in `cubes`."""
    quads: Int[Tensor, "Q 4"]
    """Dual vertices, counter-clockwise seen from outside."""
    crossings: Int[Tensor, "Q 2"]
    """Ends of the grid edge that each quad surrounds: rows in `points`."""
    pairs_of: list[int]
    """Pairs of each object."""
    duals_of: list[int]
    """Dual vertices of each object."""
    quads_of: list[int]
    """Quads of each object."""


@torch.no_grad()
def find_surface(sdf: Float[Tensor, "B N N N"]) -> Topology:
    """Where `sdf` changes its sign; negative is inside, zero is outside.

    Points on the grid's border count as outside whatever their value, so every surface is closed. An object of which no
    inner point is inside, or no point is outside, has no surface: `valid` is False and nothing of it is listed.

    Raises:
        ValueError: `sdf` is no batch of cubic grids, or not finite.
    """
    check_grid(sdf)
    batch, resolution = len(sdf), sdf.shape[-1] - 1
    inside, valid = _occupancy(sdf)
    cases = _cases(inside).flatten()
    cubes = ((cases != 0) & (cases != 255)).nonzero().flatten()
    signs = cases.index_select(0, cubes).long()
    points, corners = _corner_points(cubes, batch, resolution)
    patches, owner = _patches(cubes, signs, cases, resolution)
    pair_cube, pair_edge = (owner >= 0).nonzero(as_tuple=True)
    dual_of_edge = (patches.cumsum(0) - patches)[:, None] + owner
    pairs = (pair_cube, pair_edge)
    quads, crossings, quad_cube = _quads(cubes, signs, len(cases), corners, pairs, dual_of_edge, resolution)
    dual_cube = torch.arange(len(cubes), device=sdf.device).repeat_interleave(patches)
    pairs_of, duals_of, quads_of = _by_object(cubes // resolution**3, batch, (pair_cube, dual_cube, quad_cube))
    return Topology(
        resolution=resolution,
        valid=valid,
        cubes=cubes,
        points=points,
        corners=corners,
        border=_on_border(points, resolution + 1),
        pair_cube=pair_cube,
        pair_edge=pair_edge,
        pair_dual=dual_of_edge[pair_cube, pair_edge],
        dual_cube=dual_cube,
        quads=quads,
        crossings=crossings,
        pairs_of=pairs_of,
        duals_of=duals_of,
        quads_of=quads_of,
    )


def check_grid(sdf: Tensor) -> None:
    """ValueError unless `sdf` is a batch of cubic grids."""
    if sdf.ndim != 4 or len(set(sdf.shape[1:])) != 1 or sdf.shape[1] < 2:
        raise ValueError(f"sdf must be (B, R+1, R+1, R+1) with R at least 1, not {tuple(sdf.shape)}")


def _by_object(owner: Int[Tensor, "M"], batch: int, lists: tuple[Tensor, ...]) -> list[list[int]]:
    """How many entries of each list of rows of cubes belong to each object; `owner` is the object of each cube."""
    return [owner[rows].bincount(minlength=batch).tolist() for rows in lists]


def _occupancy(sdf: Float[Tensor, "B N N N"]) -> tuple[Bool[Tensor, "B N N N"], list[bool]]:
    """Which points are inside, and whether each object has a surface; those without are empty."""
    # A sum is finite only if all its terms are, but for overflow: the slower look is seldom needed.
    if not sdf.sum().isfinite() and not sdf.isfinite().all():
        raise ValueError("sdf must be finite: the field has diverged")
    raw = sdf < 0
    inside = torch.zeros_like(raw)
    inner = (slice(None), *3 * (slice(1, -1),))
    inside[inner] = raw[inner]
    valid = inside.flatten(1).any(1) & ~raw.flatten(1).all(1)
    return inside & valid[:, None, None, None], valid.tolist()


def _cases(inside: Bool[Tensor, "B N N N"]) -> Int[Tensor, "B R R R"]:
    """The case of every cube as a byte."""
    bits = inside.to(torch.uint8)
    bits = bits[:, :-1] | bits[:, 1:] << 1
    bits = bits[:, :, :-1] | bits[:, :, 1:] << 2
    return bits[..., :-1] | bits[..., 1:] << 4


def _coordinates(numbers: Int[Tensor, "K"], side: int) -> Int[Tensor, "K 4"]:
    """Object, x, y, z of numbers into (B, side, side, side)."""
    return torch.stack([numbers // side**3, numbers // side**2 % side, numbers // side % side, numbers % side], -1)


def _strides(side: int) -> tuple[int, int, int]:
    """Steps of a number into (B, side, side, side) along x, y, z."""
    return side * side, side, 1


def _rows_of(numbers: Int[Tensor, "K"], total: int) -> Int[Tensor, "total"]:
    """Where each number below `total` stands in `numbers`; 0 for the others."""
    rows = torch.zeros(total, dtype=torch.int64, device=numbers.device)
    rows[numbers] = torch.arange(len(numbers), device=numbers.device)
    return rows


def _corner_points(cubes: Int[Tensor, "M"], batch: int, resolution: int) -> tuple[Int[Tensor, "P"], Int[Tensor, "M 8"]]:
    """The distinct grid points at the corners of cubes, and the rows among them of each cube's corners."""
    side = resolution + 1
    b, x, y, z = _coordinates(cubes, resolution).unbind(-1)
    lowest = ((b * side + x) * side + y) * side + z
    steps = lowest.new_tensor([sum(p * s for p, s in zip(place, _strides(side), strict=True)) for place in CORNERS])
    numbers = lowest[:, None] + steps
    used = torch.zeros(batch * side**3, dtype=torch.bool, device=cubes.device)
    used[numbers.flatten()] = True
    points = used.nonzero().flatten()
    return points, _rows_of(points, len(used))[numbers]


def _on_border(points: Int[Tensor, "P"], side: int) -> Bool[Tensor, "P"]:
    places = _coordinates(points, side)[:, 1:]
    return ((places == 0) | (places == side - 1)).any(-1)


@cache
def _tables(device: torch.device) -> dict[str, Int[Tensor, "..."]]:
    names = ("patch_count", "edge_patch", "problem")
    return {name: torch.from_numpy(getattr(TABLES, name)).to(device) for name in names}


def _patches(
    cubes: Int[Tensor, "M"], signs: Int[Tensor, "M"], cases: Int[Tensor, "cubes"], resolution: int
) -> tuple[Int[Tensor, "M"], Int[Tensor, "M 12"]]:
    """How many patches of surface each cube has, and to which of them each of its edges belongs; -1 for no patch."""
    table = _tables(cubes.device)
    resolved = _resolve_ambiguity(cubes, signs, cases, table["problem"], resolution)
    return table["patch_count"][resolved], table["edge_patch"][resolved]


def _resolve_ambiguity(
    cubes: Int[Tensor, "M"],
    signs: Int[Tensor, "M"],
    cases: Int[Tensor, "cubes"],
    problem: Int[Tensor, "256 3"],
    resolution: int,
) -> Int[Tensor, "M"]:
    """The case whose patches each cube takes: its complement's where the cube across a problematic face has one too."""
    some = problem[signs].any(-1).nonzero().flatten()
    step = problem[signs[some]]
    across = _coordinates(cubes[some], resolution)[:, 1:] + step
    within = ((across >= 0) & (across < resolution)).all(-1)
    some, step = some[within], step[within]
    number = cubes[some] + step @ step.new_tensor(_strides(resolution))
    other = cases[number].long()
    both = some[problem[other].any(-1)]
    resolved = signs.clone()
    resolved[both] = 255 - signs[both]
    return resolved


def _quad_tables() -> tuple[list[list[int]], list[list[tuple[int, int, int]]], list[int]]:
    """Per axis: the edge as each of the four cubes around it sees it, those cubes' places relative to the first, and the
    lower end as the first cube sees it. The cubes are counter-clockwise seen from the edge's upper end; the first is the
    lowest in both directions across.
    """
    edges, steps, lower = [], [], []
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        seen, places = [], []
        for du, dv in ((0, 0), (1, 0), (1, 1), (0, 1)):
            ends = []
            for end in range(2):
                place = [0, 0, 0]
                place[axis], place[u], place[v] = end, 1 - du, 1 - dv
                ends.append(_CORNER_OF[(place[0], place[1], place[2])])
            if (du, dv) == (0, 0):
                lower.append(ends[0])
            seen.append(_EDGE_OF[frozenset(ends)])
            step = [0, 0, 0]
            step[u], step[v] = du, dv
            places.append((step[0], step[1], step[2]))
        edges.append(seen)
        steps.append(places)
    return edges, steps, lower


_QUAD_EDGES, _QUAD_STEPS, _QUAD_LOWER = _quad_tables()


def _quads(
    cubes: Int[Tensor, "M"],
    signs: Int[Tensor, "M"],
    total: int,
    corners: Int[Tensor, "M 8"],
    pairs: tuple[Int[Tensor, "N"], Int[Tensor, "N"]],
    dual_of_edge: Int[Tensor, "M 12"],
    resolution: int,
) -> tuple[Int[Tensor, "Q 4"], Int[Tensor, "Q 2"], Int[Tensor, "Q"]]:
    """Quads, ends of the edges they surround, and the row of the first of each edge's four cubes.

    `total` is the number of cubes of all grids. Every crossed grid edge has an inner point at one end, hence four cubes
    around it.
    """
    pair_cube, pair_edge = pairs
    axis_of_edge = pair_edge.new_full((len(EDGES),), -1)
    axis_of_edge[[seen[0] for seen in _QUAD_EDGES]] = torch.arange(3, device=cubes.device)
    first = (axis_of_edge[pair_edge] >= 0).nonzero().flatten()
    cube, axis = pair_cube[first], axis_of_edge[pair_edge[first]]
    strides = cubes.new_tensor(_strides(resolution))
    steps = (cubes.new_tensor(_QUAD_STEPS) @ strides)[axis]
    rows = _rows_of(cubes, total)[cubes[cube, None] + steps]
    quads = dual_of_edge[rows, cubes.new_tensor(_QUAD_EDGES)[axis]]
    lower = cubes.new_tensor(_QUAD_LOWER)[axis]
    outward = (signs[cube] >> lower & 1).bool()
    quads = torch.where(outward[:, None], quads, quads.flip(-1))
    # Where weights are equal the published code cuts by this order of the corners.
    quads = torch.where((axis == 1)[:, None], quads, quads.roll(-1, dims=-1))
    upper = lower + cubes.new_tensor([1, 2, 4])[axis]
    ends = torch.stack([corners[cube, lower], corners[cube, upper]], -1)
    return quads, ends, cube
