"""A GLB writer whose bytes depend on nothing but its input.

No compressor is called (its output differs between zlib builds): texture PNGs hold stored blocks.
"""

import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sar3d.procedural.mesh import ProceduralMesh
from sar3d.procedural.paint import TILE, Surface, linear, paint

_FLOAT, _USHORT, _UINT = 5126, 5123, 5125
_ARRAY, _ELEMENTS = 34962, 34963
_STORED_BLOCK = 65535


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels (H, W, 3) sRGB as an uncompressed PNG."""
    height, width = pixels.shape[:2]
    rows = np.zeros((height, 1 + width * 3), np.uint8)
    rows[:, 1:] = pixels.reshape(height, -1)
    raw = rows.tobytes()
    blocks = []
    for start in range(0, len(raw), _STORED_BLOCK):
        block = raw[start : start + _STORED_BLOCK]
        final = start + _STORED_BLOCK >= len(raw)
        blocks.append(struct.pack("<BHH", final, len(block), len(block) ^ 0xFFFF) + block)
    body = b"\x78\x01" + b"".join(blocks) + struct.pack(">I", zlib.adler32(raw))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def write_glb(parts: Mapping[Surface, ProceduralMesh], name: str, rights: str) -> bytes:
    """A GLB 2.0 file with one primitive and one material per surface (Khronos glTF 2.0, section 4)."""
    document = _Document()
    primitives = [document.add_primitive(mesh, document.add_material(surface)) for surface, mesh in parts.items()]
    gltf = {
        "asset": {"copyright": rights, "generator": "SAR3D", "version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": name}],
        "meshes": [{"name": name, "primitives": primitives}],
        "buffers": [{"byteLength": len(document.binary)}],
        **{key: rows for key, rows in document.tables.items() if rows},
    }
    text = json.dumps(gltf, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + len(document.binary)
    return (
        struct.pack("<4sII", b"glTF", 2, total)
        + struct.pack("<I4s", len(text), b"JSON")
        + text
        + struct.pack("<I4s", len(document.binary), b"BIN\0")
        + bytes(document.binary)
    )


class _Document:
    """The growing tables of one file and its binary chunk."""

    def __init__(self) -> None:
        self.binary = bytearray()
        keys = ("accessors", "bufferViews", "images", "materials", "samplers", "textures")
        self.tables: dict[str, list[dict[str, Any]]] = {key: [] for key in keys}

    def add_primitive(self, mesh: ProceduralMesh, material: int) -> dict[str, Any]:
        positions = _stable(mesh.positions)
        corners = {"min": positions.min(axis=0).tolist(), "max": positions.max(axis=0).tolist()}
        wide = len(positions) > 65535
        indices = mesh.faces.reshape(-1).astype("<u4" if wide else "<u2")
        return {
            "attributes": {
                "POSITION": self._add_accessor(positions, "VEC3", _FLOAT, _ARRAY, **corners),
                "NORMAL": self._add_accessor(_stable(mesh.normals), "VEC3", _FLOAT, _ARRAY),
                "TEXCOORD_0": self._add_accessor(_stable(mesh.uvs / TILE), "VEC2", _FLOAT, _ARRAY),
            },
            "indices": self._add_accessor(indices, "SCALAR", _UINT if wide else _USHORT, _ELEMENTS),
            "material": material,
        }

    def add_material(self, surface: Surface) -> int:
        shading: dict[str, Any] = {"metallicFactor": 0.0, "roughnessFactor": surface.roughness}
        if surface.pattern is None:
            shading["baseColorFactor"] = [*linear(surface.color), 1.0]
        else:
            shading["baseColorTexture"] = {"index": self._add_texture(encode_png(paint(surface)))}
        words = (surface.color, surface.pattern, surface.second)
        return self._add(
            "materials", {"name": " ".join(w for w in words if w is not None), "pbrMetallicRoughness": shading}
        )

    def _add_texture(self, png: bytes) -> int:
        if not self.tables["samplers"]:
            self._add("samplers", {"magFilter": 9729, "minFilter": 9987, "wrapS": 10497, "wrapT": 10497})
        image = self._add("images", {"bufferView": self._add_view(png), "mimeType": "image/png"})
        return self._add("textures", {"sampler": 0, "source": image})

    def _add_accessor(self, values: NDArray[Any], kind: str, component: int, target: int, **corners: Any) -> int:
        view = self._add_view(values.tobytes(), target=target)
        row = {"bufferView": view, "componentType": component, "count": len(values), "type": kind, **corners}
        return self._add("accessors", row)

    def _add_view(self, data: bytes, **target: int) -> int:
        view = {"buffer": 0, "byteOffset": len(self.binary), "byteLength": len(data), **target}
        self.binary += data + b"\0" * (-len(data) % 4)
        return self._add("bufferViews", view)

    def _add(self, table: str, row: dict[str, Any]) -> int:
        self.tables[table].append(row)
        return len(self.tables[table]) - 1


def _stable(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Rounded, so that the last bit of a machine's sine does not reach the file; minus zero becomes zero."""
    return (np.round(values, 5) + 0.0).astype("<f4")
