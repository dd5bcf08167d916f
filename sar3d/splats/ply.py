"""The PLY files of Gaussian splats: fields by name, in any order and of any type; what they mean is undone here.

Opacities are logits, scales logarithms, quaternions (w, x, y, z) of any length, and colors coefficients of spherical
harmonics: `f_dc_*` of degree 0, `f_rest_*` of the others, color by color. 2D Gaussians have two scales.
"""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sar3d.errors import ObjectError
from sar3d.splats.scene import SH_COUNTS, Splats

LARGEST = 10_000_000
"""Splats of one file (`too_many_splats`)."""
_HEADER = 1 << 16
"""Bytes in which a header must end."""
_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
_ORDERS = {"ascii": "<", "binary_little_endian": "<", "binary_big_endian": ">"}


@dataclass(frozen=True)
class _Header:
    """What stands before the values."""

    encoding: str
    count: int
    fields: list[tuple[str, str]]
    """Name and NumPy type of each value of a splat."""
    size: int
    """Bytes of the header."""


def read_splats(data: bytes) -> Splats:
    """The splats of a PLY file.

    Raises:
        ObjectError: `malformed`, `truncated`, `no_splats`, `no_colors`, `non_finite`, `too_many_splats`.
    """
    header = _header(data)
    columns = _columns(data, header)
    means = _stacked(columns, ("x", "y", "z"), "malformed", "positions (x, y, z)")
    dc = _stacked(columns, ("f_dc_0", "f_dc_1", "f_dc_2"), "no_colors", "colors (f_dc_0, f_dc_1, f_dc_2)")
    opacity = _stacked(columns, ("opacity",), "malformed", "opacities (opacity)")[:, 0]
    scales = _stacked(columns, ("scale_0", "scale_1"), "malformed", "scales (scale_0, scale_1)")
    third = columns["scale_2"] if "scale_2" in columns else np.full(len(scales), -np.inf)
    rotation = _stacked(columns, ("rot_0", "rot_1", "rot_2", "rot_3"), "malformed", "rotations (rot_0 to rot_3)")
    rest = _rest(columns)
    for values in (means, dc, opacity, scales, rotation, rest):
        if not np.isfinite(values).all():
            raise ObjectError("non_finite", "it has splats whose values are not finite")
    with np.errstate(over="ignore"):  # an overflow is found below
        deviations = np.exp(np.concatenate([scales, third[:, None]], axis=1).astype(np.float64))
        opacities = 1 / (1 + np.exp(-opacity.astype(np.float64)))
    covariances = _covariances(rotation.astype(np.float64), deviations)
    if not np.isfinite(covariances).all():
        raise ObjectError("non_finite", "it has splats of infinite size")
    return Splats(
        means=means,
        covariances=covariances.astype(np.float32),
        opacities=opacities.astype(np.float32),
        sh=np.concatenate([dc[:, None], rest], axis=1),
        sh_frame=np.eye(3),
    )


def _header(data: bytes) -> _Header:
    end = re.search(rb"end_header\r?\n", data[:_HEADER])
    if not data.startswith(b"ply") or end is None:
        raise ObjectError("malformed", "it is no PLY file")
    encoding, element, count, fields = "", "", 0, []
    for line in data[: end.start()].decode("ascii", "replace").splitlines():
        words = line.split()
        if words[:1] == ["format"] and len(words) > 1:
            encoding = words[1]
        elif words[:1] == ["element"] and len(words) == 3 and words[2].isdigit():
            if element == "" and words[1] != "vertex":
                raise ObjectError("malformed", f"its first element is {words[1]}, not vertex")
            element, count = words[1], int(words[2]) if words[1] == "vertex" else count
        elif words[:1] == ["property"] and element == "vertex":
            if len(words) != 3 or words[1] not in _TYPES:
                raise ObjectError("malformed", f"a vertex has the property {' '.join(words[1:])}, which no splat has")
            fields.append((words[2], _ORDERS.get(encoding, "<") + _TYPES[words[1]]))
    if encoding not in _ORDERS or len({name for name, _ in fields}) != len(fields):
        raise ObjectError("malformed", "its header is no header of splats")
    if not count or not fields:
        raise ObjectError("no_splats", "it holds no splats")
    if count > LARGEST:
        raise ObjectError("too_many_splats", f"it holds {count:,} splats, more than {LARGEST:,}")
    return _Header(encoding, count, fields, end.end())


def _columns(data: bytes, header: _Header) -> dict[str, NDArray[np.float32]]:
    if header.encoding == "ascii":
        lines = data[header.size :].split(b"\n", header.count)[: header.count]
        try:
            table = np.array([line.split() for line in lines], np.float64)
        except ValueError as error:
            raise ObjectError("malformed", f"its values are no numbers ({error})") from error
        if table.shape != (header.count, len(header.fields)):
            raise ObjectError("truncated", "it has fewer values than its header says")
        return {name: table[:, i].astype(np.float32) for i, (name, _) in enumerate(header.fields)}
    kind = np.dtype(header.fields)
    if len(data) - header.size < header.count * kind.itemsize:
        raise ObjectError("truncated", f"it holds fewer than the {header.count:,} splats that its header says")
    records = np.frombuffer(data, kind, header.count, header.size)
    return {name: records[name].astype(np.float32) for name, _ in header.fields}


def _stacked(
    columns: dict[str, NDArray[np.float32]], names: tuple[str, ...], kind: str, called: str
) -> NDArray[np.float32]:
    missing = [name for name in names if name not in columns]
    if missing:
        raise ObjectError(kind, f"its splats have no {called}: it is no PLY of 3D Gaussian splatting")
    return np.stack([columns[name] for name in names], axis=1)


def _rest(columns: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """(N, K - 1, 3) coefficients above degree 0; the file lists all of the first color, then of the second."""
    count = sum(re.fullmatch(r"f_rest_\d+", name) is not None for name in columns)
    if count // 3 + 1 not in SH_COUNTS or count % 3 or any(f"f_rest_{i}" not in columns for i in range(count)):
        raise ObjectError("malformed", f"it has {count} of f_rest_*, and spherical harmonics have 0, 9, 24 or 45")
    size = len(columns["x"])
    if not count:
        return np.zeros((size, 0, 3), np.float32)
    rest = np.stack([columns[f"f_rest_{i}"] for i in range(count)], axis=1)
    return np.ascontiguousarray(rest.reshape(size, 3, count // 3).transpose(0, 2, 1))


def _covariances(quaternions: NDArray[np.float64], deviations: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 3, 3) from (N, 4) w, x, y, z of any length and (N, 3)."""
    length = np.linalg.norm(quaternions, axis=1, keepdims=True)
    if not (length > 0).all():
        raise ObjectError("malformed", "it has splats whose rotation is no quaternion")
    w, x, y, z = (quaternions / length).T
    rotation = np.stack(
        [
            np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], axis=1),
            np.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], axis=1),
            np.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], axis=1),
        ],
        axis=1,
    )
    axes = rotation * deviations[:, None, :]
    return np.asarray(axes @ axes.transpose(0, 2, 1))
