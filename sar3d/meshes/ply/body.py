"""The tables that follow a .ply header, as arrays."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sar3d.errors import ObjectError
from sar3d.meshes.ply.header import Element, Header
from sar3d.meshes.text_numbers import read_floats

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Lists:
    """A list property of all rows of an element."""

    sizes: Integers
    """(rows,)"""
    values: NDArray[Any]
    """(sum of sizes,)"""


@dataclass
class Table:
    """An element's rows. Values of an ASCII file are float64 whatever their property's type is."""

    element: Element
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)
    """(rows,) by property; of properties with one name the first."""
    lists: dict[str, Lists] = field(default_factory=dict)

    def type_of(self, name: str) -> str:
        return next(p.type for p in self.element.properties if p.name == name)


def read_body(data: bytes, header: Header) -> dict[str, Table]:
    """The elements by name; of those with one name the first. Raises ObjectError: `truncated`, `malformed`."""
    tables: dict[str, Table] = {}
    for table in (_ascii if header.order == "ascii" else _binary)(data, header):
        tables.setdefault(table.element.name, table)
    return tables


# --- ASCII -----------------------------------------------------------------------------------------------------------


def _ascii(data: bytes, header: Header) -> Iterator[Table]:
    text = b" " + data[header.size :]
    blank = np.frombuffer(text, np.uint8) <= 32
    values = read_floats(text, int((blank[:-1] & ~blank[1:]).sum()))
    at = 0
    for element in header.elements:
        table, at = _ascii_table(values, element, at)
        yield table
    if at < len(values):
        raise ObjectError("malformed", f"{len(values) - at} numbers follow the last row that the PLY header promises")


def _ascii_table(values: NDArray[np.float64], element: Element, at: int) -> tuple[Table, int]:
    if not element.properties:
        return Table(element), at
    widths = _first_widths(element, lambda place: values[at + place] if at + place < len(values) else 0.0)
    end = at + sum(widths) * element.count
    rows = values[at:end].reshape(-1, sum(widths)) if end <= len(values) else np.zeros((0, 1))
    if len(rows) != element.count or not _same_lengths(element, widths, rows):
        return _ascii_walk(values, element, at)
    table, column = Table(element), 0
    for prop, width in zip(element.properties, widths, strict=True):
        if prop.count_type:
            lists = Lists(np.full(len(rows), width - 1), rows[:, column + 1 : column + width].reshape(-1))
            table.lists.setdefault(prop.name, lists)
        else:
            table.columns.setdefault(prop.name, rows[:, column])
        column += width
    return table, end


def _first_widths(element: Element, value: Any) -> list[int]:
    """How many words each property has in the first row; `value(place)` is a word of that row."""
    widths: list[int] = []
    for prop in element.properties:
        length = value(sum(widths)) if prop.count_type and element.count else 0.0
        widths.append(1 + int(length) if prop.count_type and 0 <= length < 1e9 else 1)
    return widths


def _same_lengths(element: Element, widths: list[int], rows: NDArray[np.float64]) -> bool:
    """Whether the lists of all rows are as long as those of the first."""
    column = 0
    for prop, width in zip(element.properties, widths, strict=True):
        if prop.count_type and not (rows[:, column] == width - 1).all():
            return False
        column += width
    return True


def _ascii_walk(values: NDArray[np.float64], element: Element, at: int) -> tuple[Table, int]:
    """Row by row, as only the lengths of its lists tell where a row ends."""
    words, end = values[at:].tolist(), len(values) - at
    starts: list[list[int]] = [[] for _ in element.properties]
    sizes: list[list[int]] = [[] for _ in element.properties]
    place = 0
    for _ in range(element.count):
        for i, prop in enumerate(element.properties):
            length = 1
            if prop.count_type:
                if place >= end:
                    raise _cut(element)
                length = _length(words[place], element)
                place += 1
            starts[i].append(place)
            sizes[i].append(length)
            place += length
        if place > end:
            raise _cut(element)
    table = Table(element)
    for prop, first, length_ in zip(element.properties, starts, sizes, strict=True):
        places, lengths = np.array(first, np.int64), np.array(length_, np.int64)
        if prop.count_type:
            table.lists.setdefault(prop.name, Lists(lengths, values[at + _ranges(places, lengths, 1)]))
        else:
            table.columns.setdefault(prop.name, values[at + places])
    return table, at + place


def _length(value: float, element: Element) -> int:
    if not 0 <= value < 1e9 or value != int(value):
        raise ObjectError("malformed", f"a list of the PLY element {element.name!r} has the length {value:g}")
    return int(value)


# --- binary ----------------------------------------------------------------------------------------------------------


def _binary(data: bytes, header: Header) -> Iterator[Table]:
    at = header.size
    for element in header.elements:
        table, at = _binary_table(data, element, header.order, at)
        yield table


def _binary_table(data: bytes, element: Element, order: str, at: int) -> tuple[Table, int]:
    dtype = _row_type(data, element, order, at)
    end = at + dtype.itemsize * element.count
    if dtype.itemsize and end <= len(data):
        rows = np.frombuffer(data, dtype, element.count, at)
        if all(
            (rows[f"n{i}"] == dtype[f"{i}"].shape[0]).all() for i, p in enumerate(element.properties) if p.count_type
        ):
            table = Table(element)
            for i, prop in enumerate(element.properties):
                if prop.count_type:
                    lists = Lists(np.full(len(rows), dtype[f"{i}"].shape[0]), rows[f"{i}"].reshape(-1))
                    table.lists.setdefault(prop.name, lists)
                else:
                    table.columns.setdefault(prop.name, rows[f"{i}"])
            return table, end
    if not element.lists:
        if end > len(data):
            raise _cut(element)
        return Table(element), at
    return _binary_walk(data, element, order, at)


def _row_type(data: bytes, element: Element, order: str, at: int) -> np.dtype[Any]:
    """The layout of the first row; its lists have the fields `n{i}` (length) and `{i}`, i counting properties."""
    fields: list[Any] = []
    for i, prop in enumerate(element.properties):
        if prop.count_type:
            place = at + np.dtype(fields).itemsize
            count, item = np.dtype(order + prop.count_type), np.dtype(order + prop.type)
            fits = element.count and place + count.itemsize <= len(data)
            length = int(np.frombuffer(data, count, 1, place)[0]) if fits else 0
            if not 0 <= length * item.itemsize <= len(data):
                raise _cut(element)
            fields += [(f"n{i}", count), (f"{i}", item, (length,))]
        else:
            fields.append((f"{i}", order + prop.type))
    return np.dtype(fields)


def _binary_walk(data: bytes, element: Element, order: str, at: int) -> tuple[Table, int]:
    """Row by row, as only the lengths of its lists tell where a row ends."""
    steps = [(np.dtype(p.type).itemsize, _unpacker(order, p.count_type)) for p in element.properties]
    starts: list[list[int]] = [[] for _ in steps]
    sizes: list[list[int]] = [[] for _ in steps]
    if element.count > len(data):
        raise _cut(element)  # each row has a byte at least
    try:
        for _ in range(element.count):
            for i, (width, unpacker) in enumerate(steps):
                length = 1
                if unpacker is not None:
                    (length,) = unpacker.unpack_from(data, at)
                    at += unpacker.size
                    if length < 0:
                        raise _cut(element)
                starts[i].append(at)
                sizes[i].append(length)
                at += length * width
    except struct.error as error:
        raise _cut(element) from error
    if at > len(data):
        raise _cut(element)
    table, buffer = Table(element), np.frombuffer(data, np.uint8)
    for prop, first, length_ in zip(element.properties, starts, sizes, strict=True):
        item = np.dtype(order + prop.type)
        places, lengths = np.array(first, np.int64), np.array(length_, np.int64)
        values = _gathered(buffer, _ranges(places, lengths, item.itemsize), item)
        if prop.count_type:
            table.lists.setdefault(prop.name, Lists(lengths, values))
        else:
            table.columns.setdefault(prop.name, values)
    return table, at


def _unpacker(order: str, code: str) -> struct.Struct | None:
    letters = {"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "i8": "q", "u8": "Q"}
    return struct.Struct(order + letters[code]) if code else None


def _ranges(starts: Integers, sizes: Integers, step: int) -> Integers:
    """start, start + step, ... of each range, `sizes` of them, one range after another."""
    before = np.cumsum(sizes) - sizes
    return np.repeat(starts - before * step, sizes) + np.arange(int(sizes.sum())) * step


def _gathered(buffer: NDArray[np.uint8], places: Integers, item: np.dtype[Any]) -> NDArray[Any]:
    """The values that begin at the bytes `places`, which need not be aligned."""
    raw = np.empty((len(places), item.itemsize), np.uint8)
    for byte in range(item.itemsize):
        raw[:, byte] = buffer[places + byte]
    return raw.view(item)[:, 0]


def _cut(element: Element) -> ObjectError:
    return ObjectError(
        "truncated", f"the file ends before the {element.count} rows of the PLY element {element.name!r}"
    )
