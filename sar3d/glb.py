"""Writing glTF 2.0 binary files: tables that grow, a binary chunk, and the file around them. Equal input gives equal bytes.

Source: Khronos glTF 2.0, sections 3 and 4.
"""

import json
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

_COMPONENTS = {"<f4": 5126, "<u2": 5123, "<u4": 5125}
_ARRAY, _ELEMENTS = 34962, 34963


class GlbWriter:
    """The growing tables of one file with one mesh, and its binary chunk."""

    def __init__(self) -> None:
        self.binary = bytearray()
        self.tables: dict[str, list[dict[str, Any]]] = {}

    def add(self, table: str, row: dict[str, Any]) -> int:
        """Put a row into a table of the document, for example `materials`; returns its index."""
        rows = self.tables.setdefault(table, [])
        rows.append(row)
        return len(rows) - 1

    def add_view(self, data: bytes, **target: int) -> int:
        """Put bytes into the binary chunk, aligned to 4; returns the index of their buffer view."""
        view = {"buffer": 0, "byteOffset": len(self.binary), "byteLength": len(data), **target}
        self.binary += data + b"\0" * (-len(data) % 4)
        return self.add("bufferViews", view)

    def add_accessor(self, values: NDArray[Any], kind: str, target: int, **corners: Any) -> int:
        """Put an array (N, …) into the binary chunk as `kind` (`VEC3` …); returns the index of its accessor."""
        component = _COMPONENTS[values.dtype.newbyteorder("<").str]
        row = {"componentType": component, "count": len(values), "type": kind, **corners}
        return self.add("accessors", {"bufferView": self.add_view(values.tobytes(), target=target), **row})

    def add_primitive(
        self,
        positions: NDArray[np.float32],
        normals: NDArray[np.float32],
        uv: NDArray[np.float32],
        faces: NDArray[np.integer],
        material: int,
    ) -> dict[str, Any]:
        """The row of a primitive: positions (N, 3) with y up, unit normals (N, 3), uv (N, 2), faces (F, 3)."""
        corners = {"min": positions.min(axis=0).tolist(), "max": positions.max(axis=0).tolist()}
        wide = len(positions) > np.iinfo(np.uint16).max  # the greatest index itself is forbidden
        return {
            "attributes": {
                "POSITION": self.add_accessor(positions, "VEC3", _ARRAY, **corners),
                "NORMAL": self.add_accessor(normals, "VEC3", _ARRAY),
                "TEXCOORD_0": self.add_accessor(uv, "VEC2", _ARRAY),
            },
            "indices": self.add_accessor(faces.reshape(-1).astype("<u4" if wide else "<u2"), "SCALAR", _ELEMENTS),
            "material": material,
        }

    def add_image(self, png: bytes) -> int:
        """Put a PNG file into the binary chunk; returns the index of its image."""
        return self.add("images", {"bufferView": self.add_view(png), "mimeType": "image/png"})

    def file(self, name: str, primitives: list[dict[str, Any]], asset: dict[str, str], **document: Any) -> bytes:
        """The file: a scene of one mesh of that name; `document` is what else stands in the document."""
        values = {
            "asset": {"generator": "SAR3D", "version": "2.0", **asset},
            "scene": 0,
            "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0, "name": name}],
            "meshes": [{"name": name, "primitives": primitives}],
            "buffers": [{"byteLength": len(self.binary)}],
            **self.tables,
            **document,
        }
        text = json.dumps(values, sort_keys=True, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)
        total = 12 + 8 + len(text) + 8 + len(self.binary)
        header = struct.pack("<4sII", b"glTF", 2, total)
        chunks = ((b"JSON", text), (b"BIN\0", bytes(self.binary)))
        return header + b"".join(struct.pack("<I4s", len(data), kind) + data for kind, data in chunks)
