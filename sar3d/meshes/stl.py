"""A reader of .stl files, binary and ASCII, for untrusted files.

Binary files may begin with "solid" and may have bytes after the last triangle; the attribute bytes of each triangle are
a color in the layouts of Materialise Magics and of VisCAM. ASCII files are read by their keywords, whatever the solid
is called.
"""

import re

import numpy as np
from numpy.typing import NDArray

from sar3d.errors import ObjectError
from sar3d.meshes.assemble import Piece
from sar3d.meshes.colors import linear_colors
from sar3d.meshes.limits import MeshLimits
from sar3d.meshes.scene import Material
from sar3d.meshes.soup import Triangles, check_triangles, piece_of
from sar3d.meshes.text_numbers import read_floats
from sar3d.meshes.warning_list import WarningList

_HEADER = 84
_ATTRIBUTE = 2
"""Bytes at the end of each triangle that hold a color or nothing."""
_RECORD = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
# For text in lower case: patterns that begin with a plain word are searched fast.
_FACET = re.compile(rb"facet\s+normal\b")
_VERTEX = re.compile(rb"vertex\s+(\S+\s+\S+\s+\S+)")
# A name may hold any words, keywords too; it ends with its line, or where the first facet begins.
_END = re.compile(rb"end[ \t]*solid\b")
_NAME = re.compile(rb"solid\b(?:(?!facet\s+normal\b)[^\r\n])*")
_VALID = 1 << 15


def read_stl(data: bytes, limits: MeshLimits, warnings: WarningList) -> list[Piece]:
    """Pieces in the file's own axes, none for a file without triangles.

    Raises ObjectError: `truncated`, `malformed`, `too_many_triangles`.
    """
    corners, colors = _binary(data, limits, warnings) if _is_binary(data) else (_ascii(data, limits, warnings), None)
    if not len(corners):
        return []
    places = np.arange(3 * len(corners)).reshape(-1, 3)
    return [piece_of(Triangles(corners.reshape(-1, 3).astype(np.float64), places, Material(), colors=colors))]


def _is_binary(data: bytes) -> bool:
    if len(data) >= _HEADER and len(data) == _HEADER + _RECORD.itemsize * _count(data):
        return True
    # "solid" opens many binary files too, but no text has zeros.
    text = data[: 1 << 16].lower()
    return b"\0" in text or not (_FACET.search(text) or text.lstrip().startswith(b"solid"))


def _count(data: bytes) -> int:
    return int.from_bytes(data[80:_HEADER], "little")


def _binary(
    data: bytes, limits: MeshLimits, warnings: WarningList
) -> tuple[NDArray[np.floating], NDArray[np.float32] | None]:
    """(corners (T, 3, 3), linear colors (T, 3, 4) or None)."""
    if len(data) < _HEADER:
        raise ObjectError(
            "truncated", f"a binary STL has a header of {_HEADER} bytes, this file has {len(data)} in all"
        )
    if 0 < _HEADER + _RECORD.itemsize * _count(data) - len(data) <= _ATTRIBUTE:
        warnings.add("the attribute bytes of its last triangle are missing")
        data = data.ljust(_HEADER + _RECORD.itemsize * _count(data), b"\0")
    count, there = _count(data), (len(data) - _HEADER) // _RECORD.itemsize
    if count == 0 and there > 0:
        warnings.add(f"its header counts no triangles; the {there} that follow are drawn")
        count = there
    if count > there:
        raise ObjectError("truncated", f"its header promises {count} triangles, {there} are there")
    check_triangles(np.full(1, count + 2), limits)
    extra = len(data) - _HEADER - count * _RECORD.itemsize
    if extra:
        warnings.add(f"{extra} bytes after its last triangle are not read")
    records = np.frombuffer(data, _RECORD, count, _HEADER)
    return records["corners"], _colors(data[:80], records["attribute"], warnings)


def _colors(header: bytes, attributes: NDArray[np.uint16], warnings: WarningList) -> NDArray[np.float32] | None:
    """(T, 3, 4) from 5 bits per channel; Magics names a color for all others in the header."""
    at = header.find(b"COLOR=")
    default = header[at + 6 : at + 10] if at >= 0 else b""
    own = (attributes & _VALID) == 0 if len(default) == 4 else (attributes & _VALID) != 0
    if len(default) != 4 and not own.any():
        if attributes.any():
            warnings.add("the attribute bytes of its triangles are of an unknown layout and are not drawn")
        return None
    channels = np.stack([attributes >> shift & 31 for shift in (0, 5, 10)], axis=1)
    if len(default) == 4:
        base = np.frombuffer(default, np.uint8, 3)
    else:
        channels, base = channels[:, ::-1], np.full(3, 255, np.uint8)  # VisCAM has blue lowest
    bytes_ = np.where(own[:, None], np.rint(channels * (255 / 31)).astype(np.uint8), base)
    return np.repeat(linear_colors(bytes_, warnings)[:, None], 3, axis=1)


def _ascii(data: bytes, limits: MeshLimits, warnings: WarningList) -> NDArray[np.float64]:
    """(T, 3, 3) corners."""
    text = data.lower()
    if not _END.search(text):
        warnings.add("its text has no 'endsolid'; the file may have been cut")
    text = _NAME.sub(b"", text)
    found, facets = _VERTEX.findall(text), len(_FACET.findall(text))
    check_triangles(np.full(1, facets + 2), limits)
    if len(found) != 3 * facets:
        raise ObjectError("malformed", f"it has {len(found)} vertices in {facets} facets, which have three each")
    return read_floats(b" ".join(found), 3 * len(found)).reshape(-1, 3, 3)
