"""From the bytes of a .ply file to pieces of a scene."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sar3d.errors import ObjectError
from sar3d.meshes.assemble import Piece
from sar3d.meshes.beside import Beside
from sar3d.meshes.colors import linear_colors
from sar3d.meshes.limits import MeshLimits
from sar3d.meshes.ply.body import Lists, Table, read_body
from sar3d.meshes.ply.header import read_header
from sar3d.meshes.polygons import triangulate
from sar3d.meshes.scene import Material
from sar3d.meshes.soup import Triangles, check_corners, check_triangles, piece_of
from sar3d.meshes.textures import TextureFiles
from sar3d.meshes.warning_list import WarningList

Integers = NDArray[np.int64]

_Names = tuple[tuple[str, ...], ...]
_POSITIONS: _Names = (("x", "y", "z"), ("px", "py", "pz"), ("posx", "posy", "posz"))
_NORMALS: _Names = (("nx", "ny", "nz"), ("normal_x", "normal_y", "normal_z"), ("normalx", "normaly", "normalz"))
_COLORS: _Names = tuple(
    tuple(f"{before}{channel}" for channel in channels)
    for channels in (("red", "green", "blue"), ("r", "g", "b"))
    for before in ("", "diffuse_", "color_", "vertex_")
)
_UVS: _Names = (
    *(("s", "t"), ("u", "v"), ("texture_u", "texture_v"), ("texture_s", "texture_t")),
    *(("texcoord_u", "texcoord_v"), ("texcoord_x", "texcoord_y"), ("tx", "ty")),
)
_FACE_UVS = ("texcoord", "texcoords", "texture_coordinates")
_READ_ELEMENTS = ("vertex", "face", "tristrips")


@dataclass(frozen=True)
class _Vertices:
    """The vertices of the file, (N, ...) each."""

    positions: NDArray[np.float64]
    normals: NDArray[np.float64] | None
    uvs: NDArray[np.float64] | None
    colors: NDArray[np.float32] | None
    """Linear."""


@dataclass(frozen=True)
class _Polygons:
    """The faces of the file."""

    corners: Integers
    sizes: Integers
    uvs: NDArray[np.floating] | None = None
    """(C, 2) of each corner."""
    colors: NDArray[np.float32] | None = None
    """(F, 4) linear."""
    textures: Integers | None = None
    """(F,) number of the texture file."""


def read_ply(data: bytes, beside: Beside, limits: MeshLimits, warnings: WarningList) -> list[Piece]:
    """Pieces in the file's own axes, none for a file without faces. Raises ObjectError."""
    header = read_header(data)
    tables = read_body(data, header)
    polygons = _polygons(tables, warnings)
    if "vertex" not in tables or polygons is None or not len(polygons.sizes):
        return []
    vertices = _vertices(tables["vertex"], warnings)
    for name, table in tables.items():
        if name not in _READ_ELEMENTS and table.element.count:
            warnings.add(f"its elements {name[:40]!r} are not drawn")
    check_corners(polygons.corners, len(vertices.positions))
    check_triangles(polygons.sizes, limits)
    places, owner = triangulate(vertices.positions, polygons.corners, polygons.sizes)
    numbers = np.zeros(len(owner), np.int64) if polygons.textures is None else polygons.textures[owner]
    textured = vertices.uvs is not None or polygons.uvs is not None
    pieces = []
    for material, which in _by_texture(
        header.comments, numbers, textured, TextureFiles(beside, limits), beside, warnings
    ):
        pieces.append(piece_of(_triangles(vertices, polygons, places[which], owner[which], material)))
    return pieces


def _vertices(table: Table, warnings: WarningList) -> _Vertices:
    used: set[str] = set()
    positions = _columns(table, _POSITIONS, used)
    if positions is None:
        raise ObjectError("malformed", "its vertices have no x, y and z")
    normals, uvs = _columns(table, _NORMALS, used), _columns(table, _UVS, used)
    colors = _colors(table, used, warnings)
    _warn_of_unread(table, used, warnings)
    return _Vertices(positions, normals, uvs, colors)


def _triangles(
    vertices: _Vertices,
    polygons: _Polygons,
    places: Integers,
    owner: Integers,
    material: Material,
) -> Triangles:
    """Of one material: `places` (T, 3) in the polygons' corners, `owner` (T,) the polygon."""
    corners = polygons.corners[places]
    uvs = colors = None
    if material.texture is not None:
        given = polygons.uvs[places] if polygons.uvs is not None else np.asarray(vertices.uvs)[corners]
        uvs = given.astype(np.float32)
    if polygons.colors is not None:
        colors = np.repeat(polygons.colors[owner][:, None], 3, axis=1)
    elif vertices.colors is not None:
        colors = vertices.colors[corners]
    # Corners with colors or texture coordinates of their own share no vertices.
    own = polygons.colors is not None or (uvs is not None and polygons.uvs is not None)
    keys = np.arange(corners.size).reshape(corners.shape) if own else None
    normals = None if vertices.normals is None or polygons.colors is not None else vertices.normals[corners]
    return Triangles(vertices.positions, corners, material, uvs, normals, colors, keys)


def _columns(table: Table, spellings: Sequence[Sequence[str]], used: set[str]) -> NDArray[np.float64] | None:
    """(rows, channels) of the first spelling that the table has in full."""
    for names in spellings:
        if all(name in table.columns for name in names):
            used.update(names)
            return np.stack([table.columns[name] for name in names], axis=1).astype(np.float64)
    return None


def _colors(table: Table, used: set[str], warnings: WarningList) -> NDArray[np.float32] | None:
    """(rows, 4) linear; integers count up to their type's greatest value."""
    for names in _COLORS:
        if all(name in table.columns for name in names):
            alpha = names[0].replace("red", "alpha") if "red" in names[0] else names[0][:-1] + "a"
            names = (*names, alpha) if alpha in table.columns else names
            used.update(names)
            values = np.stack([table.columns[name] for name in names], axis=1).astype(np.float64)
            code = table.type_of(names[0])
            if code[0] in "iu":  # wide integers hold bytes more often than not
                values /= 255.0 if values.max(initial=0.0) <= 255.0 else float(np.iinfo(code).max)
            return linear_colors(values, warnings)
    return None


def _polygons(tables: dict[str, Table], warnings: WarningList) -> _Polygons | None:
    faces = tables.get("face")
    if faces is None:
        strips = tables.get("tristrips")
        return None if strips is None else _strips(strips)
    index = next((name for name in faces.lists if name.startswith(("vertex_ind", "vertexind"))), None)
    if index is None:
        raise ObjectError("malformed", "its faces have no list of vertex indices")
    used = {index}
    lists = faces.lists[index]
    colors = _colors(faces, used, warnings)
    textures = _columns(faces, (("texnumber",), ("texture_number",)), used)
    face_uvs = next((name for name in _FACE_UVS if name in faces.lists), None)
    uvs = None if face_uvs is None else _face_uvs(faces.lists[face_uvs], lists.sizes, warnings)
    used.update(() if face_uvs is None else (face_uvs,))
    _warn_of_unread(faces, used, warnings)
    polygons = _Polygons(
        _whole(lists.values),
        lists.sizes,
        uvs,
        colors,
        None if textures is None else _whole(textures[:, 0]),
    )
    return _without_short(polygons, warnings)


def _strips(table: Table) -> _Polygons | None:
    """Triangles of strips, which a negative index ends; every other one is wound the other way."""
    lists = next((lists for name, lists in table.lists.items() if name.startswith("vertex_ind")), None)
    if lists is None:
        raise ObjectError("malformed", "its triangle strips have no list of vertex indices")
    corners = []
    for strip in np.split(lists.values, np.cumsum(lists.sizes)[:-1]):
        whole = _whole(strip)
        for part in np.split(whole, np.flatnonzero(whole < 0)):
            run = part[part >= 0]
            faces = np.stack([run[:-2], run[1:-1], run[2:]], axis=1) if len(run) > 2 else np.zeros((0, 3), np.int64)
            faces[1::2] = faces[1::2, [1, 0, 2]]
            corners.append(faces.reshape(-1))
    flat = np.concatenate([np.zeros(0, np.int64), *corners])
    return _Polygons(flat, np.full(len(flat) // 3, 3))


def _whole(values: NDArray[Any]) -> Integers:
    """Indices as int64. Raises ObjectError `malformed` for fractions."""
    whole = np.nan_to_num(values, nan=0.5).astype(np.int64)
    if values.dtype.kind == "f" and not (whole == values).all():
        raise ObjectError("malformed", "an index of its faces is not a whole number")
    return whole


def _face_uvs(lists: Lists, sizes: Integers, warnings: WarningList) -> NDArray[np.float64] | None:
    """(C, 2) of the corners of all faces, 0 for faces that have none."""
    fits = lists.sizes == 2 * sizes
    if not fits.any():
        return None
    out = np.zeros((int(sizes.sum()), 2))
    out[np.repeat(fits, sizes)] = lists.values[np.repeat(fits, lists.sizes)].reshape(-1, 2)
    if not fits.all():
        warnings.add(f"{int((~fits).sum())} of its faces have no texture coordinates and show one color")
    return out


def _without_short(polygons: _Polygons, warnings: WarningList) -> _Polygons:
    keep = polygons.sizes >= 3
    if keep.all():
        return polygons
    warnings.add(f"{int((~keep).sum())} of its faces have fewer than three corners and are left out")
    corner = np.repeat(keep, polygons.sizes)
    return _Polygons(
        polygons.corners[corner],
        polygons.sizes[keep],
        None if polygons.uvs is None else polygons.uvs[corner],
        None if polygons.colors is None else polygons.colors[keep],
        None if polygons.textures is None else polygons.textures[keep],
    )


def _by_texture(
    comments: Sequence[str],
    numbers: Integers,
    has_uvs: bool,
    files: TextureFiles,
    beside: Beside,
    warnings: WarningList,
) -> Iterator[tuple[Material, Integers]]:
    """(material, the triangles that have it), from MeshLab's comments `TextureFile NAME` and the texture number (T,)."""
    names = [comment[11:].strip() for comment in comments if comment.lower().startswith("texturefile")]
    if names and not has_uvs:
        warnings.add("it names a texture, but has no texture coordinates; it is drawn without")
    if not names or not has_uvs:
        yield Material(), np.arange(len(numbers))
        return
    for number in np.unique(numbers).tolist():
        if number >= len(names):
            warnings.add(f"some faces have texture number {number}, but only {len(names)} are named; they are white")
        known = 0 <= number < len(names)
        material = Material(texture=files.load(beside.find(names[number]))) if known else Material()
        yield material, np.flatnonzero(numbers == number)


def _warn_of_unread(table: Table, used: set[str], warnings: WarningList) -> None:
    unread = [p.name for p in table.element.properties if p.name not in used]
    if unread:
        warnings.add(f"these properties of its element {table.element.name!r} are not drawn: {', '.join(unread)[:150]}")
