""".obj, .ply and .stl through trimesh's parsers, with our rules on top: confined references, typed errors, no repair.

None of these formats names its colour space; colours (PLY vertex colours, MTL `Kd`) are taken as sRGB, as their
writers display them. A texture replaces `Kd`, which exporters leave at arbitrary values then.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sar3d.errors import ObjectError
from sar3d.meshes.assemble import Piece, assemble, check_totals
from sar3d.meshes.images import check_image, decode_image
from sar3d.meshes.limits import MeshLimits
from sar3d.meshes.normals import flat_geometry
from sar3d.meshes.scene import Material, Scene, Texture
from sar3d.meshes.uris import confined_path

_Z_UP_TO_Y_UP = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])


def read_plain(data: bytes, suffix: str, folder: Path, limits: MeshLimits, up: str) -> Scene:
    """Parse the bytes of a `suffix` (".obj", ".ply" or ".stl") file whose references resolve in `folder`.

    `up="z"` turns the object y-up: (x, y, z) -> (x, z, -y). Raises ObjectError.
    """
    references = _References(folder, limits, len(data))
    parsed = _parsed(data, suffix, references)
    meshes = list(parsed["geometry"].values()) if "geometry" in parsed else [parsed]
    surfaces = _Surfaces(references)
    pieces = [piece for mesh in meshes if (piece := _piece(mesh, surfaces, limits)) is not None]
    check_totals(sum(len(p.faces) for p in pieces), sum(len(p.positions) for p in pieces), limits)
    return assemble([_turned(piece) for piece in pieces] if up == "z" else pieces)


def _parsed(data: bytes, suffix: str, references: "_References") -> dict[str, Any]:
    """trimesh's description of one mesh, or of several under "geometry"."""
    try:
        parsed = _parser(suffix)(io.BytesIO(data), resolver=references)
    except MemoryError:
        raise
    except Exception as error:  # the parsers validate little, so a broken file raises anything
        raise ObjectError("malformed", f"the file cannot be parsed ({type(error).__name__}: {error})") from error
    if references.failure is not None:
        # trimesh logs a failed reference and goes on without it.
        raise references.failure
    return parsed


def srgb_to_linear(srgb: NDArray[np.floating]) -> NDArray[np.float32]:
    """IEC 61966-2-1, values in [0, 1]."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4).astype(np.float32)


class _References:
    """What trimesh's parsers call a resolver. Keeps the first failure, which those parsers swallow."""

    def __init__(self, folder: Path, limits: MeshLimits, bytes_read: int) -> None:
        self.folder = folder
        self.limits = limits
        self.bytes_read = bytes_read
        self.failure: ObjectError | None = None
        self.data: dict[str, bytes] = {}

    def __getitem__(self, name: str) -> bytes:
        """A material library."""
        try:
            return self._read(name.strip())
        except ObjectError as error:
            self.failure = self.failure or error
            raise

    def get(self, name: str) -> bytes:
        """An image, looked at here because the parsers go on without one that they cannot open."""
        # `map_Kd -s 2 2 1 wood.png`: options come before the name.
        wanted = name.split()[-1] if name.startswith("-") else name.strip()
        try:
            data = self._read(wanted)
            check_image(data)
        except ObjectError as error:
            self.failure = self.failure or error
            raise
        return data

    def _read(self, name: str) -> bytes:
        if name not in self.data:
            path = confined_path(name, self.folder)
            self.bytes_read += path.stat().st_size
            if self.bytes_read > self.limits.bytes:
                raise ObjectError("too_large", f"the file and what it refers to exceed {self.limits.bytes} bytes")
            self.data[name] = path.read_bytes()
        return self.data[name]


class _Surfaces:
    """Materials and textures, made once each so that meshes that share one are merged."""

    def __init__(self, references: _References) -> None:
        self.references = references
        self.materials: dict[int, Material] = {}
        self.textures: dict[bytes, Texture] = {}
        self.pixels = 0

    def material(self, source: Any) -> Material:
        key = id(source)
        if key not in self.materials:
            self.materials[key] = _PLAIN if source is None else self._material(source)
        return self.materials[key]

    def _material(self, source: Any) -> Material:
        image = getattr(source, "image", None)
        options = getattr(source, "kwargs", {})
        alpha = _opacity(options)
        if image is not None:
            rgb, texture = (1.0, 1.0, 1.0), self._texture(image)
        else:
            kd = np.asarray(options.get("kd", (1.0, 1.0, 1.0)), np.float64).reshape(-1)
            kd = np.clip(kd if len(kd) == 3 else np.full(3, kd[0]), 0.0, 1.0)
            red, green, blue = srgb_to_linear(kd).tolist()
            rgb, texture = (red, green, blue), None
        return Material((*rgb, alpha), texture, "BLEND" if alpha < 1.0 else "OPAQUE")

    def _texture(self, image: Any) -> Texture:
        # trimesh has only opened the image; decoding starts here, from the bytes, under our limits.
        image.fp.seek(0)
        data = image.fp.read()
        if data not in self.textures:
            limits = self.references.limits
            pixels = decode_image(data, limits.texture_pixels, limits.total_texture_pixels - self.pixels)
            self.pixels += pixels.shape[0] * pixels.shape[1]
            self.textures[data] = Texture(pixels)
        return self.textures[data]


_PLAIN = Material()


def _opacity(options: dict[str, Any]) -> float:
    for key, sign in (("d", 1.0), ("tr", -1.0)):
        values = options.get(key)
        if isinstance(values, list) and values:
            value = float(values[-1])
            return float(np.clip(value if sign > 0 else 1.0 - value, 0.0, 1.0))
    return 1.0


def _parser(suffix: str) -> Callable[..., dict[str, Any]]:
    # trimesh takes 0.3 s to import, which glTF files should not pay.
    from trimesh.exchange import obj, ply, stl

    parsers: dict[str, Callable[..., dict[str, Any]]] = {
        ".obj": obj.load_obj,
        ".ply": ply.load_ply,
        ".stl": stl.load_stl,
    }
    return parsers[suffix]


def _piece(mesh: dict[str, Any], surfaces: _Surfaces, limits: MeshLimits) -> Piece | None:
    """One parsed mesh; None for points and lines."""
    faces, positions = mesh.get("faces"), mesh.get("vertices")
    if faces is None or positions is None or len(faces) == 0:
        return None
    positions = np.asarray(positions, np.float64).reshape(-1, 3)
    faces = _triangles(np.asarray(faces))
    check_totals(len(faces), len(positions), limits)
    if faces.min() < 0 or faces.max() >= len(positions):
        raise ObjectError("index_out_of_range", f"a face refers to vertex {faces.max()} of {len(positions)}")
    visual = mesh.get("visual")
    material = surfaces.material(getattr(visual, "material", None))
    uvs = _uvs(getattr(visual, "uv", None), material, len(positions))
    colors = _colors(mesh.get("vertex_colors"), len(positions))
    faces = faces.astype(np.uint32)
    normals = mesh.get("vertex_normals")
    if normals is not None and len(normals) == len(positions):
        face_colors = mesh.get("face_colors")
        if face_colors is None:
            return Piece(positions, np.asarray(normals, np.float64), faces, material, uvs, colors)
    return _flat(Piece(positions, positions, faces, material, uvs, colors), mesh.get("face_colors"))


def _triangles(faces: NDArray[Any]) -> NDArray[np.int64]:
    """(F, 3) of triangles or of quads, which are cut along their first diagonal."""
    if faces.ndim != 2 or faces.shape[1] not in (3, 4) or faces.dtype.kind not in "iu":
        raise ObjectError("malformed", "its faces are not triangles or quads of vertex numbers")
    faces = faces.astype(np.int64)
    return faces if faces.shape[1] == 3 else np.concatenate([faces[:, [0, 1, 2]], faces[:, [0, 2, 3]]])


def _uvs(uv: Any, material: Material, vertices: int) -> NDArray[np.float32] | None:
    if material.texture is None:
        return None
    if uv is None or np.shape(uv) != (vertices, 2):
        return np.zeros((vertices, 2), np.float32)
    uv = np.asarray(uv, np.float32)
    if not np.isfinite(uv).all():
        raise ObjectError("non_finite", "it has texture coordinates that are not finite")
    return np.stack([uv[:, 0], 1.0 - uv[:, 1]], axis=1)  # these formats count v from the lower edge


def _colors(colors: Any, count: int) -> NDArray[np.float32] | None:
    """(N, 4) linear from bytes or from fractions, with or without alpha."""
    if colors is None:
        return None
    colors = np.asarray(colors)
    if colors.ndim != 2 or len(colors) != count or colors.shape[1] not in (3, 4):
        raise ObjectError("malformed", f"it has colours of the shape {colors.shape} for {count} vertices or faces")
    greatest = float(np.iinfo(colors.dtype).max) if colors.dtype.kind == "u" else 1.0
    if colors.dtype.kind != "u" and colors.max(initial=0.0) > 1.0:
        greatest = 255.0
    values = colors.astype(np.float64) / greatest
    if not np.isfinite(values).all():
        raise ObjectError("non_finite", "it has colours that are not finite")
    values = np.clip(values, 0.0, 1.0)
    alpha = values[:, 3:] if values.shape[1] == 4 else np.ones((count, 1))
    return np.concatenate([srgb_to_linear(values[:, :3]), alpha.astype(np.float32)], axis=1)


def _flat(piece: Piece, face_colors: Any) -> Piece:
    order, normals, faces = flat_geometry(piece.positions, piece.faces)
    per_face = _colors(face_colors, len(piece.faces))
    colors = None if piece.colors is None else piece.colors[order]
    return Piece(
        positions=piece.positions[order],
        normals=normals,
        faces=faces,
        material=piece.material,
        uvs=None if piece.uvs is None else piece.uvs[order],
        colors=colors if per_face is None else np.repeat(per_face, 3, axis=0),
    )


def _turned(piece: Piece) -> Piece:
    return Piece(
        positions=piece.positions @ _Z_UP_TO_Y_UP.T,
        normals=piece.normals @ _Z_UP_TO_Y_UP.T,
        faces=piece.faces,
        material=piece.material,
        uvs=piece.uvs,
        colors=piece.colors,
    )
