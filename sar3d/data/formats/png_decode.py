"""Reading the pictures of the views dataset: the kind of PNG that `write_png` makes directly, any other through Pillow.

Inflating with zlib-ng and undoing one filter takes half of Pillow's time.
"""

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sar3d.data.formats.deflate import deflate

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GRAY, _RGB = 0, 2
_NONE, _UP = 0, 2
_InflateError: type[Exception] = deflate.error  # type: ignore[assignment]  # its stub names an instance

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True)
class Inflated:
    """A PNG file whose pixels are inflated and, unless another reader did it, still filtered."""

    lines: NDArray[np.uint8]
    """(H, bytes of a line)"""
    up: bool
    """Whether each line is the difference from the one above."""
    bits: int
    channels: int
    texts: dict[str, str]
    """The text chunks."""
    finished: Pixels | None = None
    """The pixels, where no line needs anything done to it."""


def read_png(content: bytes | memoryview) -> tuple[Pixels, dict[str, str]]:
    """Pixels (H, W) or (H, W, 3), 8 or 16 bits, and the text chunks of a PNG file.

    Raises:
        ValueError: it is no readable PNG of gray or RGB pixels.
    """
    inflated = inflate_png(content)
    return unfilter([inflated])[0], inflated.texts


def inflate_png(content: bytes | memoryview) -> Inflated:
    """The first, longer part of reading a PNG file; raises `ValueError` as `read_png` does."""
    data = memoryview(content)
    try:
        if bytes(data[:8]) != _SIGNATURE:
            raise ValueError("it does not begin as a PNG does")
        header, texts, compressed = _chunks(data)
        width, height, bits, kind, _, _, interlaced = struct.unpack(">IIBBBBB", header)
        channels = 3 if kind == _RGB else 1
        plain = bits in (8, 16) and kind in (_GRAY, _RGB) and not interlaced and not (bits == 16 and kind == _RGB)
        lines = _lines(compressed, height, width * channels * bits // 8) if plain else None
        if lines is None:
            return Inflated(np.empty((0, 0), np.uint8), False, bits, channels, texts, _any_png(data))
        return Inflated(lines[0], lines[1], bits, channels, texts)
    except (struct.error, _InflateError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"it cannot be decoded ({error})") from error


def unfilter(pictures: Sequence[Inflated]) -> list[Pixels]:
    """The pixels of inflated pictures; those of one size are done at once, which costs little more than one of them."""
    lines = {i: picture.lines for i, picture in enumerate(pictures)}
    alike: dict[tuple[int, ...], list[int]] = {}
    for i, picture in enumerate(pictures):
        if picture.up:
            alike.setdefault(picture.lines.shape, []).append(i)
    for members in alike.values():
        stacked = np.stack([lines[i] for i in members])
        _accumulate(stacked)
        lines.update(zip(members, stacked, strict=True))
    return [_pixels(picture, lines[i]) for i, picture in enumerate(pictures)]


def _pixels(picture: Inflated, lines: NDArray[np.uint8]) -> Pixels:
    if picture.finished is not None:
        return picture.finished
    pixels = lines.view(">u2").astype(np.uint16) if picture.bits == 16 else lines
    return pixels.reshape(len(lines), -1, 3) if picture.channels == 3 else pixels


def _chunks(data: memoryview) -> tuple[memoryview, dict[str, str], memoryview | bytes]:
    """The header, the texts and the compressed pixels."""
    header, texts, parts = memoryview(b""), {}, []
    place = 8
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        name, body = bytes(data[place + 4 : place + 8]), data[place + 8 : place + 8 + length]
        if name == b"IHDR":
            header = body
        elif name == b"IDAT":
            parts.append(body)
        elif name == b"tEXt":
            key, _, value = bytes(body).partition(b"\0")
            texts[key.decode("latin-1")] = value.decode("latin-1")
        place += 12 + length
    return header, texts, parts[0] if len(parts) == 1 else b"".join(parts)


def _lines(compressed: memoryview | bytes, height: int, line: int) -> tuple[NDArray[np.uint8], bool] | None:
    """The lines, filtered, where every one has the filter `none`, or every one `up`, and whether it is that; else None."""
    # What a broken header claims is no reason to allocate it: the inflated bytes are, and they end at the claim.
    inflate = deflate.decompressobj()
    raw = inflate.decompress(compressed, height * (line + 1) + 1)
    if len(raw) != height * (line + 1) or not inflate.eof:
        raise ValueError("its pixels are fewer or more than its header says")
    lines = np.frombuffer(raw, np.uint8).reshape(height, line + 1)
    filters = lines[:, 0]
    up = bool((filters == _UP).all())
    if not (up or (filters == _NONE).all()):
        return None
    return np.ascontiguousarray(lines[:, 1:]), up


def _accumulate(pictures: NDArray[np.uint8]) -> None:
    """Sums along the lines of pictures (N, H, bytes), modulo 256, in place: in blocks of lines, with far fewer and longer
    additions than `cumsum`.
    """
    count, height, width = pictures.shape
    size = min((n for n in (32, 16, 8, 4, 2, 1) if height % n == 0), key=lambda n: n + height // n)
    blocks = pictures.reshape(count, -1, size, width)
    for i in range(1, size):
        blocks[:, :, i] += blocks[:, :, i - 1]
    for i in range(1, height // size):
        blocks[:, i] += blocks[:, i - 1, -1:]


def _any_png(data: memoryview) -> Pixels:
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        if image.mode not in ("L", "RGB", "I;16"):
            raise ValueError(f"its pixels are {image.mode}, neither gray nor RGB")
        pixels: Pixels = np.asarray(image)
        return pixels
