"""The kit: solids that stand on y = 0 around the y axis, unless they say otherwise.

Round parts have u once around and v = 0 at the end of the profile, v = 1 at its start; boxes and prisms have texture
coordinates in their own units of length. `Mesh.tiled` scales both.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from sar3d.procedural.mesh import Floats, Ints, Mesh, join, shade

Profile = Sequence[tuple[float, float]]

_CREASE_DEGREES = 38.0


def skin(rings: Floats, row_creases: Iterable[int] = (), column_creases: Iterable[int] = ()) -> Mesh:
    """Surface over closed rings (R, C, 3): rings counter-clockwise seen from where the rows lead.

    Creased rows and columns keep separate normals on their two sides.
    """
    count, width = rings.shape[:2]
    lengths = np.sqrt((np.diff(rings, axis=0) ** 2).sum(axis=2)).mean(axis=1)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    rows, row_groups = _doubled(count, row_creases)
    columns, column_groups = _doubled(width + 1, column_creases)
    closed = 0 not in set(column_creases)
    if closed and column_groups[-1]:
        column_groups[column_groups == column_groups[-1]] = 0

    points = rings[rows][:, columns % width]
    v = 1.0 - along[rows] / along[-1]
    uvs = np.stack(np.broadcast_arrays((columns / width)[None, :], v[:, None]), axis=2)
    groups = row_groups[:, None] * (int(column_groups.max()) + 1) + column_groups[None, :]
    # Around the tip of a cone normals turn with the surface: the tip has one per column.
    poles = np.flatnonzero(np.ptp(points, axis=1).max(axis=1) == 0.0)
    groups[poles] = groups.max() + 1 + np.arange(len(poles) * len(columns)).reshape(-1, len(columns))
    return shade(points.reshape(-1, 3), uvs.reshape(-1, 2), _quads(len(rows), len(columns)), groups.reshape(-1))


def _doubled(count: int, creases: Iterable[int]) -> tuple[Ints, Ints]:
    repeats = np.ones(count, np.int64)
    inner = [i for i in creases if 0 < i < count - 1]
    repeats[inner] = 2
    index = np.repeat(np.arange(count), repeats)
    groups = np.concatenate([[0], np.cumsum(index[1:] == index[:-1])])
    return index, groups.astype(np.int64)


def _quads(rows: int, columns: int) -> Ints:
    ids = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = ids[:-1, :-1], ids[:-1, 1:], ids[1:, 1:], ids[1:, :-1]
    return np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])


def _creases(points: Floats) -> list[int]:
    steps = np.diff(points, axis=0)
    headings = steps / np.maximum(np.sqrt((steps**2).sum(axis=1, keepdims=True)), 1e-12)
    turns = (headings[1:] * headings[:-1]).sum(axis=1)
    return [int(i) + 1 for i in np.flatnonzero(turns < math.cos(math.radians(_CREASE_DEGREES)))]


def lathe(profile: Profile, segments: int = 28, faceted: bool = False) -> Mesh:
    """Turn a profile of (radius, y) about the y axis; listed upwards it shows its outside, downwards its inside."""
    line = np.array(profile, np.float64)
    angles = 2.0 * math.pi * np.arange(segments) / segments
    if faceted:
        angles = angles + math.pi / segments
    around = np.stack([np.sin(angles), np.zeros(segments), np.cos(angles)], axis=1)
    rings = line[:, None, :1] * around[None] + line[:, 1, None, None] * np.array([0.0, 1.0, 0.0])
    return skin(rings, _creases(line), range(segments + 1) if faceted else ())


def cylinder(radius: float, height: float, top: float | None = None, bevel: float = 0.0, segments: int = 24) -> Mesh:
    """A cylinder, or with another `top` radius a truncated cone, its rims cut by `bevel`."""
    upper = radius if top is None else top
    profile = [
        (0.0, 0.0),
        (radius - bevel, 0.0),
        (radius, bevel),
        (upper, height - bevel),
        (upper - bevel, height),
        (0.0, height),
    ]
    return lathe(profile, segments)


def cone(radius: float, height: float, segments: int = 24) -> Mesh:
    return lathe([(0.0, 0.0), (radius, 0.0), (0.0, height)], segments)


def arc(rx: float, ry: float, start: float, end: float, steps: int, cx: float = 0.0, cy: float = 0.0) -> Profile:
    """Points of an ellipse from `start` to `end` degrees; 0 is at +radius, 90 at the top."""
    angles = [math.radians(start + (end - start) * i / steps) for i in range(steps + 1)]
    points = [(cx + rx * math.cos(a), cy + ry * math.sin(a)) for a in angles]
    return [(0.0 if abs(x) < 1e-9 else x, y) for x, y in points]


def sphere(radius: float, segments: int = 20) -> Mesh:
    """Centred on the origin."""
    return lathe(arc(radius, radius, -90.0, 90.0, segments // 2), segments)


def torus(radius: float, tube: float, segments: int = 28, sides: int = 10) -> Mesh:
    """Centred on the origin, around the y axis."""
    profile = list(arc(tube, tube, 0.0, 360.0, sides, cx=radius))
    profile[-1] = profile[0]
    return lathe(profile, segments)


def band(start: tuple[float, float], end: tuple[float, float], lift: float, cell: float, segments: int = 36) -> Mesh:
    """A painted ribbon `lift` above a wall from (radius, y) to (radius, y), its texture cells `cell` wide."""
    return ribbon([start, end], lift, cell, segments)


def ribbon(profile: Profile, lift: float, cell: float, segments: int = 36) -> Mesh:
    """As `band`, along a whole profile."""
    raised = [(r + lift, y) for r, y in profile]
    length = sum(math.dist(a, b) for a, b in pairwise(profile))
    girth = 2.0 * math.pi * max(r for r, _ in profile)
    surface = lathe([profile[0], *raised, profile[-1]], segments)
    return surface.tiled(max(2.0, float(round(girth / cell))), max(1.0, float(round(2.0 * length / cell)) / 2.0))


def sweep(path: Sequence[tuple[float, float]], radius: float, thickness: float | None = None, sides: int = 10) -> Mesh:
    """A closed-ended tube along a path (x, y) in the plane z = 0; `thickness` is the half width along z."""
    line = np.array(path, np.float64)
    ahead = np.diff(line, axis=0)
    ahead /= np.sqrt((ahead**2).sum(axis=1, keepdims=True))
    tangents = np.concatenate([ahead[:1], ahead[1:] + ahead[:-1], ahead[-1:]])
    tangents /= np.sqrt((tangents**2).sum(axis=1, keepdims=True))
    angles = 2.0 * math.pi * np.arange(sides) / sides
    side = np.stack([-tangents[:, 1], tangents[:, 0]], axis=1)
    rings = np.empty((len(line), sides, 3))
    rings[:, :, :2] = line[:, None] + side[:, None] * (radius * np.cos(angles))[None, :, None]
    rings[:, :, 2] = (radius if thickness is None else thickness) * np.sin(angles)
    return capped(rings)


def capped(rings: Floats, column_creases: Iterable[int] = ()) -> Mesh:
    """`skin` with both ends closed towards their centres."""
    ends = [np.broadcast_to(rings[i].mean(axis=0), rings[i].shape)[None] for i in (0, -1)]
    return skin(np.concatenate([ends[0], rings, ends[1]]), (1, len(rings)), column_creases)


def box(x: float, y: float, z: float, bevel: float = 0.0) -> Mesh:
    """A box with flat cut edges, flat shaded."""
    half = np.array([x, y, z]) / 2.0
    signs = np.array([(a, b, c) for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)], np.float64)
    corner = {axis: signs * (half - bevel * (np.arange(3) != axis)) for axis in range(3)}
    polygons: list[tuple[int, list[Floats]]] = []
    for a, b, c in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        for i in (-1, 1):
            order = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
            polygons.append((a, [corner[a][_pick(signs, {a: i, b: j, c: k})] for j, k in order]))
            for j in (-1, 1):
                ends = [_pick(signs, {a: i, b: j, c: k}) for k in (-1, 1)]
                polygons.append((a, [corner[a][ends[0]], corner[a][ends[1]], corner[b][ends[1]], corner[b][ends[0]]]))
    polygons += [(0, [corner[a][k] for a in range(3)]) for k in range(8)]
    points: list[Floats] = []
    uvs: list[Floats] = []
    faces: list[tuple[int, int, int]] = []
    groups: list[int] = []
    for group, (axis, polygon) in enumerate(polygons):
        ring = np.array(polygon)
        if np.dot(np.cross(ring[1] - ring[0], ring[2] - ring[0]), ring.mean(axis=0)) < 0.0:
            ring = ring[::-1]
        first = len(groups)
        faces += [(first, first + k, first + k + 1) for k in range(1, len(ring) - 1)]
        points.append(ring)
        uvs.append(np.stack([ring[:, 2 if axis == 0 else 0], -ring[:, 2 if axis == 1 else 1]], axis=1))
        groups += [group] * len(ring)
    mesh = shade(np.concatenate(points), np.concatenate(uvs), np.array(faces), np.array(groups))
    return mesh.moved(y=y / 2.0)


def _pick(signs: Floats, wanted: dict[int, int]) -> int:
    return int(np.flatnonzero(np.all(signs == [wanted[0], wanted[1], wanted[2]], axis=1))[0])


def prism(polygon: Sequence[tuple[float, float]], depth: float) -> Mesh:
    """A counter-clockwise polygon (x, y), convex or not, extruded along z about z = 0."""
    outline = np.array(polygon, np.float64)
    n = len(outline)
    triangles = np.array(_ears([(float(a), float(b)) for a, b in outline]))
    flat = np.stack([outline[:, 0], -outline[:, 1]], axis=1)
    lids = []
    for z, order in ((depth / 2.0, 1), (-depth / 2.0, -1)):
        points = np.column_stack([outline, np.full(n, z)])
        lids.append(shade(points, flat, triangles[:, ::order], np.zeros(n, np.int64)))
    rings = np.stack([np.column_stack([outline, np.full(n, z)]) for z in (-depth / 2.0, depth / 2.0)])
    loop = np.concatenate([outline[-1:], outline, outline[:1]])
    bends = [i - 1 for i in _creases(loop)]
    perimeter = float(np.sqrt((np.diff(loop[1:], axis=0) ** 2).sum(axis=1)).sum())
    wall = skin(rings, (), bends).tiled(perimeter, depth)
    return join([*lids, wall])


def _ears(outline: list[tuple[float, float]]) -> list[tuple[int, int, int]]:
    """Ear clipping of a simple counter-clockwise polygon."""
    left = list(range(len(outline)))
    triangles: list[tuple[int, int, int]] = []
    while len(left) > 3:
        for k in range(len(left)):
            a, b, c = left[k - 1], left[k], left[(k + 1) % len(left)]
            others = [outline[i] for i in left if i not in (a, b, c)]
            ear = _turn(outline[a], outline[b], outline[c]) > 1e-12
            if ear and not any(_inside(p, outline[a], outline[b], outline[c]) for p in others):
                triangles.append((a, b, c))
                left.pop(k)
                break
        else:
            raise ValueError("The outline crosses itself or is listed clockwise.")
    return [*triangles, (left[0], left[1], left[2])]


def _turn(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _inside(p: tuple[float, float], a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    return _turn(a, b, p) >= 0.0 and _turn(b, c, p) >= 0.0 and _turn(c, a, p) >= 0.0
