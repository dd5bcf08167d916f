"""Decode texture images into RGBA8, whatever the file says they are."""

import contextlib
import io
import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sar3d.errors import ObjectError

_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "BMP", "GIF", "TGA", "TIFF")
_REDUCTIONS = (2, 4, 8)


def decode_image(data: bytes, max_pixels: int, room: int) -> NDArray[np.uint8]:
    """(H, W, 4) uint8, color as stored (sRGB) and linear alpha. 16-bit images keep their upper 8 bits.

    The format is recognized by content. An image of more than `max_pixels` is reduced while decoding if it is a JPEG
    and otherwise rejected; so is one of more than `room`, the pixels left to the object.
    Raises ObjectError: `bad_image`, `texture_too_large`.
    """
    with _opened(data) as image:
        _fit(image, max_pixels)
        if image.size[0] * image.size[1] > room:
            raise ObjectError("texture_too_large", "its textures have more pixels in all than it may have")
        return to_rgba(image)


@contextlib.contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sizes are checked here; Pillow's warning adds nothing
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                yield image
    except Image.DecompressionBombError as error:
        raise ObjectError("texture_too_large", "a texture has more pixels than any image may have") from error
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, KeyError, OverflowError) as error:
        raise ObjectError("bad_image", f"a texture cannot be decoded ({type(error).__name__}: {error})") from error


def to_rgba(image: Image.Image) -> NDArray[np.uint8]:
    """(H, W, 4) uint8 of any Pillow image."""
    if image.mode.startswith("I"):
        grey = np.asarray(image)
        # Conversion by Pillow would clip, not scale, 16-bit gray.
        bright = (np.clip(grey, 0, 65535) >> 8).astype(np.uint8)
        return np.dstack([bright, bright, bright, np.full_like(bright, 255)])
    return np.array(image.convert("RGBA"))


def _fit(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height <= max_pixels:
        return
    if image.format == "JPEG":
        for factor in _REDUCTIONS:
            wanted = (-(-width // factor), -(-height // factor))
            if wanted[0] * wanted[1] <= max_pixels:
                image.draft(None, wanted)
                break
    if image.size[0] * image.size[1] > max_pixels:
        raise ObjectError(
            "texture_too_large", f"a texture has {width} x {height} pixels, more than {max_pixels} in all"
        )
