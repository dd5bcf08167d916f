"""KHR_draco_mesh_compression through DracoPy."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sar3d.errors import ObjectError
from sar3d.meshes.gltf.accessors import accessor_count, as_floats, view_bytes
from sar3d.meshes.gltf.document import Document, Json, as_object, integer, optional_object


def decode_draco(
    document: Document, primitive: Json, compressed: Json
) -> tuple[dict[str, NDArray[Any]], NDArray[np.uint32]]:
    """({attribute name: values (N, width)}, faces (F, 3)) of one compressed primitive.

    The extension maps names to the *unique ids* of Draco attributes. Integers stay integers unless the accessor of
    the same name marks them normalized. Raises ObjectError `draco` where the stream cannot be decoded or disagrees
    with the accessors (decoders that fail quietly yield zeros).
    """
    import DracoPy  # 20 ms that few files need

    data = view_bytes(document, integer(compressed, "bufferView")).tobytes()
    try:
        mesh = DracoPy.decode(data)
    except MemoryError:
        raise
    except Exception as error:  # DracoPy raises bare exceptions of several types
        raise ObjectError("draco", f"a Draco stream cannot be decoded ({type(error).__name__}: {error})") from error
    faces = getattr(mesh, "faces", None)
    if faces is None:
        raise ObjectError("no_faces", "a Draco stream holds a point cloud")
    wanted = as_object(compressed.get("attributes"), "attributes")
    decoded = {entry["unique_id"]: entry["data"] for entry in mesh.attributes}
    accessors = optional_object(primitive, "attributes")
    values = {name: _attribute(document, decoded, wanted, accessors, name) for name in wanted}
    _check_faces(document, primitive, faces)
    return values, np.ascontiguousarray(faces, np.uint32).reshape(-1, 3)


def _attribute(document: Document, decoded: dict[int, Any], wanted: Json, accessors: Json, name: str) -> NDArray[Any]:
    values = decoded.get(integer(wanted, name))
    if values is None:
        raise ObjectError("draco", f"a Draco stream lacks the attribute that it promises for {name[:40]}")
    values = np.asarray(values)
    values = values.reshape(len(values), -1)
    if name in accessors:
        index = integer(accessors, name)
        count = accessor_count(document, index)
        if count != len(values):
            raise ObjectError("draco", f"a Draco stream has {len(values)} vertices, its accessor {count}")
        if document.item("accessors", index).get("normalized") is True:
            values = as_floats(values, normalized=True)
    return values


def _check_faces(document: Document, primitive: Json, faces: NDArray[Any]) -> None:
    # A strip's accessor counts the strip's indices, Draco always yields a list.
    if "indices" not in primitive or integer(primitive, "mode", 4) != 4:
        return
    count = accessor_count(document, integer(primitive, "indices"))
    if count != 3 * len(faces):
        raise ObjectError("draco", f"a Draco stream has {len(faces)} faces, its accessor {count} indices")
