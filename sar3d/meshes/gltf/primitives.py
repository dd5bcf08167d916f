"""One primitive of a mesh as triangles in its own coordinates (glTF 2.0 specification, section 3.7)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sar3d.errors import ObjectError
from sar3d.meshes.gltf.accessors import accessor_count, as_floats, read_accessor
from sar3d.meshes.gltf.conformance import check_attributes
from sar3d.meshes.gltf.document import Document, Json, extension, integer, optional_object
from sar3d.meshes.gltf.draco import decode_draco
from sar3d.meshes.gltf.materials import SurfaceShading
from sar3d.meshes.gltf.skins import Binding, morph, read_binding
from sar3d.meshes.normals import flat_geometry
from sar3d.meshes.warning_list import WarningList

_TRIANGLES, _STRIP, _FAN = 4, 5, 6
_ROUNDING = 1e-3
"""So far may a color lie outside its range without a word."""
_MENDED = ("POSITION", "NORMAL", "TEXCOORD", "COLOR")


@dataclass(frozen=True)
class Geometry:
    """Arrays of one primitive before any transform; shapes as in `Primitive`."""

    positions: NDArray[np.floating]
    normals: NDArray[np.floating]
    faces: NDArray[np.uint32]
    uvs: NDArray[np.float32] | None
    colors: NDArray[np.float32] | None
    binding: Binding | None


class _Attributes:
    """A primitive's vertex data by name, whether Draco or accessors hold it."""

    def __init__(self, document: Document, primitive: Json) -> None:
        self.document = document
        self.names = optional_object(primitive, "attributes")
        self.faces: NDArray[np.uint32] | None = None
        self.decoded: dict[str, NDArray[Any]] = {}
        compressed = extension(primitive, "KHR_draco_mesh_compression")
        if compressed is not None:
            self.decoded, self.faces = decode_draco(document, primitive, compressed)

    def raw(self, name: str, widths: tuple[int, ...], *, scaled: bool) -> NDArray[Any] | None:
        if name in self.decoded:
            values = self.decoded[name]
            if values.shape[1] not in widths:
                raise ObjectError("malformed", f"{name} has {values.shape[1]} components, expected {widths}")
            return as_floats(values, normalized=False) if scaled else values
        if name not in self.names:
            return None
        return read_accessor(self.document, integer(self.names, name), widths, scaled=scaled)

    def floats(self, name: str, widths: tuple[int, ...], *, always_normalized: bool = False) -> NDArray[Any] | None:
        """Colors and weights may only be normalized if they are integers, marked or not. Checked to be finite, but for
        what is checked or mended where it is used: positions, normals, texture coordinates, colors."""
        values = self.raw(name, widths, scaled=not always_normalized)
        if values is None:
            return None
        if always_normalized:
            values = as_floats(values, normalized=True)
        if not name.startswith(_MENDED) and not np.isfinite(values).all():
            raise ObjectError("non_finite", f"the attribute {name} has values that are not finite")
        return values


def read_geometry(
    document: Document, primitive: Json, surface: SurfaceShading, weights: list[float]
) -> Geometry | None:
    """Decode a primitive with the morph weights given; None where it draws no triangle (points, lines, nothing).

    Missing normals become flat ones and unshare the vertices, as the specification asks; broken ones are repaired
    later. Raises ObjectError for data that cannot be right.
    """
    mode = integer(primitive, "mode", _TRIANGLES)
    if mode > _FAN:
        raise ObjectError("malformed", f"a primitive has the unknown mode {mode}")
    names = optional_object(primitive, "attributes")
    if mode < _TRIANGLES or "POSITION" not in names:
        return None
    _check_count(document, accessor_count(document, integer(names, "POSITION")))
    check_attributes(document, names)
    attributes = _Attributes(document, primitive)
    positions = attributes.floats("POSITION", (3,))
    assert positions is not None
    faces = attributes.faces if attributes.faces is not None else _faces(document, primitive, mode, len(positions))
    if len(faces) == 0:
        return None
    if faces.max() >= len(positions):
        raise ObjectError("index_out_of_range", f"a face refers to vertex {faces.max()} of {len(positions)}")
    positions = _finite_positions(positions, faces, document.warnings)
    base_normals = attributes.floats("NORMAL", (3,))
    geometry = Geometry(
        positions=morph(document, primitive, weights, positions, "POSITION"),
        normals=positions if base_normals is None else morph(document, primitive, weights, base_normals, "NORMAL"),
        faces=faces,
        uvs=_uvs(attributes, surface, len(positions)),
        colors=_colors(attributes, document.warnings),
        binding=_binding(attributes),
    )
    _check_lengths(geometry)
    return geometry if base_normals is not None else _flat(document, geometry)


def _finite_positions(positions: NDArray[Any], faces: NDArray[np.uint32], warnings: WarningList) -> NDArray[Any]:
    """A vertex of no face may be anywhere, so what is not finite there becomes 0, with a warning; else `non_finite`."""
    if np.isfinite(positions).all():
        return positions
    broken = ~np.isfinite(positions).all(axis=1)
    if broken[faces.reshape(-1)].any():
        raise ObjectError("non_finite", "the attribute POSITION has values that are not finite")
    warnings.add(f"{int(broken.sum())} vertices of no face have positions that are not finite; 0 was taken for them")
    return np.where(broken[:, None], 0, positions)


def _check_count(document: Document, count: int) -> None:
    if count > document.limits.vertices:
        raise ObjectError("too_many_vertices", f"it has over {count} vertices, more than {document.limits.vertices}")


def _check_lengths(geometry: Geometry) -> None:
    binding = geometry.binding
    arrays = (geometry.normals, geometry.uvs, geometry.colors, None if binding is None else binding.joints)
    lengths = {len(values) for values in arrays if values is not None} | {len(geometry.positions)}
    if len(lengths) != 1:
        raise ObjectError("malformed", f"the attributes of a primitive differ in length: {sorted(lengths)}")


def _faces(document: Document, primitive: Json, mode: int, vertices: int) -> NDArray[np.uint32]:
    """(F, 3); indices left over at the end draw nothing."""
    if "indices" in primitive:
        order = read_accessor(document, integer(primitive, "indices"), (1,), scaled=False)[:, 0]
        if order.dtype.kind != "u":
            raise ObjectError("malformed", "the indices of a primitive are not unsigned integers")
    else:
        order = np.arange(vertices)
    order = order.astype(np.uint32, copy=False)
    if mode == _TRIANGLES:
        faces = order[: len(order) // 3 * 3].reshape(-1, 3)
    elif len(order) < 3:
        faces = np.zeros((0, 3), np.uint32)
    elif mode == _STRIP:
        faces = np.stack([order[:-2], order[1:-1], order[2:]], axis=1)
        faces[1::2] = faces[1::2, [1, 0, 2]]  # every other triangle of a strip is wound the other way
    else:
        faces = np.stack([order[1:-1], order[2:], np.broadcast_to(order[0], len(order) - 2)], axis=1)
    if len(faces) > document.limits.triangles:
        raise ObjectError("too_many_triangles", f"it has over {len(faces)} triangles, more than allowed")
    return faces


def _uvs(attributes: _Attributes, surface: SurfaceShading, vertices: int) -> NDArray[np.float32] | None:
    if surface.material.texture is None:
        return None
    uvs = attributes.floats(f"TEXCOORD_{surface.texcoord}", (2,))
    if uvs is None:
        # What graphics hardware feeds for an absent attribute, so what the author saw.
        attributes.document.warnings.add(
            f"a texture is drawn by TEXCOORD_{surface.texcoord}, which {vertices} of its vertices lack; they show one color"
        )
        return np.zeros((vertices, 2), np.float32)
    matrix = surface.uv_transform
    return uvs if matrix is None else (uvs @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)


def _colors(attributes: _Attributes, warnings: WarningList) -> NDArray[np.float32] | None:
    colors = attributes.floats("COLOR_0", (3, 4), always_normalized=True)
    if colors is None:
        return None
    if colors.shape[1] == 3:
        colors = np.concatenate([colors, np.ones((len(colors), 1), np.float32)], axis=1)
    if not np.isfinite(colors).all():
        warnings.add("some of its vertex colors are not finite; 1 was taken for them")
        colors = np.where(np.isfinite(colors), colors, np.float32(1))
    clipped = np.clip(colors, 0.0, 1.0)
    if np.abs(colors - clipped).max(initial=0.0) > _ROUNDING:
        warnings.add("some of its vertex colors lie outside 0 to 1 and were clipped")
    return clipped


def _binding(attributes: _Attributes) -> Binding | None:
    joints: list[NDArray[Any]] = []
    weights: list[NDArray[Any]] = []
    while (sets := attributes.raw(f"JOINTS_{len(joints)}", (4,), scaled=False)) is not None:
        if sets.dtype.kind != "u":
            raise ObjectError("malformed", "the joints of a primitive are not unsigned integers")
        shares = attributes.floats(f"WEIGHTS_{len(joints)}", (4,), always_normalized=True)
        if shares is None or shares.shape != sets.shape:
            raise ObjectError("malformed", f"a primitive has JOINTS_{len(joints)} without matching weights")
        joints.append(sets)
        weights.append(shares)
    return read_binding(joints, weights) if joints else None


def _flat(document: Document, geometry: Geometry) -> Geometry:
    _check_count(document, 3 * len(geometry.faces))
    order, normals, faces = flat_geometry(geometry.positions, geometry.faces)
    binding = geometry.binding
    return Geometry(
        positions=geometry.positions[order],
        normals=normals,
        faces=faces,
        uvs=None if geometry.uvs is None else geometry.uvs[order],
        colors=None if geometry.colors is None else geometry.colors[order],
        binding=None if binding is None else Binding(binding.joints[order], binding.weights[order]),
    )
