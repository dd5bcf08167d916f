"""Buffers, buffer views and accessors as numpy arrays (glTF 2.0 specification, section 3.6), bounds checked."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sar3d.errors import ObjectError
from sar3d.meshes.gltf.document import Document, Json, as_object, integer, text

_COMPONENTS = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}


def view_bytes(document: Document, index: int) -> NDArray[np.uint8]:
    """The bytes of a buffer view. Raises ObjectError `truncated` where it exceeds its buffer."""
    view = document.item("bufferViews", index)
    buffer = _buffer(document, integer(view, "buffer"))
    start, length = integer(view, "byteOffset", 0), integer(view, "byteLength")
    if start + length > len(buffer):
        raise ObjectError(
            "truncated", f"bufferViews[{index}] ends at byte {start + length} of a buffer of {len(buffer)}"
        )
    return buffer[start : start + length]


def read_accessor(document: Document, index: int, widths: tuple[int, ...], *, scaled: bool) -> NDArray[Any]:
    """(count, width) values of an accessor, sparse values applied; read-only, since callers share it.

    `widths` are the numbers of components that the use allows. With `scaled`, integers marked normalized become
    float32 in [0, 1] or [-1, 1] (specification 3.11) and other integers become float32 as they are.
    Raises ObjectError: `truncated`, `malformed`, `index_out_of_range`, `too_many_vertices`.
    """
    if (index, scaled) not in document.accessors:
        accessor = document.item("accessors", index)
        values = _values(document, accessor, f"accessors[{index}]")
        if scaled:
            values = as_floats(values, normalized=accessor.get("normalized") is True)
        values.flags.writeable = False
        document.accessors[(index, scaled)] = values
    values = document.accessors[(index, scaled)]
    if values.shape[1] not in widths:
        raise ObjectError("malformed", f"accessors[{index}] has {values.shape[1]} components, expected {widths}")
    return values


def as_floats(values: NDArray[Any], *, normalized: bool) -> NDArray[np.float32]:
    """float32 of any component type; normalized integers are divided by their greatest value."""
    floats = values.astype(np.float32, copy=False)
    if normalized and values.dtype.kind in "iu":
        floats = np.maximum(floats / np.float32(np.iinfo(values.dtype).max), np.float32(-1.0))
    return floats


def element_bytes(accessor: Json, what: str) -> int:
    """Bytes of one element. Raises ObjectError `malformed` for an unknown type."""
    return _component(accessor, what).itemsize * _width(accessor, what)


def accessor_count(document: Document, index: int) -> int:
    return integer(document.item("accessors", index), "count")


def _buffer(document: Document, index: int) -> NDArray[np.uint8]:
    if index in document.buffers:
        return document.buffers[index]
    buffer = document.item("buffers", index)
    length = integer(buffer, "byteLength")
    data: bytes | memoryview
    if "uri" in buffer:
        data = document.read_uri(text(buffer, "uri", ""))
    elif index == 0 and document.binary is not None:
        data = document.binary
    else:
        raise ObjectError("malformed", f"buffers[{index}] has neither a uri nor a BIN chunk")
    if length > len(data):
        raise ObjectError("truncated", f"buffers[{index}] promises {length} bytes, {len(data)} are there")
    document.buffers[index] = np.frombuffer(data, np.uint8, length)
    return document.buffers[index]


def _values(document: Document, accessor: Json, what: str) -> NDArray[Any]:
    dtype, width = _component(accessor, what), _width(accessor, what)
    count = integer(accessor, "count")
    most = max(document.limits.vertices, 3 * document.limits.triangles)
    if count > most:
        raise ObjectError("too_many_vertices", f"{what} has {count} elements, more than {most}")
    if "bufferView" in accessor:
        values = _strided(document, accessor, dtype, (count, width), what)
    else:
        values = np.zeros((count, width), dtype)
    if "sparse" in accessor:
        values = values.copy()
        _apply_sparse(document, as_object(accessor["sparse"], f"{what}.sparse"), values, what)
    return values


def _strided(
    document: Document, accessor: Json, dtype: np.dtype[Any], shape: tuple[int, int], what: str
) -> NDArray[Any]:
    view = integer(accessor, "bufferView")
    data = view_bytes(document, view)
    element = dtype.itemsize * shape[1]
    stride = integer(document.item("bufferViews", view), "byteStride", 0) or element
    if stride < element:
        raise ObjectError("malformed", f"{what} has elements of {element} bytes at a stride of {stride}")
    start = integer(accessor, "byteOffset", 0)
    if shape[0] == 0:
        return np.zeros(shape, dtype)
    end = start + stride * (shape[0] - 1) + element
    if end > len(data):
        raise ObjectError("truncated", f"{what} ends at byte {end} of a buffer view of {len(data)}")
    strided = np.ndarray(shape, dtype, data, start, (stride, dtype.itemsize))
    return np.array(strided, order="C")  # a copy, also because files need not align their data


def _apply_sparse(document: Document, sparse: Json, values: NDArray[Any], what: str) -> None:
    count = integer(sparse, "count")
    if count > len(values):
        raise ObjectError("malformed", f"{what} replaces {count} of {len(values)} elements")
    where, what_with = as_object(sparse.get("indices"), "indices"), as_object(sparse.get("values"), "values")
    dtype = _component(where, what)
    if dtype.kind != "u":
        raise ObjectError("malformed", f"the sparse indices of {what} are not unsigned integers")
    targets = _strided(document, where, dtype, (count, 1), f"{what}.sparse.indices")[:, 0]
    if count and targets.max() >= len(values):
        raise ObjectError("index_out_of_range", f"{what} replaces element {targets.max()} of {len(values)}")
    values[targets] = _strided(document, what_with, values.dtype, (count, values.shape[1]), f"{what}.sparse.values")


def _component(parent: Json, what: str) -> np.dtype[Any]:
    code = integer(parent, "componentType")
    if code not in _COMPONENTS:
        raise ObjectError("malformed", f"{what} has the unknown component type {code}")
    return np.dtype(_COMPONENTS[code])


def _width(accessor: Json, what: str) -> int:
    kind = text(accessor, "type", "")
    if kind not in _WIDTHS:
        raise ObjectError("malformed", f"{what} has the type {kind[:20]!r}, which no vertex data may have")
    return _WIDTHS[kind]
