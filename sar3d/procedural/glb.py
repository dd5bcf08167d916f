"""A GLB writer whose bytes depend on nothing but its input.

No compressor is called (its output differs between zlib builds): texture PNGs hold stored blocks.
"""

import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sar3d.glb import GlbWriter
from sar3d.procedural.mesh import ProceduralMesh
from sar3d.procedural.paint import TILE, Surface, linear, paint

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
    """A GLB 2.0 file with one primitive and one material per surface."""
    writer = GlbWriter()
    primitives = []
    for surface, mesh in parts.items():
        material = _add_material(writer, surface)
        uv = _stable(mesh.uvs / TILE)
        primitives.append(
            writer.add_primitive(_stable(mesh.positions), _stable(mesh.normals), uv, mesh.faces, material)
        )
    return writer.file(name, primitives, {"copyright": rights})


def _add_material(writer: GlbWriter, surface: Surface) -> int:
    shading: dict[str, Any] = {"metallicFactor": 0.0, "roughnessFactor": surface.roughness}
    if surface.pattern is None:
        shading["baseColorFactor"] = [*linear(surface.color), 1.0]
    else:
        shading["baseColorTexture"] = {"index": _add_texture(writer, encode_png(paint(surface)))}
    words = (surface.color, surface.pattern, surface.second)
    name = " ".join(word for word in words if word is not None)
    return writer.add("materials", {"name": name, "pbrMetallicRoughness": shading})


def _add_texture(writer: GlbWriter, png: bytes) -> int:
    if "samplers" not in writer.tables:
        writer.add("samplers", {"magFilter": 9729, "minFilter": 9987, "wrapS": 10497, "wrapT": 10497})
    return writer.add("textures", {"sampler": 0, "source": writer.add_image(png)})


def _stable(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Rounded, so that the last bit of a machine's sine does not reach the file; minus zero becomes zero."""
    return (np.round(values, 5) + 0.0).astype("<f4")
