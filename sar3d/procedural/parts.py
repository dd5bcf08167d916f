"""Parts that objects are assembled from: turned, swept, extruded and boxed shapes, wound outwards.

Texture coordinates are lengths on the surface. Around a closed part they are stretched a little, so that a whole number
of tiles goes around and no seam shows.
"""

import functools
import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from sar3d.procedural.mesh import Floats, Ints, ProceduralMesh, join, shade, unit
from sar3d.procedural.paint import TILE

Profile = Sequence[tuple[float, float]]

_CREASE_DEGREES = 38.0
_FLAT = 0.97


def lathe(profile: Profile, segments: int = 20) -> ProceduralMesh:
    """Turn a profile of (radius, y) about the y axis; listed upwards it shows its outside, downwards its inside.

    The surface is smooth along the profile except where that bends by more than 38 degrees.
    """
    line = np.array(profile, np.float64)
    rows, headings = _turned_rows(line)
    angles = 2.0 * math.pi * np.arange(segments + 1) / segments
    sines, cosines = np.sin(angles), np.cos(angles)
    sines[-1], cosines[-1] = 0.0, 1.0
    around = np.stack([sines, np.zeros(segments + 1), cosines], axis=1)
    up = np.array([0.0, 1.0, 0.0])
    points = line[rows, None, :1] * around[None] + line[rows, 1, None, None] * up
    normals = headings[:, None, :1] * around[None] + headings[:, 1, None, None] * up
    along = np.concatenate([[0.0], np.cumsum(np.sqrt((np.diff(line, axis=0) ** 2).sum(axis=1)))])
    u = np.arange(segments + 1) / segments * _whole_tiles(2.0 * math.pi * float(line[:, 0].max()))
    uvs = np.stack(np.broadcast_arrays(u[None, :], -along[rows][:, None]), axis=2)
    # Flat lids take the pattern as seen from above: around a middle point it would shrink to nothing.
    lids = _flat_rows(rows, headings)
    uvs[lids] = points[lids][..., [0, 2]]
    faces = _quads(rows, segments + 1, line[rows, 0] <= 0.0)
    return ProceduralMesh(points.reshape(-1, 3), normals.reshape(-1, 3), uvs.reshape(-1, 2), faces)


def _turned_rows(line: Floats) -> tuple[Ints, Floats]:
    """Points of a profile, twice where it is creased, and the normal (radial, up) of each."""
    steps = np.diff(line, axis=0)
    lengths = np.sqrt((steps**2).sum(axis=1, keepdims=True))
    normals = np.stack([steps[:, 1], -steps[:, 0]], axis=1) / np.maximum(lengths, 1e-12)
    rows, headings = [0], [normals[0]]
    for i in range(1, len(line) - 1):
        before, after = normals[i - 1], normals[i]
        if float(before @ after) < math.cos(math.radians(_CREASE_DEGREES)):
            rows += [i, i]
            headings += [before, after]
        else:
            rows.append(i)
            headings.append((before + after) / math.hypot(*(before + after)))
    return np.array([*rows, len(line) - 1]), np.stack([*headings, normals[-1]])


def _flat_rows(rows: Ints, headings: Floats) -> NDArray[np.bool_]:
    """(R,) whether a row belongs to a run between creases that faces up or down as a whole."""
    runs = np.cumsum(np.concatenate([[False], np.diff(rows) == 0]))
    upright = np.abs(headings[:, 1]) < _FLAT
    return np.bincount(runs, upright)[runs] == 0


def _quads(rows: Ints, columns: int, poles: NDArray[np.bool_] | None = None) -> Ints:
    """Two triangles for each cell of a grid; none across a doubled row, one where a row is a single point."""
    ids = np.arange(len(rows) * columns).reshape(len(rows), columns)
    real = np.diff(rows) != 0
    a, b, c, d = ids[:-1, :-1], ids[:-1, 1:], ids[1:, 1:], ids[1:, :-1]
    first = real if poles is None else real & ~poles[:-1]
    second = real if poles is None else real & ~poles[1:]
    return np.concatenate(
        [np.stack([a, b, c], -1)[first].reshape(-1, 3), np.stack([a, c, d], -1)[second].reshape(-1, 3)]
    )


def _whole_tiles(length: float) -> float:
    return TILE * max(2.0, float(round(length / TILE)))


def cylinder(radius: float, height: float, top: float | None = None, segments: int = 20) -> ProceduralMesh:
    """A cylinder standing on y = 0, or with another `top` radius a truncated cone."""
    upper = radius if top is None else top
    return lathe([(0.0, 0.0), (radius, 0.0), (upper, height), (0.0, height)], segments)


def cone(radius: float, height: float, segments: int = 20) -> ProceduralMesh:
    """Standing on y = 0."""
    return lathe([(0.0, 0.0), (radius, 0.0), (0.0, height)], segments)


def arc(rx: float, ry: float, start: float, end: float, steps: int, cx: float = 0.0, cy: float = 0.0) -> Profile:
    """Points of an ellipse from `start` to `end` degrees; 0 is at +radius, 90 at the top."""
    angles = [math.radians(start + (end - start) * i / steps) for i in range(steps + 1)]
    points = [(cx + rx * math.cos(a), cy + ry * math.sin(a)) for a in angles]
    return [(0.0 if abs(x) < 1e-9 else x, y) for x, y in points]


def sphere(radius: float, segments: int = 18) -> ProceduralMesh:
    """Centered on the origin."""
    return lathe(arc(radius, radius, -90.0, 90.0, segments // 2), segments)


def ellipsoid(x: float, y: float, z: float, segments: int = 18) -> ProceduralMesh:
    """Of these radii, centered on the origin; its poles are at the top and the bottom."""
    wide = max(x, z)
    ball = lathe(arc(wide, y, -90.0, 90.0, segments // 2), segments)
    return ball.scaled(x / wide, 1.0, z / wide)


def torus(radius: float, tube: float, segments: int = 22, sides: int = 8) -> ProceduralMesh:
    """Centered on the origin, around the y axis."""
    profile = list(arc(tube, tube, 0.0, 360.0, sides, cx=radius))
    profile[-1] = profile[0]
    return lathe(profile, segments)


def sweep(
    path: Sequence[tuple[float, float]], radius: float, thickness: float | None = None, sides: int = 8
) -> ProceduralMesh:
    """A closed-ended tube along a path (x, y) in the plane z = 0; `thickness` is the half width along z."""
    return tapered([(x, y, radius) for x, y in path], thickness, sides)


def tapered(
    path: Sequence[tuple[float, float, float]], thickness: float | None = None, sides: int = 8
) -> ProceduralMesh:
    """As `sweep`, along (x, y, radius)."""
    points = np.array(path, np.float64)
    line, radii = points[:, :2], points[:, 2]
    ahead = np.diff(line, axis=0)
    ahead /= np.sqrt((ahead**2).sum(axis=1, keepdims=True))
    tangents = np.concatenate([ahead[:1], ahead[1:] + ahead[:-1], ahead[-1:]])
    tangents /= np.sqrt((tangents**2).sum(axis=1, keepdims=True))
    angles = 2.0 * math.pi * np.arange(sides) / sides
    side = np.stack([-tangents[:, 1], tangents[:, 0]], axis=1)
    rings = np.empty((len(line), sides, 3))
    rings[:, :, :2] = line[:, None] + side[:, None] * (radii[:, None] * np.cos(angles))[..., None]
    rings[:, :, 2] = np.sin(angles) * (radii[:, None] if thickness is None else thickness)
    return capped(rings)


def capped(rings: Floats, column_creases: Iterable[int] = ()) -> ProceduralMesh:
    """`skin` with both ends closed towards their centers."""
    ends = [np.broadcast_to(rings[i].mean(axis=0), rings[i].shape)[None] for i in (0, -1)]
    return skin(np.concatenate([ends[0], rings, ends[1]]), (1, len(rings)), column_creases)


def skin(rings: Floats, row_creases: Iterable[int] = (), column_creases: Iterable[int] = ()) -> ProceduralMesh:
    """Surface over closed rings (R, C, 3): rings counter-clockwise seen from where the rows lead.

    Creased rows and columns keep separate normals on their two sides.
    """
    count, width = rings.shape[:2]
    lengths = np.sqrt((np.diff(rings, axis=0) ** 2).sum(axis=2)).mean(axis=1)
    girths = np.sqrt(((rings - np.roll(rings, 1, axis=1)) ** 2).sum(axis=2)).sum(axis=1)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    rows, row_groups = _doubled(count, row_creases)
    columns, column_groups = _doubled(width + 1, column_creases)
    closed = 0 not in set(column_creases)
    if closed and column_groups[-1]:
        column_groups[column_groups == column_groups[-1]] = 0
    points = rings[rows][:, columns % width]
    u = columns / width * _whole_tiles(float(girths.max()))
    uvs = np.stack(np.broadcast_arrays(u[None, :], -along[rows][:, None]), axis=2)
    groups = row_groups[:, None] * (int(column_groups.max()) + 1) + column_groups[None, :]
    return shade(
        points.reshape(-1, 3), uvs.reshape(-1, 2), _quads(np.arange(len(rows)), len(columns)), groups.reshape(-1)
    )


def _doubled(count: int, creases: Iterable[int]) -> tuple[Ints, Ints]:
    repeats = np.ones(count, np.int64)
    inner = [i for i in creases if 0 < i < count - 1]
    repeats[inner] = 2
    index = np.repeat(np.arange(count), repeats)
    groups = np.concatenate([[0], np.cumsum(index[1:] == index[:-1])])
    return index, groups.astype(np.int64)


@functools.cache
def _unit_box() -> ProceduralMesh:
    """Edges of length 1, standing on y = 0, four vertices to a face."""
    points: list[Floats] = []
    normals: list[Floats] = []
    for axis in range(3):
        for side in (-1.0, 1.0):
            normal = np.zeros(3)
            normal[axis] = side
            across, up = np.zeros(3), np.zeros(3)
            across[2 if axis == 0 else 0], up[2 if axis == 1 else 1] = 1.0, 1.0
            if np.dot(np.cross(across, up), normal) < 0.0:
                across = -across
            corners = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
            points.append(np.stack([(normal + i * across + j * up) / 2.0 for i, j in corners]))
            normals.append(np.broadcast_to(normal, (4, 3)))
    faces = np.concatenate([np.array([[0, 1, 2], [0, 2, 3]]) + 4 * i for i in range(6)])
    positions = np.concatenate(points) + np.array([0.0, 0.5, 0.0])
    return ProceduralMesh(positions, np.concatenate(normals), np.zeros((24, 2)), faces)


def box(x: float, y: float, z: float) -> ProceduralMesh:
    """Edges of these lengths, standing on y = 0."""
    base = _unit_box()
    positions = base.positions * np.array([x, y, z])
    flat, upright = np.abs(base.normals[:, 1]) > 0.5, np.abs(base.normals[:, 0]) > 0.5
    # The pattern starts at the middle of each face.
    u = np.where(upright, positions[:, 2], positions[:, 0])
    v = np.where(flat, positions[:, 2], y / 2.0 - positions[:, 1])
    return ProceduralMesh(positions, base.normals, np.stack([u, v], axis=1), base.faces)


def frustum(x: float, z: float, y: float, top_x: float, top_z: float) -> ProceduralMesh:
    """A box whose top has other edges: x by z at y = 0, `top_x` by `top_z` at height `y`; flat shaded."""
    corners = [(-1, 1), (1, 1), (1, -1), (-1, -1)]
    rings = np.array([[(i * a / 2, h, j * b / 2) for i, j in corners] for h, a, b in ((0.0, x, z), (y, top_x, top_z))])
    return capped(rings, (0, 1, 2, 3, 4))


def prism(polygon: Sequence[tuple[float, float]], depth: float) -> ProceduralMesh:
    """A counter-clockwise polygon (x, y), convex or not, extruded along z about z = 0; flat shaded at its corners."""
    outline = np.array(polygon, np.float64)
    n = len(outline)
    triangles = np.array(_ears([(float(a), float(b)) for a, b in outline]))
    flat = np.stack([outline[:, 0], -outline[:, 1]], axis=1)
    lids = []
    for z, order in ((depth / 2.0, 1), (-depth / 2.0, -1)):
        points = np.column_stack([outline, np.full(n, z)])
        normals = np.broadcast_to(np.array([0.0, 0.0, math.copysign(1.0, z)]), (n, 3))
        lids.append(ProceduralMesh(points, normals, flat, triangles[:, ::order]))
    return join([*lids, _wall(outline, depth)])


def _wall(outline: Floats, depth: float) -> ProceduralMesh:
    """The sides of a prism, smooth where its outline bends little."""
    edges = np.roll(outline, -1, axis=0) - outline
    lengths = np.sqrt((edges**2).sum(axis=1, keepdims=True))
    flat = np.stack([edges[:, 1], -edges[:, 0]], axis=1) / lengths
    before = np.roll(flat, 1, axis=0)
    mean = flat + before
    smooth = (flat * before).sum(axis=1, keepdims=True) > math.cos(math.radians(_CREASE_DEGREES))
    blended = mean / np.maximum(np.sqrt((mean**2).sum(axis=1, keepdims=True)), 1e-12)
    starts = np.where(smooth, blended, flat)
    ends = np.roll(np.where(smooth, blended, before), -1, axis=0)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    points, normals, uvs = [], [], []
    for side in (-depth / 2.0, depth / 2.0):
        for corner, normal, u in ((outline, starts, along[:-1]), (np.roll(outline, -1, axis=0), ends, along[1:])):
            points.append(np.column_stack([corner, np.full(len(outline), side)]))
            normals.append(np.column_stack([normal, np.zeros(len(outline))]))
            uvs.append(np.column_stack([u, np.full(len(outline), side)]))
    n = len(outline)
    ids = np.arange(n)
    a, b, d, c = ids, ids + n, ids + 2 * n, ids + 3 * n
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    return ProceduralMesh(np.concatenate(points), unit(np.concatenate(normals)), np.concatenate(uvs), faces)


def _ears(outline: list[tuple[float, float]]) -> list[tuple[int, int, int]]:
    """Ear clipping of a simple counter-clockwise polygon."""
    left = list(range(len(outline)))
    triangles: list[tuple[int, int, int]] = []
    while len(left) > 3:
        for k in range(len(left)):
            a, b, c = left[k - 1], left[k], left[(k + 1) % len(left)]
            if _turn(outline[a], outline[b], outline[c]) <= 1e-12:
                continue
            others = (outline[i] for i in left if i not in (a, b, c))
            if not any(_inside(p, outline[a], outline[b], outline[c]) for p in others):
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


def at_sides(mesh: ProceduralMesh, x: float) -> ProceduralMesh:
    """The part at x and its turned twin at -x."""
    return join([mesh.moved(x=x), mesh.turned("y", 180.0).moved(x=-x)])


def at_corners(mesh: ProceduralMesh, x: float, z: float) -> ProceduralMesh:
    """The part at the four corners of a rectangle."""
    return join([mesh.moved(x=i * x, z=j * z) for i in (-1, 1) for j in (-1, 1)])


def around(mesh: ProceduralMesh, count: int, start: float = 0.0) -> ProceduralMesh:
    """The part `count` times around the y axis, first turned by `start` degrees."""
    return join([mesh.turned("y", start + 360.0 * i / count) for i in range(count)])
