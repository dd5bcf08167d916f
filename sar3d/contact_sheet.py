"""Pictures for people: PNG files of pixels, and contact sheets of bands below each other or of pictures in a grid."""

import io
from collections.abc import Sequence

import numpy as np
from einops import rearrange
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

_LINE = (220, 220, 220)


def png(pixels: UInt8[np.ndarray, "H W 3"] | Image.Image) -> bytes:
    """A PNG file."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def to_bytes(image: Float[Tensor, "3 H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """Colors in [0, 1], clipped to that, as bytes."""
    pixels: UInt8[np.ndarray, "H W 3"] = (
        (rearrange(image.clamp(0, 1), "c h w -> h w c") * 255).round().byte().cpu().numpy()
    )
    return pixels


def stacked(bands: Sequence[Image.Image], gap: int, ruled: bool = False) -> bytes:
    """PNG of pictures below each other on white.

    Args:
        bands: at least one.
        gap: pixels between them and around them.
        ruled: whether a thin line is drawn below each.
    """
    width = max(band.width for band in bands)
    sheet = Image.new("RGB", (width + 2 * gap, sum(band.height + gap for band in bands) + gap), "white")
    top = gap
    for band in bands:
        sheet.paste(band, (gap, top))
        top += band.height + gap
        if ruled:
            line = top - gap // 2
            ImageDraw.Draw(sheet).line((gap, line, sheet.width - gap, line), fill=_LINE)
    return png(sheet)


def grid(images: Sequence[UInt8[np.ndarray, "h w 3"]]) -> bytes:
    """PNG of pictures of any sizes, at least one, each in the middle of its cell, about twice as wide as high, on white."""
    width, height = max(i.shape[1] for i in images) + 8, max(i.shape[0] for i in images) + 8
    across = min(len(images), max(1, round((2 * len(images) * height / width) ** 0.5)))
    sheet = Image.new("RGB", (across * width, -(-len(images) // across) * height), "white")
    for i, image in enumerate(images):
        x, y = (i % across) * width, (i // across) * height
        sheet.paste(Image.fromarray(image), (x + (width - image.shape[1]) // 2, y + (height - image.shape[0]) // 2))
    return png(sheet)
