"""Follow a file's references to other files, but never out of its folder and never to the network."""

import base64
import binascii
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes

from sar3d.errors import ObjectError

_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.\-]*:")

ReadFile = Callable[[Path], bytes]
"""Reads a whole file, charging its size to the object's byte limit."""


def confined_path(name: str, folder: Path) -> Path:
    """The existing regular file that the relative `name` (already percent-decoded) means inside `folder`.

    Raises ObjectError: `unsafe_uri` unless it lies in the folder with symbolic links resolved, `missing_file`.
    """
    slashed = name.replace("\\", "/")  # written by exporters on Windows
    if not slashed or "\0" in slashed or slashed.startswith(("/", "~")) or _SCHEME.match(slashed):
        raise ObjectError("unsafe_uri", f"it refers to {_shown(name)}, which is not a relative path")
    root = folder.resolve()
    try:
        path = (root / slashed).resolve()
        inside, exists = path.is_relative_to(root), path.is_file()
    except (OSError, RuntimeError) as error:
        raise ObjectError("missing_file", f"it refers to {_shown(name)}, which cannot be opened") from error
    if not inside:
        raise ObjectError("unsafe_uri", f"it refers to {_shown(name)}, which lies outside its folder")
    if not exists:
        raise ObjectError("missing_file", f"it refers to {_shown(name)}, which does not exist")
    return path


def read_uri(uri: str, folder: Path, read: ReadFile) -> bytes:
    """The bytes behind a glTF `uri`: a data URI or a relative, percent-encoded path."""
    if uri[:5].lower() == "data:":
        return _data_uri(uri)
    return read(confined_path(unquote(uri), folder))


def _data_uri(uri: str) -> bytes:
    head, comma, body = uri[5:].partition(",")
    if not comma:
        raise ObjectError("malformed", "a data URI has no comma")
    if not head.lower().endswith(";base64"):
        return unquote_to_bytes(body)
    text = "".join(body.split()).rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise ObjectError("malformed", "a data URI is not valid base64") from error


def _shown(name: str) -> str:
    return repr(name if len(name) <= 120 else name[:117] + "...")
