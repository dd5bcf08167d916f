"""GLB framing and the JSON of a glTF 2.0 file (glTF 2.0 specification, section 4)."""

import json
import struct
from typing import Any, NoReturn

from sar3d.errors import ObjectError
from sar3d.meshes.beside import Beside, shown
from sar3d.meshes.gltf.document import Document, array, integer, optional_object, text
from sar3d.meshes.gltf.mending import mended
from sar3d.meshes.limits import MeshLimits
from sar3d.meshes.warning_list import WarningList

_JSON_CHUNK = 0x4E4F534A
_BIN_CHUNK = 0x004E4942
_BOM = b"\xef\xbb\xbf"

# KHR_materials_*, KHR_lights_* and such alter shading, not surface color or geometry, so they are safe to disregard.
_HARMLESS = ("KHR_materials_", "KHR_lights_", "KHR_xmp", "KHR_animation_", "KHR_audio")
_SUPPORTED = {
    "KHR_draco_mesh_compression",
    "KHR_mesh_quantization",
    "KHR_texture_transform",
    "KHR_texture_basisu",
    "EXT_texture_webp",
    "EXT_texture_avif",
    "EXT_mesh_gpu_instancing",
}


def open_document(data: bytes, beside: Beside, limits: MeshLimits, warnings: WarningList) -> Document:
    """Check the framing and the version and parse the JSON.

    Raises ObjectError: `truncated`, `malformed`, `unsupported_version`, `unsupported_extension`.
    """
    head, binary = _chunks(data) if data.startswith(b"glTF") else (data, None)
    text = bytes(head)
    document = Document(mended(_parse(text), text, warnings), binary, beside, limits, warnings)
    _check_version(document)
    _check_binary(document)
    _check_extensions(document)
    return document


def _chunks(data: bytes) -> tuple[memoryview, memoryview | None]:
    if len(data) < 12:
        raise ObjectError("truncated", f"the GLB header has 12 bytes, the file only {len(data)}")
    _, version, length = struct.unpack_from("<4sII", data)
    if version != 2:
        raise ObjectError("unsupported_version", f"it is a GLB of version {version}, only version 2 can be read")
    if length > len(data):
        raise ObjectError("truncated", f"the GLB header promises {length} bytes, the file has {len(data)}")
    head, after = _chunk(data, 12, length)
    if head is None or head[0] != _JSON_CHUNK:
        raise ObjectError("malformed", "the first chunk of the GLB is not JSON")
    while after < length:
        # Chunks of unknown type are to be skipped, and a GLB has one BIN chunk at most.
        chunk, after = _chunk(data, after, length)
        if chunk is not None and chunk[0] == _BIN_CHUNK:
            return head[1], chunk[1]
    return head[1], None


def _chunk(data: bytes, start: int, length: int) -> tuple[tuple[int, memoryview] | None, int]:
    """((type, content), offset after it); None for a last chunk that is only padding."""
    if start + 8 > length:
        if start > 12 and not any(data[start:length]):
            return None, length
        raise ObjectError("truncated", f"a chunk header at byte {start} exceeds the GLB's {length} bytes")
    size, kind = struct.unpack_from("<II", data, start)
    if start + 8 + size > length:
        raise ObjectError("truncated", f"a chunk of {size} bytes at byte {start} exceeds the GLB's {length} bytes")
    return (kind, memoryview(data)[start + 8 : start + 8 + size]), start + 8 + size + (-size % 4)


def _parse(head: bytes) -> dict[str, Any]:
    if head.startswith(_BOM):
        raise ObjectError("malformed", "the JSON begins with a byte-order mark, which glTF forbids")
    try:
        parsed = json.loads(head.rstrip(b"\0"), parse_constant=_reject_constant)
    except RecursionError as error:
        raise ObjectError("malformed", "the JSON is nested too deeply") from error
    except ValueError as error:
        raise ObjectError("malformed", f"the JSON cannot be parsed ({error})") from error
    if not isinstance(parsed, dict):
        raise ObjectError("malformed", "the JSON is not an object")
    return parsed


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _check_version(document: Document) -> None:
    asset = optional_object(document.json, "asset")
    version = text(asset, "version", "")
    if not version:
        raise ObjectError("malformed", "asset.version is missing")
    if not version.startswith("2."):
        raise ObjectError("unsupported_version", f"it is glTF {version[:20]}, only glTF 2 can be read")
    minimum = text(asset, "minVersion", "2.0")
    if minimum != "2.0":
        raise ObjectError("unsupported_version", f"it needs a reader of glTF {minimum[:20]}, this one reads 2.0")


def _check_binary(document: Document) -> None:
    if document.binary is None or not array(document.json, "buffers"):
        return
    buffer = document.item("buffers", 0)
    if "uri" not in buffer and integer(buffer, "byteLength") > len(document.binary):
        raise ObjectError(
            "truncated", f"the BIN chunk has {len(document.binary)} bytes, {buffer['byteLength']} are promised"
        )


def _check_extensions(document: Document) -> None:
    for name in array(document.json, "extensionsRequired"):
        if not isinstance(name, str):
            raise ObjectError("malformed", "'extensionsRequired' is not a list of names")
        if name not in _SUPPORTED and not name.startswith(_HARMLESS):
            raise ObjectError("unsupported_extension", f"it needs {name[:80]}, which cannot be decoded")
    for name in array(document.json, "extensionsUsed"):
        if isinstance(name, str) and name not in _SUPPORTED and not name.startswith(_HARMLESS):
            document.warnings.add(f"it uses the extension {shown(name)}, which is not drawn")
