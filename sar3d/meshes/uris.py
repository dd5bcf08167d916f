"""The URIs of glTF: data in the text itself, or percent-encoded names of files beside it."""

import base64
import binascii
from urllib.parse import unquote, unquote_to_bytes

from sar3d.errors import ObjectError
from sar3d.meshes.beside import Beside


def read_uri(uri: str, beside: Beside) -> bytes:
    """The bytes behind a glTF `uri`: a data URI or a relative, percent-encoded path."""
    if uri[:5].lower() == "data:":
        return _data_uri(uri)
    return beside.read(beside.find(unquote(uri)))


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
