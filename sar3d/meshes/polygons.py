"""Polygons of any shape as triangles: convex ones cut as fans, concave ones by ear cutting (mapbox-earcut)."""

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

_FLAT = 1e-9
"""A corner turns backwards if its cross product, relative to the polygon's area, is below minus this."""


def triangulate(points: NDArray[np.float64], corners: Integers, sizes: Integers) -> tuple[Integers, Integers]:
    """Cut polygons into triangles that keep their winding.

    `corners` (C,) are the point numbers of all polygons one after another, `sizes` (F,) how many each has, at least 3;
    all of `points` (N, 3) that they name exist. Returns (triangles (T, 3) as places in `corners`, the polygon of each
    (T,)), in the order of the polygons; a polygon of n corners gives n - 2 triangles, fewer where corners coincide or
    lie on an edge. Polygons that are not plane are cut as they look along their mean normal.
    """
    starts = np.cumsum(sizes) - sizes
    if (sizes == 3).all():
        return starts[:, None] + np.arange(3), np.arange(len(sizes))
    parts, owners = [], []
    for size in np.unique(sizes).tolist():
        which = np.flatnonzero(sizes == size)
        places = starts[which, None] + np.arange(size)
        if size > 3:
            concave = _concave(points, corners, places)
            for polygon in np.flatnonzero(concave).tolist():
                cut = _ears(points[corners[places[polygon]]])
                parts.append(places[polygon][cut])
                owners.append(np.full(len(cut), which[polygon]))
            which, places = which[~concave], places[~concave]
        fan = np.stack([np.zeros(size - 2, np.int64), np.arange(1, size - 1), np.arange(2, size)], axis=1)
        parts.append(places[:, fan].reshape(-1, 3))
        owners.append(np.repeat(which, size - 2))
    owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    return np.concatenate(parts)[order], owner[order]


def _normals(polygons: NDArray[np.float64]) -> NDArray[np.float64]:
    """(F, 3) twice the area of polygons (F, n, 3), along the mean normal (Newell's method)."""
    around = polygons - polygons[:, :1]
    return np.cross(around, np.roll(around, -1, axis=1)).sum(axis=1)


def _concave(points: NDArray[np.float64], corners: Integers, places: Integers) -> NDArray[np.bool_]:
    """(F,) whether a corner of a polygon turns backwards; `places` (F, n)."""
    # Block by block: all corners of millions of faces at once would fill the memory.
    block = max(1, (1 << 20) // places.shape[1])
    found = np.zeros(len(places), bool)
    for first in range(0, len(places), block):
        polygons = points[corners[places[first : first + block]]]
        normals = _normals(polygons)
        before = polygons - np.roll(polygons, 1, axis=1)
        turns = np.einsum("fnc,fc->fn", np.cross(before, np.roll(before, -1, axis=1)), normals)
        squares = np.einsum("fc,fc->f", normals, normals)
        found[first : first + block] = (turns < -_FLAT * squares[:, None]).any(axis=1)
    return found


def _ears(polygon: NDArray[np.float64]) -> Integers:
    """(T, 3) corners of the triangles of one polygon (n, 3)."""
    import mapbox_earcut  # few files have concave polygons

    normal = _normals(polygon[None])[0]
    flat = np.delete(polygon, np.abs(normal).argmax(), axis=1)
    flat = flat - flat.mean(axis=0)
    cut = mapbox_earcut.triangulate_float64(flat / max(np.abs(flat).max(), 1e-300), np.array([len(flat)], np.uint32))
    triangles = cut.astype(np.int64).reshape(-1, 3)
    a, b, c = (polygon[triangles[:, i]] for i in range(3))
    area = np.cross(b - a, c - a) @ normal
    return triangles if area.sum() >= 0 else triangles[:, ::-1]
