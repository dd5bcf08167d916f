"""From the bytes of an .obj file to pieces of a scene."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sar3d.errors import ObjectError
from sar3d.meshes.assemble import Piece
from sar3d.meshes.beside import Beside, shown
from sar3d.meshes.colors import linear_colors
from sar3d.meshes.limits import MeshLimits
from sar3d.meshes.obj.faces import ABSENT, read_corners
from sar3d.meshes.obj.materials import MappedMaterial, Materials
from sar3d.meshes.obj.statements import Rows, Statements, read_statements
from sar3d.meshes.polygons import triangulate
from sar3d.meshes.soup import Triangles, check_triangles, piece_of
from sar3d.meshes.text_numbers import read_floats
from sar3d.meshes.textures import TextureFiles
from sar3d.meshes.warning_list import WarningList

Integers = NDArray[np.int64]

_FREE_FORM = {"cstype", "deg", "bmat", "step", "curv", "curv2", "surf", "parm", "trim", "hole", "scrv", "sp", "end"}
_FREE_FORM |= {"con", "vp", "ctech", "stech"}
_READ = {"mtllib", "usemtl", "#mrgb"}
_WITHOUT_EFFECT = {"mg", "bevel", "c_interp", "d_interp", "lod", "shadow_obj", "trace_obj"}


@dataclass(frozen=True)
class _Faces:
    """Triangles of the whole file, and what the file has for their corners."""

    corners: dict[str, Integers]
    """(T, 3) each: numbers of position, texture coordinate and normal, `ABSENT` where there is none."""
    lines: Integers
    """(T,) line of the face."""


def read_obj(data: bytes, beside: Beside, limits: MeshLimits, warnings: WarningList) -> list[Piece]:
    """Pieces in the file's own axes, none for a file without faces. Raises ObjectError."""
    statements = read_statements(data)
    _warn_of_others(statements, warnings)
    rows = statements.rows
    if not len(rows["f"].lines):
        return []
    positions, colors = _vertices(statements, warnings)
    faces = _faces(rows, positions, limits, warnings)
    normals = _table(rows["vn"], 3, "vn")[:, :3] if (faces.corners["vn"] != ABSENT).any() else None
    uvs = None
    pieces = []
    for mapped, which in _by_material(statements, faces, beside, limits, warnings):
        if mapped.material.texture is not None and uvs is None:
            uvs = _uvs(rows["vt"])
        for part in _by_attributes(faces, which, mapped, warnings):
            pieces.append(piece_of(_triangles(faces, part, mapped, positions, colors, uvs, normals)))
    return pieces


def _faces(rows: dict[str, Rows], positions: NDArray[np.float64], limits: MeshLimits, warnings: WarningList) -> _Faces:
    sizes, lines = rows["f"].sizes, rows["f"].lines
    corners = read_corners(rows, warnings)
    polygon = sizes >= 3
    if not polygon.all():
        warnings.add(f"{int((~polygon).sum())} of its faces have fewer than three corners and are left out")
        corners = {kind: values[np.repeat(polygon, sizes)] for kind, values in corners.items()}
        sizes, lines = sizes[polygon], lines[polygon]
    check_triangles(sizes, limits)
    places, owner = triangulate(positions, corners["v"], sizes)
    return _Faces({kind: values[places] for kind, values in corners.items()}, lines[owner])


def _vertices(statements: Statements, warnings: WarningList) -> tuple[NDArray[np.float64], NDArray[np.float32] | None]:
    """(positions (N, 3), linear colors (N, 4) or None)."""
    rows = statements.rows["v"]
    table = _table(rows, 3, "v")
    positions = table[:, :3]
    colored = (rows.sizes == 6) | (rows.sizes == 7)  # x y z r g b, some with alpha
    if not np.isin(rows.sizes, (3, 4, 6, 7)).all():
        warnings.add("some of its vertices have numbers beyond x y z w and r g b, which are not read")
    if not colored.any():
        return positions, _painted(statements, len(positions), warnings)
    linear = linear_colors(table[colored, 3:6], warnings)
    if colored.all():
        return positions, linear
    warnings.add(f"{int((~colored).sum())} of its {len(positions)} vertices have no color; they are white")
    colors = np.ones((len(positions), 4), np.float32)
    colors[colored] = linear
    return positions, colors


def _table(rows: Rows, least: int, keyword: str) -> NDArray[np.float64]:
    """(R, most words of a row) the numbers of the rows, NaN where a row is shorter than others."""
    if len(rows.sizes) and rows.sizes.min() < least:
        raise ObjectError("malformed", f"a line '{keyword}' has {rows.sizes.min()} numbers, fewer than {least}")
    values = read_floats(rows.text, int(rows.sizes.sum()))
    width = int(rows.sizes.max(initial=least))
    if len(values) == width * len(rows.sizes):
        return values.reshape(-1, width)
    table = np.full((len(rows.sizes), width), np.nan)
    table[np.arange(width) < rows.sizes[:, None]] = values
    return table


def _uvs(rows: Rows) -> NDArray[np.float32]:
    """(R, 2); v is 0 where a line has one number only."""
    table = _table(rows, 1, "vt")
    if table.shape[1] == 1:
        table = np.concatenate([table, np.zeros_like(table)], axis=1)
    return table[:, :2].astype(np.float32)


def _painted(statements: Statements, vertices: int, warnings: WarningList) -> NDArray[np.float32] | None:
    """ZBrush's vertex colors: comments of eight hexadecimal digits (mask, red, green, blue) for each vertex."""
    text = "".join(rest for _, keyword, rest in statements.others if keyword == "#mrgb")
    if not text:
        return None
    try:
        colors = np.frombuffer(bytes.fromhex(text), np.uint8)
    except ValueError:
        colors = np.zeros(0, np.uint8)
    if len(colors) != 4 * vertices:
        warnings.add("its vertex colors (#MRGB) do not fit its vertices and are not drawn")
        return None
    return linear_colors(colors.reshape(-1, 4)[:, 1:], warnings)


def _by_material(
    statements: Statements, faces: _Faces, beside: Beside, limits: MeshLimits, warnings: WarningList
) -> Iterator[tuple[MappedMaterial, Integers]]:
    """(material, the triangles that have it), each once."""
    materials = Materials(beside, TextureFiles(beside, limits), warnings)
    for _, keyword, rest in statements.others:
        if keyword == "mtllib":
            materials.add_libraries(rest)
    uses = [(line, rest) for line, keyword, rest in statements.others if keyword == "usemtl"]
    names = list(dict.fromkeys(name for _, name in uses))
    number = {name: i for i, name in enumerate(names)}
    # The last of the list, for the faces before the first `usemtl`, is found by index -1.
    of_use = np.array([*(number[name] for _, name in uses), -1])
    of_face = of_use[np.searchsorted(np.array([line for line, _ in uses]), faces.lines) - 1]
    for index in np.unique(of_face).tolist():
        which = np.flatnonzero(of_face == index)
        if index >= 0:
            yield materials.named(names[index]), which
        else:
            yield materials.unnamed(len(which), any_named=bool(uses)), which


def _by_attributes(faces: _Faces, which: Integers, mapped: MappedMaterial, warnings: WarningList) -> Iterator[Integers]:
    """Parts whose triangles all have normals or none, and, if textured, texture coordinates or none."""
    has_normal = (faces.corners["vn"][which] != ABSENT).all(axis=1)
    has_uv = (faces.corners["vt"][which] != ABSENT).all(axis=1)
    if mapped.material.texture is None:
        has_uv[:] = False
    elif not has_uv.all():
        warnings.add(f"{int((~has_uv).sum())} textured triangles have no texture coordinates and show one color")
    kinds = has_normal * 2 + has_uv
    for kind in np.unique(kinds):
        yield which[kinds == kind]


def _triangles(
    faces: _Faces,
    which: Integers,
    mapped: MappedMaterial,
    positions: NDArray[np.float64],
    colors: NDArray[np.float32] | None,
    uvs: NDArray[np.float32] | None,
    normals: NDArray[np.float64] | None,
) -> Triangles:
    v, vt, vn = (faces.corners[kind][which] for kind in ("v", "vt", "vn"))
    shown_uvs = None
    if mapped.material.texture is not None:
        if uvs is None or (vt == ABSENT).any():
            shown_uvs = np.zeros((*v.shape, 2), np.float32)
        else:
            shown_uvs = (uvs[vt] * mapped.scale + mapped.offset).astype(np.float32)
    smooth = normals is not None and bool((vn != ABSENT).all())
    return Triangles(
        positions=positions,
        corners=v,
        material=mapped.material,
        uvs=shown_uvs,
        normals=normals[vn] if smooth and normals is not None else None,
        colors=None if colors is None else colors[v],
        keys=_keys(v, vt, vn) if smooth else None,
    )


def _keys(v: Integers, vt: Integers, vn: Integers) -> Integers | None:
    """(T, 3) equal where position, texture coordinate and normal are; None where equal positions imply it."""
    if np.array_equal(v, vn) and (vt.max() == ABSENT or np.array_equal(v, vt)):
        return None
    pairs = v * (int(vt.max()) + 2) + vt + 1
    normals = int(vn.max()) + 2
    if int(pairs.max()) < (1 << 62) // normals:
        return pairs * normals + vn + 1
    _, pairs = np.unique(pairs, return_inverse=True)  # numbered anew, so that the product fits
    return pairs.reshape(v.shape) * normals + vn + 1


def _warn_of_others(statements: Statements, warnings: WarningList) -> None:
    unknown = {keyword for _, keyword, _ in statements.others} - _READ - _WITHOUT_EFFECT
    if unknown & {"curv", "curv2", "surf"}:
        warnings.add("its free-form curves and surfaces are not drawn")
    for keyword in sorted(unknown - _FREE_FORM):
        if not keyword.startswith("#"):
            warnings.add(f"its lines {shown(keyword)} are not read")
