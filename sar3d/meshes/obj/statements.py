"""An .obj file as statements: the four that have millions of lines as arrays of numbers, the others one by one."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_NEWLINE, _BLANK, _HASH, _M = 10, 32, 35, 77
_MOST_RUNS = 1 << 16
_CODES = {b"v": 1, b"vt": 2, b"vn": 3, b"f": 4, b"fo": 4}  # fo: how early versions wrote f
_UNDRAWN = (b"o", b"g", b"s", b"l", b"p")
_CONTINUED = re.compile(rb"\\ *\n")


@dataclass(frozen=True)
class Rows:
    """All statements of one keyword in the order of the file."""

    lines: NDArray[np.int64]
    """(R,) number of the line of each, ascending."""
    sizes: NDArray[np.int64]
    """(R,) how many words follow the keyword."""
    text: bytes
    """Those words, with blanks between."""


@dataclass(frozen=True)
class Statements:
    """What an .obj file says."""

    rows: dict[str, Rows]
    """Of `v`, `vt`, `vn` and `f`, each possibly without any row."""
    others: list[tuple[int, str, str]]
    """(line, keyword in lower case, rest of the line) of all others but comments, names of groups, lines, points."""


def read_statements(data: bytes) -> Statements:
    """Comments, indentation, tabs, all kinds of line ends and continued lines are taken care of."""
    buffer = np.frombuffer(_clean(data), np.uint8).copy()
    blank = buffer <= 32
    word_start = np.flatnonzero(~blank[1:] & blank[:-1]) + 1  # the text begins and ends with a line end
    word_end = np.flatnonzero(blank[1:] & ~blank[:-1]) + 1
    newlines = np.flatnonzero(buffer == _NEWLINE)
    line = np.searchsorted(newlines, word_start)
    heads = np.flatnonzero(np.diff(line, prepend=-1))
    ends = np.append(heads[1:], len(line))
    codes = _codes(buffer, word_start[heads], word_end[heads])
    rest = np.flatnonzero(codes == 0)
    others = list(_others(buffer, word_start[heads[rest]], newlines[line[heads[rest]]], line[heads[rest]]))
    ends = _without_comments(buffer, word_start, heads, ends, codes > 0)
    for head in (word_start, word_end - 1):  # a keyword has one letter or two
        buffer[head[heads]] = _BLANK
    rows = {}
    for keyword, code in (("v", 1), ("vt", 2), ("vn", 3), ("f", 4)):
        which = np.flatnonzero(codes == code)
        text = _text_of(buffer, which, word_start[heads], newlines[line[heads]])
        rows[keyword] = Rows(line[heads[which]], ends[which] - heads[which] - 1, text)
    return Statements(rows, others)


def _clean(data: bytes) -> bytes:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        data = data.decode("utf-16", "replace").encode()
    data = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\t", b" ")
    return b"\n" + (_CONTINUED.sub(b" ", data) if b"\\" in data else data) + b"\n"


def _codes(buffer: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.uint8]:
    """(statements,) which of the numeric keywords each begins with, 0 = another, 255 = nothing to read."""
    length = ends - starts
    first, second = buffer[starts] | 32, buffer[starts + 1] | 32
    codes = np.zeros(len(starts), np.uint8)
    for word, code in (*_CODES.items(), *((word, 255) for word in _UNDRAWN)):
        same = (length == len(word)) & (first == word[0])
        codes[same if len(word) == 1 else same & (second == word[1])] = code
    codes[(buffer[starts] == _HASH) & (buffer[starts + 1] != _M)] = 255  # "#MRGB" is ZBrush's, and no comment
    return codes


def _without_comments(
    buffer: NDArray[np.uint8],
    word_start: NDArray[np.int64],
    heads: NDArray[np.int64],
    ends: NDArray[np.int64],
    numeric: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """The ends of the statements, those of numbers before the first word that begins with #; what follows is blanked."""
    hashes = np.flatnonzero(buffer[word_start] == _HASH)
    statement = np.searchsorted(heads, hashes, side="right") - 1
    inner = numeric[statement] & (hashes > heads[statement])
    statement, first = np.unique(statement[inner], return_index=True)
    after = np.append(word_start, len(buffer))[ends[statement]]
    for start, stop in zip(word_start[hashes[inner][first]].tolist(), after.tolist(), strict=True):
        buffer[start:stop] = _BLANK
    ends = ends.copy()
    ends[statement] = hashes[inner][first]
    return ends


def _text_of(
    buffer: NDArray[np.uint8], which: NDArray[np.int64], starts: NDArray[np.int64], stops: NDArray[np.int64]
) -> bytes:
    """The text of the statements `which`, in order; statements in a row are copied at once."""
    if not len(which):
        return b""
    breaks = np.flatnonzero(np.diff(which) != 1)
    first, last = which[np.append(0, breaks + 1)], which[np.append(breaks, len(which) - 1)]
    if len(first) <= _MOST_RUNS:
        runs = zip(starts[first].tolist(), stops[last].tolist(), strict=True)
        return b" ".join(buffer[start:stop].tobytes() for start, stop in runs)
    step = np.zeros(len(buffer) + 1, np.int8)
    step[starts[first]] += 1
    step[stops[last] + 1] -= 1  # with the line end, which keeps words apart
    return buffer[np.cumsum(step[:-1], dtype=np.int8).view(bool)].tobytes()


def _others(
    buffer: NDArray[np.uint8], starts: NDArray[np.int64], stops: NDArray[np.int64], lines: NDArray[np.int64]
) -> Iterator[tuple[int, str, str]]:
    for start, stop, line in zip(starts.tolist(), stops.tolist(), lines.tolist(), strict=True):
        keyword, _, rest = buffer[start:stop].tobytes().decode("utf-8", "surrogateescape").partition(" ")
        yield line, keyword.lower(), rest.strip()
