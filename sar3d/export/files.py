"""Mesh files: GLB with one texture, PLY with vertex colors. Equal input gives equal bytes."""

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sar3d.export.mesh import Mesh
from sar3d.export.texture import Unwrapped
from sar3d.meshes.transform import Y_UP_TO_Z_UP

_FLOAT, _USHORT, _UINT = 5126, 5123, 5125
_ARRAY, _ELEMENTS = 34962, 34963
_LINEAR, _MIPMAPS, _CLAMP = 9729, 9987, 33071


def png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG file of `pixels` (H, W, 3)."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=6)
    return out.getvalue()


def write_glb(path: Path | str, unwrapped: Unwrapped, texture: NDArray[np.uint8], *, name: str = "object") -> None:
    """Write a glTF 2.0 binary file: one mesh, one material with a base color texture.

    glTF's y axis points up, ours is z: (x, y, z) is written as (x, z, -y), which loaders of this package undo. The
    field's colors contain the light of the pictures it was trained on, so the material is unlit
    (KHR_materials_unlit); programs that do not know the extension see it matt (metallic 0, roughness 1).

    Args:
        path: of the file.
        unwrapped: mesh in the world.
        texture: (H, W, 3) sRGB.
        name: of the mesh in the file.

    Source: Khronos glTF 2.0, sections 3 and 4; KHR_materials_unlit.
    """
    Path(path).write_bytes(glb_bytes(unwrapped, texture, name))


def glb_bytes(unwrapped: Unwrapped, texture: NDArray[np.uint8], name: str = "object") -> bytes:
    """The file that `write_glb` writes."""
    to_y_up = Y_UP_TO_Z_UP[:3, :3].astype(np.float32)
    wide = len(unwrapped.vertices) > np.iinfo(np.uint16).max  # the greatest index itself is forbidden
    positions = _little(unwrapped.vertices @ to_y_up)
    corners = {"min": positions.min(axis=0).tolist(), "max": positions.max(axis=0).tolist()}
    parts: list[tuple[bytes, dict[str, Any], dict[str, Any]]] = [
        _accessor(positions, "VEC3", _ARRAY, **corners),
        _accessor(_little(_unit(unwrapped.normals @ to_y_up)), "VEC3", _ARRAY),
        _accessor(_little(unwrapped.uv), "VEC2", _ARRAY),
        _accessor(unwrapped.faces.reshape(-1).astype("<u4" if wide else "<u2"), "SCALAR", _ELEMENTS),
    ]
    binary, views = bytearray(), []
    for data, view in [(data, view) for data, view, _ in parts] + [(png(texture), {})]:
        views.append({"buffer": 0, "byteOffset": len(binary), "byteLength": len(data), **view})
        binary += data + b"\0" * (-len(data) % 4)
    attributes = {"POSITION": 0, "NORMAL": 1, "TEXCOORD_0": 2}
    shading = {"baseColorTexture": {"index": 0}, "metallicFactor": 0.0, "roughnessFactor": 1.0}
    document = {
        "asset": {"generator": "SAR3D", "version": "2.0"},
        "extensionsUsed": ["KHR_materials_unlit"],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": name}],
        "meshes": [{"name": name, "primitives": [{"attributes": attributes, "indices": 3, "material": 0}]}],
        "materials": [{"name": name, "pbrMetallicRoughness": shading, "extensions": {"KHR_materials_unlit": {}}}],
        "textures": [{"sampler": 0, "source": 0}],
        "samplers": [{"magFilter": _LINEAR, "minFilter": _MIPMAPS, "wrapS": _CLAMP, "wrapT": _CLAMP}],
        "images": [{"bufferView": len(parts), "mimeType": "image/png"}],
        "accessors": [{"bufferView": i, **row} for i, (_, _, row) in enumerate(parts)],
        "bufferViews": views,
        "buffers": [{"byteLength": len(binary)}],
    }
    text = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + len(binary)
    chunks = (struct.pack("<I4s", len(text), b"JSON") + text, struct.pack("<I4s", len(binary), b"BIN\0") + binary)
    return struct.pack("<4sII", b"glTF", 2, total) + b"".join(chunks)


def write_ply(path: Path | str, mesh: Mesh, colors: NDArray[np.uint8]) -> None:
    """Write a binary PLY file of a mesh in the world (z up) with normals and vertex `colors` (V, 3), sRGB.

    Source: the PLY format of Turk (Stanford), binary_little_endian 1.0.
    """
    fields = [(axis, "<f4") for axis in ("x", "y", "z", "nx", "ny", "nz")]
    fields += [(channel, "u1") for channel in ("red", "green", "blue")]
    vertices = np.zeros(len(mesh.vertices), fields)
    columns = np.concatenate([mesh.vertices, mesh.normals()], axis=1)
    for i, (column, _) in enumerate(fields):
        vertices[column] = columns[:, i] if i < 6 else colors[:, i - 6]
    faces = np.zeros(len(mesh.faces), [("count", "u1"), ("corners", "<i4", (3,))])
    faces["count"], faces["corners"] = 3, mesh.faces
    kinds = {"<f4": "float", "u1": "uchar"}
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {len(vertices)}",
        *(f"property {kinds[kind]} {column}" for column, kind in fields),
        f"element face {len(faces)}",
        "property list uchar int vertex_indices",
        "end_header\n",
    ]
    Path(path).write_bytes("\n".join(header).encode() + vertices.tobytes() + faces.tobytes())


def _accessor(
    values: NDArray[Any], kind: str, target: int, **corners: Any
) -> tuple[bytes, dict[str, Any], dict[str, Any]]:
    """Its bytes, what its buffer view says beside place and length, and its row in the table."""
    component = {"<f4": _FLOAT, "<u2": _USHORT, "<u4": _UINT}[values.dtype.newbyteorder("<").str]
    return (
        values.tobytes(),
        {"target": target},
        {"componentType": component, "count": len(values), "type": kind, **corners},
    )


def _little(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """As they stand in the file; minus zero becomes zero."""
    return np.ascontiguousarray(values + 0.0, "<f4")


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = vectors.astype(np.float64)
    unit: NDArray[np.float64] = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return unit
