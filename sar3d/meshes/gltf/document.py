"""A parsed glTF document, and typed access to its JSON, which may hold anything at all."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sar3d.errors import ObjectError
from sar3d.meshes.beside import Beside
from sar3d.meshes.limits import MeshLimits
from sar3d.meshes.uris import read_uri
from sar3d.meshes.warning_list import WarningList

Json = dict[str, Any]


@dataclass
class Document:
    """The JSON, the binary chunk, and what has been decoded so far (buffers, accessors and images are decoded once)."""

    json: Json
    binary: bytes | memoryview | None
    """The GLB's BIN chunk, None in a .gltf."""
    beside: Beside
    limits: MeshLimits
    warnings: WarningList
    pixels_decoded: int = 0
    buffers: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    accessors: dict[tuple[int, bool], NDArray[Any]] = field(default_factory=dict)
    images: dict[Any, NDArray[np.uint8]] = field(default_factory=dict)
    materials: dict[Any, Any] = field(default_factory=dict)

    def item(self, collection: str, index: int) -> Json:
        """`json[collection][index]` as an object; ObjectError `malformed` where there is none."""
        entries = array(self.json, collection)
        if not 0 <= index < len(entries):
            raise ObjectError("malformed", f"there is no {collection}[{index}], the file has {len(entries)}")
        return as_object(entries[index], f"{collection}[{index}]")

    def read_uri(self, uri: str) -> bytes:
        return read_uri(uri, self.beside)

    def uses(self, name: str) -> bool:
        """Whether the file says that it uses the extension `name`."""
        return name in array(self.json, "extensionsUsed") or name in array(self.json, "extensionsRequired")


def as_object(value: Any, what: str) -> Json:
    if not isinstance(value, dict):
        raise ObjectError("malformed", f"{what} is not a JSON object")
    return value


def array(parent: Json, key: str) -> list[Any]:
    """An optional list; absent means empty."""
    value = parent.get(key, [])
    if not isinstance(value, list):
        raise ObjectError("malformed", f"'{key}' is not a list")
    return value


def optional_object(parent: Json, key: str) -> Json:
    """An optional object; absent means empty."""
    return as_object(parent.get(key, {}), f"'{key}'")


def extension(parent: Json, name: str) -> Json | None:
    extensions = optional_object(parent, "extensions")
    return as_object(extensions[name], name) if name in extensions else None


def integer(parent: Json, key: str, default: int | None = None) -> int:
    """A non-negative integer (5.0 counts as one); required when there is no default."""
    value = parent.get(key, default)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ObjectError("malformed", f"'{key}' is {_shown(value)}, not a non-negative integer")
    return value


def optional_index(parent: Json, key: str) -> int | None:
    return integer(parent, key) if key in parent else None


def indices(parent: Json, key: str) -> list[int]:
    """An optional list of indices; absent means empty."""
    values = array(parent, key)
    whole = [int(v) if isinstance(v, float) and v.is_integer() else v for v in values]
    if not all(type(v) is int and v >= 0 for v in whole):
        raise ObjectError("malformed", f"'{key}' is not a list of indices")
    return whole


def number(parent: Json, key: str, default: float) -> float:
    return _finite(parent.get(key, default), key)


def numbers(parent: Json, key: str, default: Sequence[float]) -> list[float]:
    """A list of exactly as many finite numbers as the default has."""
    values = parent.get(key, default)
    if not isinstance(values, list | tuple) or len(values) != len(default):
        raise ObjectError("malformed", f"'{key}' is not a list of {len(default)} numbers")
    return [_finite(v, key) for v in values]


def text(parent: Json, key: str, default: str) -> str:
    value = parent.get(key, default)
    if not isinstance(value, str):
        raise ObjectError("malformed", f"'{key}' is {_shown(value)}, not a string")
    return value


def _finite(value: Any, key: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ObjectError("malformed", f"'{key}' is {_shown(value)}, not a number")
    if not math.isfinite(value):
        raise ObjectError("non_finite", f"'{key}' is not finite")
    return float(value)


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else shown[:37] + "..."
