"""Numbers written as text, read strictly: a word that is no number is an error, never a zero."""

import re
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sar3d.errors import ObjectError

# "1.#QNAN", "-1.#IND", "nan(ind)", "1.#INF": how Microsoft's C library wrote what is not finite.
_MICROSOFT = re.compile(rb"[-+]?(?:1\.#(?:QNAN|SNAN|IND|INF)\w*|nan\((?:ind|snan)\))", re.IGNORECASE)


def read_floats(text: bytes, count: int) -> NDArray[np.float64]:
    """(count,) numbers between blanks. Raises ObjectError `malformed` if there are more, fewer, or other words."""
    return _read(text, count, np.float64)


def read_integers(text: bytes, count: int) -> NDArray[np.int64]:
    """(count,) integers between blanks. Raises ObjectError as `read_floats` does."""
    return _read(text, count, np.int64)


def _read(text: bytes, count: int, dtype: type[Any]) -> NDArray[Any]:
    values = _parsed(text, dtype)
    if (values is None or len(values) != count) and dtype is np.float64 and _MICROSOFT.search(text):
        values = _parsed(_MICROSOFT.sub(b"nan", text), dtype)
    if values is None or len(values) != count:
        raise ObjectError("malformed", f"one of its {count} numbers cannot be read: {_offender(text, dtype)}")
    return values


def _parsed(text: bytes, dtype: type[Any]) -> NDArray[Any] | None:
    """None where NumPy stops before the end."""
    if not text.strip():
        return np.zeros(0, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # how NumPy says that it stopped at a word
        try:
            return np.fromstring(text, dtype, sep=" ")
        except (DeprecationWarning, ValueError, OverflowError):
            return None


def _offender(text: bytes, dtype: type[Any]) -> str:
    convert = int if dtype is np.int64 else float
    for word in text.split():
        try:
            convert(word)
        except ValueError:
            return repr(word[:24].decode("utf-8", "backslashreplace"))
    return "one is out of range"
