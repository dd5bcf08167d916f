"""Text files as people have them: in which encoding, with which separator, and tables in them."""

import codecs
import csv
import io
import re
from collections.abc import Callable, Collection

SEPARATORS = ",;\t|"
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LONG_RUN = re.compile(rb"[\x80-\xff]{4}")
_LOOKED_AT = 4096

Log = Callable[[str], None]


def decoded(data: bytes, name: str, log: Log) -> str:
    """The text of a file: UTF-8, UTF-16 or UTF-32, with or without a mark, or Windows-1252, which is said.

    Raises `ValueError` where the bytes do not tell which encoding it is.
    """
    encoding = _encoding(data)
    if encoding is not None:
        return data.decode(encoding)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        # Of Western European text few letters are outside ASCII, and seldom two in a row; where many are, it is another
        # alphabet, and reading it as Western European would make nonsense of it.
        if _LONG_RUN.search(data) or b"\0" in data:
            raise ValueError("its text encoding cannot be told from its bytes; save it as UTF-8") from error
        text = data.decode("cp1252", "replace")
    if "\ufffd" in text:
        raise ValueError("its text encoding cannot be told from its bytes; save it as UTF-8")
    log(f"{name} is not UTF-8 and was read as Western European text (Windows-1252); save it as UTF-8 if that is wrong")
    return text


def _encoding(data: bytes) -> str | None:
    """What a mark at the beginning, or zeros in every other byte, tells."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return encoding
    head = data[:_LOOKED_AT]
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if max(even, odd) * 4 > len(head) > 1 and min(even, odd) * 20 < max(even, odd):
        return "utf-16-le" if odd > even else "utf-16-be"
    return None


def separated(text: str, known: Collection[Collection[str]]) -> tuple[str, str]:
    """The separator of a table, and the text without the line `sep=;` that Excel writes before it.

    Args:
        known: names of columns, a group for each column that the table must have; a line with one of every group is
            its header. In a table without a header, the separator is what ends the first cell.
    """
    first, _, rest = text.partition("\n")
    if found := re.fullmatch(r"\s*\"?sep=(.)\"?\s*", first):
        return found[1], rest
    for separator in SEPARATORS:
        names = header(text, separator)
        if len(names) > 1 and all(any(name in names for name in group) for group in known):
            return separator, text
    line = re.sub(r'"[^"]*"', lambda quoted: "x" * len(quoted[0]), first)
    places = {separator: place for separator in SEPARATORS if (place := line.find(separator)) >= 0}
    return (min(places, key=lambda separator: places[separator]) if places else ","), text


def header(text: str, separator: str) -> list[str]:
    """The cells of the first line, in lower case."""
    first = next(csv.reader(io.StringIO(text, newline=""), delimiter=separator), [])
    return [cell.strip().lower() for cell in first]
