"""A mesh's texture: charts cut and packed by xatlas, texels colored by the field at the surface points they show."""

from dataclasses import dataclass

import numpy as np
import torch
import xatlas
from numpy.typing import NDArray
from scipy import ndimage

from sar3d.errors import ObjectError
from sar3d.export.mesh import Mesh, surface_colors
from sar3d.vqvae.field import Field

_CHARTS = 60
"""Charts of a mesh, at least. The time to flatten a chart grows faster than its size."""

_COST = 8.0
"""At which charts stop growing; xatlas's own 2 takes thrice as long for rugged surfaces and cuts no better."""

_PADDING = 4
"""Pixels between charts in an atlas of `_ATLAS` pixels."""

_ATLAS = 1024


@dataclass(frozen=True)
class Unwrapped:
    """A mesh cut open along its seams, so that every vertex has one place in the texture."""

    vertices: NDArray[np.float32]
    """(V, 3) in the world; those on seams stand there once per chart."""
    normals: NDArray[np.float32]
    """(V, 3) unit: the uncut mesh's, so that seams are not seen."""
    faces: NDArray[np.int32]
    """(F, 3)"""
    uv: NDArray[np.float32]
    """(V, 2) in [0, 1]; v = 0 is the texture's first row (glTF convention)."""


def unwrap(mesh: Mesh) -> Unwrapped:
    """Cut a mesh into charts that lie flat in the unit square without overlap."""
    atlas = xatlas.Atlas()
    atlas.add_mesh(mesh.vertices, mesh.faces.astype(np.uint32))
    charts, pack = xatlas.ChartOptions(), xatlas.PackOptions()
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    doubled = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    charts.max_chart_area = float(doubled.sum()) / 2 / _CHARTS
    charts.max_cost = _COST
    pack.resolution, pack.padding = _ATLAS, _PADDING
    atlas.generate(charts, pack)
    source, faces, uv = atlas[0]
    return Unwrapped(
        vertices=mesh.vertices[source],
        normals=mesh.normals()[source],
        faces=faces.astype(np.int32),
        uv=np.clip(uv, 0, 1).astype(np.float32),
    )


def bake(
    field: Field, unwrapped: Unwrapped, size: int = 1024, *, device: torch.device | str = "cpu"
) -> NDArray[np.uint8]:
    """(size, size, 3) sRGB texture of a mesh from the field's colors at its surface.

    Each texel whose middle a triangle covers shows the field at that point of the surface. The rest takes the color of
    the nearest such texel, so that no filter and no mipmap mixes in a color from between the charts.

    Raises:
        ObjectError: no triangle covers the middle of a texel.
    """
    covered, points, normals = surface_points(unwrapped, size)
    if not covered.any():
        raise ObjectError("degenerate", f"the surface covers no texel of a texture of {size} pixels")
    texture = np.zeros((size, size, 3), np.uint8)
    texture[covered] = surface_colors(field, points, normals, device=device)
    nearest = ndimage.distance_transform_edt(~covered, return_distances=False, return_indices=True)
    return texture[tuple(nearest)]


def surface_points(
    unwrapped: Unwrapped, size: int
) -> tuple[NDArray[np.bool_], NDArray[np.float32], NDArray[np.float32]]:
    """Texels (size, size) whose middles triangles cover; the surface points (N, 3) they show, in raster order; normals."""
    owner = np.full(size * size, -1, np.int32)
    weights = np.zeros((size * size, 3), np.float32)
    corners = unwrapped.uv[unwrapped.faces].astype(np.float64) * size - 0.5
    for some in np.array_split(np.arange(len(corners)), max(1, len(corners) // 8192)):
        texels, triangles, shares = _covered(corners[some], size)
        owner[texels], weights[texels] = some[triangles], shares
    found = np.flatnonzero(owner >= 0)
    of = unwrapped.faces[owner[found]]
    points, normals = (
        np.einsum("nk,nkc->nc", weights[found], values[of]) for values in (unwrapped.vertices, unwrapped.normals)
    )
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-6)
    return (owner >= 0).reshape(size, size), points, normals


def _covered(corners: NDArray[np.float64], size: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Texels whose middles lie in triangles `corners` (F, 3, 2) in texels: their numbers, triangles, and weights (N, 3)."""
    low = np.clip(np.ceil(corners.min(axis=1)), 0, size - 1).astype(np.intp)
    high = np.clip(np.floor(corners.max(axis=1)), -1, size - 1).astype(np.intp)
    width, height = np.maximum(high - low + 1, 0).T
    counts = width * height
    triangle = np.repeat(np.arange(len(corners)), counts)
    place = np.arange(len(triangle)) - np.repeat(np.cumsum(counts) - counts, counts)
    x = low[triangle, 0] + place % width[triangle]
    y = low[triangle, 1] + place // width[triangle]
    a, b, c = (corners[:, i] for i in range(3))
    area = _cross(b - a, c - a)
    point = np.stack([x, y], axis=-1).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        second = _cross(point - a[triangle], (c - a)[triangle]) / area[triangle]
        third = _cross((b - a)[triangle], point - a[triangle]) / area[triangle]
    shares = np.stack([1 - second - third, second, third], axis=-1)
    hit = (shares >= -1e-9).all(axis=1)
    return y[hit] * size + x[hit], triangle[hit], shares[hit]


def _cross(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
