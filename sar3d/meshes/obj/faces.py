"""The corners of an .obj file's faces: which position, texture coordinate and normal each one has."""

import numpy as np
from numpy.typing import NDArray

from sar3d.errors import ObjectError
from sar3d.meshes.obj.statements import Rows
from sar3d.meshes.text_numbers import read_integers
from sar3d.meshes.warning_list import WarningList

_SLASH = ord("/")
ABSENT = -1
KINDS = ("v", "vt", "vn")
_WORDS = {"v": "vertex", "vt": "texture coordinate", "vn": "normal"}


def read_corners(rows: dict[str, Rows], warnings: WarningList) -> dict[str, NDArray[np.int64]]:
    """For `v`, `vt` and `vn` the number from 0 of what each corner of all faces has (C,), `ABSENT` where it has none.

    Negative numbers count backwards from where the face stands. Normals and texture coordinates that the file does not
    have count as absent, with a warning. Raises ObjectError: `malformed`, `index_out_of_range` for a position.
    """
    faces = rows["f"]
    numbers = _numbers(faces.text, int(faces.sizes.sum()), warnings)
    line = np.repeat(faces.lines, faces.sizes)
    found = {}
    for kind, written in zip(KINDS, numbers.T, strict=True):
        total, index = len(rows[kind].lines), written - 1
        backwards = written < 0
        if backwards.any():
            index[backwards] = np.searchsorted(rows[kind].lines, line[backwards]) + written[backwards]
        absent = written == 0 if kind != "v" else np.zeros(len(written), bool)
        beyond = ((index < 0) | (index >= total)) & ~absent
        if beyond.any():
            said = f"a face refers to {_WORDS[kind]} {written[beyond][0]} of {total}"
            if kind == "v":
                raise ObjectError("index_out_of_range", said)
            warnings.add(f"{said}; {int(beyond.sum())} such references are left out")
        found[kind] = np.where(absent | beyond, ABSENT, index)
    return found


def _numbers(text: bytes, count: int, warnings: WarningList) -> NDArray[np.int64]:
    """(count, 3) numbers as written (v, v/vt, v//vn, v/vt/vn), 0 where there is none."""
    out = np.zeros((count, 3), np.int64)
    if b"/" not in text:
        out[:, 0] = read_integers(text, count)
        return out
    slashes = _slashes(text, count)
    if slashes.max(initial=0) > 2:
        warnings.add("the corners of its faces have more than three numbers; those after the third are not read")
        return _one_by_one(text, out)
    full = text.replace(b"//", b"/0/")
    if _open_ended(full):
        return _one_by_one(text, out)
    values = read_integers(full.replace(b"/", b" "), int(slashes.sum()) + count)
    first = np.cumsum(slashes + 1) - slashes - 1
    for column in range(3):
        has = slashes >= column
        out[has, column] = values[first[has] + column]
    return out


def _slashes(text: bytes, count: int) -> NDArray[np.int64]:
    """(words,) how many slashes each of the `count` words has."""
    buffer = np.frombuffer(b" " + text, np.uint8)
    blank = buffer <= 32
    starts = np.flatnonzero(~blank[1:] & blank[:-1]) + 1
    slash = buffer == _SLASH
    places = np.flatnonzero(slash)
    each = len(places) // count
    if len(places) == each * count:  # most files write all corners alike
        table = places.reshape(count, each)
        if (table[:, 0] >= starts).all() and (table[:-1, -1] < starts[1:]).all():
            return np.full(count, each)
    return np.add.reduceat(slash, starts, dtype=np.int64)


def _open_ended(text: bytes) -> bool:
    """Whether a word begins or ends with a slash."""
    padded = np.frombuffer(b" " + text + b" ", np.uint8)
    slash, blank = padded == _SLASH, padded <= 32
    return bool((slash[:-1] & blank[1:]).any() or (slash[1:] & blank[:-1]).any())


def _one_by_one(text: bytes, out: NDArray[np.int64]) -> NDArray[np.int64]:
    """The slow way, for words such as `1/` and `1/2/`."""
    for row, word in zip(out, text.split(), strict=True):
        for column, number in enumerate(word.split(b"/")[:3]):
            try:
                row[column] = int(number) if number else 0
            except (ValueError, OverflowError) as error:
                raise ObjectError(
                    "malformed", f"a face has the corner {word[:24].decode('utf-8', 'backslashreplace')!r}"
                ) from error
    return out
