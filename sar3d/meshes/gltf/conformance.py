"""What the specification forbids of vertex data and viewers draw in different ways: refused, or drawn with a warning."""

import itertools
import re

from sar3d.errors import ObjectError
from sar3d.meshes.beside import shown
from sar3d.meshes.gltf.accessors import element_bytes
from sar3d.meshes.gltf.document import Document, Json, integer

_KNOWN = re.compile(r"POSITION|NORMAL|TANGENT|COLOR_0|(?:TEXCOORD|JOINTS|WEIGHTS)_\d+")
_FLOAT = 5126
_GEOMETRIC = ("POSITION", "NORMAL", "TANGENT")


def check_attributes(document: Document, names: Json) -> None:
    """Look at a primitive's `attributes`, {name: accessor}.

    Raises ObjectError `malformed` for interleaved data without a stride, which reads as noise.
    """
    for name in names:
        if not _KNOWN.fullmatch(name):
            document.warnings.add(f"its vertices have the attribute {shown(name)}, which is not drawn")
    accessors = {name: document.item("accessors", integer(names, name)) for name in names}
    for name, accessor in accessors.items():
        _warn_of_type(document, name, accessor)
    _check_packing(document, accessors)


def _warn_of_type(document: Document, name: str, accessor: Json) -> None:
    if integer(accessor, "componentType") == _FLOAT or name.startswith("JOINTS"):
        return
    if name.startswith(("COLOR", "WEIGHTS")):
        if accessor.get("normalized") is not True:
            document.warnings.add(
                f"{name} holds integers that are not marked as normalized; they are read as fractions"
            )
    elif not document.uses("KHR_mesh_quantization"):
        fraction = name not in _GEOMETRIC and accessor.get("normalized") is True
        if not fraction:
            document.warnings.add(
                f"{name} holds integers, which takes KHR_mesh_quantization; they are read as they are"
            )


def _check_packing(document: Document, accessors: dict[str, Json]) -> None:
    """Without `byteStride` elements follow each other, so that no two attributes can lie in the same bytes."""
    taken: list[tuple[int, int, int, str]] = []
    for name, accessor in accessors.items():
        if "bufferView" not in accessor:
            continue
        index = integer(accessor, "bufferView")
        view = document.item("bufferViews", index)
        if integer(view, "byteStride", 0):
            continue
        if "byteStride" in view:
            document.warnings.add(f"bufferViews[{index}] has byteStride 0; its elements are read one after another")
        start = integer(view, "byteOffset", 0) + integer(accessor, "byteOffset", 0)
        end = start + integer(accessor, "count") * element_bytes(accessor, name)
        taken.append((integer(view, "buffer"), start, end, name))
    taken.sort()
    for (buffer, start, end, one), (other_buffer, other_start, other_end, other) in itertools.pairwise(taken):
        if buffer == other_buffer and other_start < end and (start, end) != (other_start, other_end):
            raise ObjectError("malformed", f"{one} and {other} are interleaved, but their bufferView has no byteStride")
