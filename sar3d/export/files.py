"""Mesh files: GLB with one texture, PLY and OBJ with vertex colors. Equal input gives equal bytes."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sar3d.contact_sheet import png
from sar3d.export.mesh import Mesh
from sar3d.export.texture import Unwrapped
from sar3d.glb import GlbWriter
from sar3d.meshes.transform import Y_UP_TO_Z_UP

_LINEAR, _MIPMAPS, _CLAMP = 9729, 9987, 33071


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

    Source: KHR_materials_unlit.
    """
    Path(path).write_bytes(glb_bytes(unwrapped, texture, name))


def glb_bytes(unwrapped: Unwrapped, texture: NDArray[np.uint8], name: str = "object") -> bytes:
    """The file that `write_glb` writes."""
    to_y_up = Y_UP_TO_Z_UP[:3, :3].astype(np.float32)
    writer = GlbWriter()
    positions, normals = _little(unwrapped.vertices @ to_y_up), _little(_unit(unwrapped.normals @ to_y_up))
    primitive = writer.add_primitive(positions, normals, _little(unwrapped.uv), unwrapped.faces, material=0)
    shading = {"baseColorTexture": {"index": 0}, "metallicFactor": 0.0, "roughnessFactor": 1.0}
    unlit = "KHR_materials_unlit"
    writer.add("materials", {"name": name, "pbrMetallicRoughness": shading, "extensions": {unlit: {}}})
    sampler = writer.add("samplers", {"magFilter": _LINEAR, "minFilter": _MIPMAPS, "wrapS": _CLAMP, "wrapT": _CLAMP})
    writer.add("textures", {"sampler": sampler, "source": writer.add_image(png(texture))})
    return writer.file(name, [primitive], {}, extensionsUsed=[unlit])


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


def write_obj(path: Path | str, mesh: Mesh, colors: NDArray[np.uint8]) -> None:
    """Write a Wavefront OBJ file of a mesh in the world (z up) with normals and vertex `colors` (V, 3), sRGB.

    Colors follow the positions as numbers in [0, 1], an extension of the format that most programs read.
    """
    text = io.StringIO()
    text.write("# z is up\n")
    np.savetxt(text, np.concatenate([mesh.vertices, colors / 255], axis=1), "v %.7g %.7g %.7g %.4f %.4f %.4f")
    np.savetxt(text, mesh.normals(), "vn %.5f %.5f %.5f")
    np.savetxt(text, np.repeat(mesh.faces + 1, 2, axis=1), "f %d//%d %d//%d %d//%d")
    Path(path).write_text(text.getvalue(), encoding="ascii")


def _little(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """As they stand in the file; minus zero becomes zero."""
    return np.ascontiguousarray(values + 0.0, "<f4")


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = vectors.astype(np.float64)
    unit: NDArray[np.float64] = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return unit
