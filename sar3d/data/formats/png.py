"""A PNG writer for renders: one fixed filter per picture, and zlib-ng's deflate at its fastest.

General PNG writers try five filters per line and spend 80 % of the time of a fast renderer. Renders are smooth or flat:
one filter chosen per kind of picture compresses as well, many times as fast (benchmarks/bench_png.py). Equal pictures
must give equal bytes, or a resumed run could not be compared with an undisturbed one. That rules out ISA-L, which is
faster still: of 18,000 pictures compressed anew in another process, one came out different.
"""

import struct
import zlib
from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sar3d.data.formats.deflate import deflate

Filter = Literal["none", "up"]
"""`none` suits flat colors and masks, `up` smooth gradients (depth, normals)."""
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GRAY, _RGB = 0, 2


def write_png(
    pixels: NDArray[np.uint8] | NDArray[np.uint16], row_filter: Filter, texts: Mapping[str, str] | None = None
) -> bytes:
    """A PNG file of `pixels` (H, W) or (H, W, 3), 8 or 16 bits; `texts` become tEXt chunks (Latin-1).

    Source: PNG specification, third edition, sections 5, 9 and 11.
    """
    height, width = pixels.shape[:2]
    kind = _GRAY if pixels.ndim == 2 else _RGB
    bits = 8 * pixels.dtype.itemsize
    big_endian = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder(">"))
    lines = big_endian.view(np.uint8).reshape(height, -1)
    filtered = np.empty((height, lines.shape[1] + 1), np.uint8)
    if row_filter == "up":
        filtered[:, 0] = 2
        filtered[0, 1:] = lines[0]
        np.subtract(lines[1:], lines[:-1], out=filtered[1:, 1:])
    else:
        filtered[:, 0] = 0
        filtered[:, 1:] = lines
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    notes = [_chunk(b"tEXt", f"{key}\0{value}".encode("latin-1")) for key, value in (texts or {}).items()]
    data = deflate.compress(filtered, 1)
    return b"".join([_SIGNATURE, _chunk(b"IHDR", header), *notes, _chunk(b"IDAT", data), _chunk(b"IEND", b"")])


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(name)))
