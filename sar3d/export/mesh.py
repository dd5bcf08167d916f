"""The surface of a field as triangles: marching cubes over its raw density, cleaned and simplified."""

from dataclasses import dataclass

import fast_simplification
import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse import csgraph
from skimage.measure import marching_cubes
from torch import Tensor

from sar3d.errors import ObjectError
from sar3d.export.lattice import surface_lattice
from sar3d.export.level import raw_level, silhouette_level
from sar3d.vqvae.field import Field, MeshField

INSET = 0.01
"""Colors are read this share of the cube's side below the surface: rays stop there rather than at the surface itself,
where what a field says of color was hardly seen in training."""

FADING = 0.02
"""Nor are colors read within this share of the side of the cube's faces: features fade out over half a texel there."""

_LEAST_AREA = 1e-12
"""Faces below this area, in units of the cube's, have no direction."""

_PLACES = 1 << 18
"""Vertices closer than this part of the cube's side are one."""

_POINTS = {"cpu": 1 << 16, "cuda": 1 << 20}


@dataclass(frozen=True)
class Mesh:
    """Triangles in the world: z is up, inside the field's cube."""

    vertices: NDArray[np.float32]
    """(V, 3); each is a corner of some face."""
    faces: NDArray[np.int32]
    """(F, 3), counter-clockwise seen from outside; none is degenerate."""

    def normals(self) -> NDArray[np.float32]:
        """(V, 3) unit, outward: the mean of the faces around each vertex, weighted by their areas."""
        vectors = np.repeat(_face_vectors(self.vertices, self.faces), 3, axis=0)
        corners = self.faces.reshape(-1)
        sums = np.stack([np.bincount(corners, vectors[:, i], len(self.vertices)) for i in range(3)], axis=1)
        length = np.linalg.norm(sums, axis=1, keepdims=True)
        # Two faces back to back cancel; any direction is as good there.
        return np.where(length > 0, sums / np.where(length > 0, length, 1), [0.0, 0.0, 1.0]).astype(np.float32)


def extract_mesh(
    field: Field,
    *,
    grid: int = 192,
    level: float | None = None,
    faces: int | None = None,
    floaters: float = 0.001,
    device: torch.device | str = "cpu",
) -> Mesh:
    """The surface of a field of one object.

    Args:
        field: of one object; where it reaches the cube's faces, its surface is closed there.
        grid: points along a side of the cube.
        level: density per unit length at which the surface lies; None: `level.silhouette_level`.
        faces: triangles at most, by simplification; None or 0 keeps all.
        floaters: separate pieces below this share of the whole area are dropped; the largest always stays.
        device: where the field is.

    A field that is a mesh (`MeshField`) gives its own triangles; `grid` and `level` mean nothing to it. Cavities that no
    light reaches from outside are closed: training says nothing about them, and nobody sees them.

    Raises:
        ObjectError: the field is empty, solid throughout, or its surface has no area.
    """
    if isinstance(field, MeshField):
        mesh = own_mesh(field)
    else:
        threshold = silhouette_level(field, device) if level is None else raw_level(field, level)
        values, _ = surface_lattice(field, grid, threshold, device)
        mesh = surface_of(values.cpu().numpy(), threshold, field.side)
    mesh = without_floaters(mesh, floaters)
    return simplified(mesh, faces) if faces else mesh


def surface_of(values: NDArray[np.float32], threshold: float, side: float) -> Mesh:
    """Where `values` (G, G, G), axes x, y, z from face to face of a cube of `side`, cross `threshold`; closed.

    Raises:
        ObjectError: they do not cross it, or the surface has no area.
    """
    inside = values > threshold
    if not inside.any():
        raise ObjectError("empty_field", "the field is nowhere dense enough to have a surface")
    if inside.all():
        raise ObjectError("solid_field", "the field is dense throughout its cube and has no surface inside it")
    span = float(np.abs(values - threshold).max())
    # So steep a fall beyond the cube puts the closing faces onto the cube's.
    padded = np.pad(_without_cavities(values, inside, threshold), 1, constant_values=threshold - 1e3 * span)
    vertices, faces, _, _ = marching_cubes(padded, threshold, gradient_direction="ascent")
    half = side / 2
    positions = np.clip((vertices - 1) * (side / (len(values) - 1)) - half, -half, half)
    return _clean(positions.astype(np.float32), faces.astype(np.int32), side)


def _without_cavities(values: NDArray[np.float32], inside: NDArray[np.bool_], threshold: float) -> NDArray[np.float32]:
    """`values` with every hollow filled that is not connected to what is outside the cube."""
    hollow, count = ndimage.label(np.pad(~inside, 1, constant_values=True))
    if count == 1:
        return values
    enclosed = (hollow > 1)[1:-1, 1:-1, 1:-1]  # scanning starts outside, so outside is number 1
    return np.where(enclosed, values.max(), values)


def own_mesh(field: MeshField) -> Mesh:
    """The triangles of a field of one object that is a mesh, less the walls of its cavities.

    Raises:
        ObjectError: it has no surface, or its surface has no area.
    """
    vertices, faces = (tensor.cpu().numpy() for tensor in field.triangles())
    if not len(faces):
        raise ObjectError("empty_field", "the field has no surface: its object is empty or fills the whole cube")
    mesh = Mesh(vertices.astype(np.float32), faces.astype(np.int32))
    pieces, owner = _pieces(mesh)
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    # Walls of cavities face inward, so the volume they enclose is negative.
    volume = np.bincount(owner, np.einsum("ni,ni->n", np.cross(corners[:, 0], corners[:, 1]), corners[:, 2]), pieces)
    kept = mesh.faces[volume[owner] > 0]
    if not len(kept):
        raise ObjectError("empty_field", "the field's surface encloses no volume")
    return _clean(mesh.vertices, kept, field.side)


def _pieces(mesh: Mesh) -> tuple[int, NDArray[np.int32]]:
    """How many separate pieces there are, and the number (F,) of each face's."""
    count = len(mesh.vertices)
    rows, columns = mesh.faces[:, [0, 1]].T
    more_rows, more_columns = mesh.faces[:, [1, 2]].T
    ends = np.concatenate([rows, more_rows]), np.concatenate([columns, more_columns])
    graph = sparse.coo_matrix((np.ones(len(ends[0]), np.int8), ends), shape=(count, count))
    pieces, piece = csgraph.connected_components(graph, directed=False)
    return pieces, piece[mesh.faces[:, 0]]


def without_floaters(mesh: Mesh, share: float) -> Mesh:
    """The mesh less the separate pieces with less than `share` of the whole area; the largest piece always stays."""
    pieces, owner = _pieces(mesh)
    area = np.bincount(owner, np.linalg.norm(_face_vectors(mesh.vertices, mesh.faces), axis=1), pieces)
    kept = (area >= share * area.sum()) | (area == area.max())
    return mesh if kept.all() else _referenced(mesh.vertices, mesh.faces[kept[owner]])


def simplified(mesh: Mesh, faces: int) -> Mesh:
    """About `faces` triangles or fewer, by quadric edge collapse (Garland and Heckbert 1997).

    Raises:
        ObjectError: no triangle with an area is left.
    """
    if len(mesh.faces) <= faces:
        return mesh
    # Quadrics are products of small numbers; in units of the extent none of them vanishes.
    low, extent = mesh.vertices.min(axis=0), float(np.ptp(mesh.vertices, axis=0).max())
    points, triangles = fast_simplification.simplify((mesh.vertices - low) / extent, mesh.faces, target_count=faces)
    positions = np.clip(points * extent + low, low, mesh.vertices.max(axis=0))
    return _clean(positions.astype(np.float32), _without_fins(np.asarray(triangles, np.int32)), extent)


def vertex_colors(field: Field, mesh: Mesh, *, device: torch.device | str = "cpu") -> NDArray[np.uint8]:
    """(V, 3) sRGB colors of a mesh's vertices, as its field shows them."""
    return surface_colors(field, mesh.vertices, mesh.normals(), device=device)


def surface_colors(
    field: Field,
    points: NDArray[np.floating],
    normals: NDArray[np.floating],
    *,
    device: torch.device | str = "cpu",
) -> NDArray[np.uint8]:
    """(N, 3) sRGB colors of a field of one object at surface `points` (N, 3) with outward unit `normals` (N, 3).

    Those of a density are read `INSET` below the surface, those of a mesh on it.
    """
    size = _POINTS.get(torch.device(device).type, 1 << 16)
    with torch.no_grad():
        if isinstance(field, MeshField):
            places = torch.from_numpy(np.ascontiguousarray(points, np.float32))
            parts = [field.color(part[None].to(device))[0].cpu() for part in places.split(size)]
        else:
            bound = field.side * (0.5 - FADING)
            places = torch.from_numpy(np.ascontiguousarray(points - INSET * field.side * normals, np.float32))
            inside = places.clamp(-bound, bound).split(size)
            parts = [field.query(part[None].to(device)).rgb[0].cpu() for part in inside]
    return _bytes(torch.cat(parts)) if parts else np.zeros((0, 3), np.uint8)


def _bytes(colors: Float[Tensor, "N 3"]) -> NDArray[np.uint8]:
    return (colors.float().clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def _face_vectors(vertices: NDArray[np.floating], faces: NDArray[np.int32]) -> NDArray[np.float64]:
    """(F, 3) outward vectors as long as twice the face's area."""
    a, b, c = (vertices[faces[:, i]].astype(np.float64) for i in range(3))
    return np.cross(b - a, c - a)


def _clean(vertices: NDArray[np.float32], faces: NDArray[np.int32], side: float) -> Mesh:
    """Vertices at one place become one; faces without area go. Raises `ObjectError` if none is left."""
    offsets = vertices.astype(np.float64) - vertices.min(axis=0)
    x, y, z = np.rint(offsets * (_PLACES / side)).astype(np.int64).T
    keys = (x * (2 * _PLACES) + y) * (2 * _PLACES) + z
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    places, faces = vertices[first], which.reshape(-1).astype(np.int32)[faces]
    area = np.linalg.norm(_face_vectors(places, faces), axis=1)
    faces = faces[area > _LEAST_AREA * side**2]
    if not len(faces):
        raise ObjectError("degenerate", "the field's surface has no area: it is thinner than the grid can show")
    return _referenced(places, faces)


def _without_fins(faces: NDArray[np.int32]) -> NDArray[np.int32]:
    """The faces less those that stand back to back on the same three vertices: collapsing edges leaves some."""
    _, which, count = np.unique(np.sort(faces, axis=1), axis=0, return_inverse=True, return_counts=True)
    return faces[count[which.reshape(-1)] == 1]


def _referenced(vertices: NDArray[np.float32], faces: NDArray[np.int32]) -> Mesh:
    used, which = np.unique(faces, return_inverse=True)
    return Mesh(np.ascontiguousarray(vertices[used]), which.reshape(-1, 3).astype(np.int32))
