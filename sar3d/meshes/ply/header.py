"""The header of a .ply file: which elements follow, and in which layout."""

from dataclasses import dataclass
from typing import Literal

from sar3d.errors import ObjectError

ByteOrder = Literal["ascii", "<", ">"]

_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float": "f4", "double": "f8", "float32": "f4", "float64": "f8", "int64": "i8", "uint64": "u8"},
}
_FORMATS: dict[str, ByteOrder] = {"ascii": "ascii", "binary_little_endian": "<", "binary_big_endian": ">"}
_MOST_LINES = 10_000


@dataclass(frozen=True)
class Property:
    """One value of an element, or a list of values."""

    name: str
    """In lower case."""
    type: str
    """NumPy's code without byte order, such as `f4`."""
    count_type: str = ""
    """Of the length of a list; empty for a single value."""


@dataclass(frozen=True)
class Element:
    """A table: `count` rows with the same properties."""

    name: str
    count: int
    properties: tuple[Property, ...]

    @property
    def lists(self) -> tuple[Property, ...]:
        return tuple(p for p in self.properties if p.count_type)


@dataclass(frozen=True)
class Header:
    """What is said before `end_header`."""

    order: ByteOrder
    elements: tuple[Element, ...]
    comments: tuple[str, ...]
    size: int
    """Bytes up to the first of the body."""


def read_header(data: bytes) -> Header:
    """Raises ObjectError `malformed`, and `truncated` for a header without an end."""
    if not data.removeprefix(b"\xef\xbb\xbf").startswith(b"ply"):
        raise ObjectError("malformed", f"a PLY begins with 'ply', this file with {data[:4]!r}")
    order: ByteOrder | None = None
    elements: list[Element] = []
    comments: list[str] = []
    at = 0
    for _ in range(_MOST_LINES):
        line, at = _line(data, at)
        words = line.split()
        keyword = words[0].lower() if words else ""
        if keyword == "end_header":
            if order is None:
                raise ObjectError("malformed", "the PLY header has no line 'format'")
            return Header(order, tuple(elements), tuple(comments), at)
        if keyword == "format" and len(words) > 1 and words[1].lower() in _FORMATS:
            order = _FORMATS[words[1].lower()]
        elif keyword in ("comment", "obj_info"):
            comments.append(line.strip()[len(keyword) :].strip())
        elif keyword == "element" and len(words) == 3 and words[2].isdigit():
            elements.append(Element(words[1].lower(), int(words[2][:18]), ()))
        elif keyword == "property" and elements:
            last = elements[-1]
            elements[-1] = Element(last.name, last.count, (*last.properties, _property(words)))
        elif keyword not in ("", "ply", "\ufeffply"):
            raise ObjectError("malformed", f"the PLY header has the line {line.strip()[:60]!r}")
    raise ObjectError("malformed", f"the PLY header has more than {_MOST_LINES} lines")


def _line(data: bytes, start: int) -> tuple[str, int]:
    """(text of the line, where the next one begins). Lines end in \\n, \\r\\n or \\r."""
    ends = [end for end in (data.find(b"\n", start), data.find(b"\r", start, start + 4096)) if end >= 0]
    if not ends:
        raise ObjectError("truncated", "the PLY header has no end")
    end = min(ends)
    after = end + 2 if data[end : end + 2] == b"\r\n" else end + 1
    return data[start:end].decode("utf-8", "replace"), after


def _property(words: list[str]) -> Property:
    types = [word.lower() for word in words[1:-1]]
    if len(types) == 1 and types[0] in _TYPES:
        return Property(words[-1].lower(), _TYPES[types[0]])
    if len(types) == 3 and types[0] == "list" and all(t in _TYPES for t in types[1:]) and _TYPES[types[1]][0] != "f":
        return Property(words[-1].lower(), _TYPES[types[2]], _TYPES[types[1]])
    raise ObjectError("malformed", f"the PLY header has the line {' '.join(words)[:60]!r}")
