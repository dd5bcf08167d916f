"""Colors with names, and textures painted from them."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sar3d.procedural.mesh import Floats

Rgb = tuple[int, int, int]

PALETTE: dict[str, Rgb] = {
    "red": (214, 26, 34),
    "orange": (255, 128, 12),
    "yellow": (252, 216, 28),
    "green": (36, 148, 54),
    "turquoise": (44, 204, 198),
    "blue": (28, 76, 214),
    "purple": (124, 44, 172),
    "pink": (252, 132, 188),
    "brown": (112, 64, 30),
    "white": (246, 246, 243),
    "gray": (132, 135, 140),
    "black": (28, 28, 32),
}
"""The color words of names and captions, sRGB."""

_NEUTRALS: dict[str, Rgb] = {
    "cream": (242, 228, 198),
    "glass": (70, 104, 134),
    "rubber": (40, 40, 44),
    "steel": (172, 175, 182),
    "bark": (104, 70, 46),
    "soil": (64, 42, 30),
    "leaf": (72, 130, 60),
    "coffee": (60, 34, 20),
    "straw": (214, 168, 104),
    "light": (255, 244, 205),
    "carrot": (236, 110, 30),
    "ink": (20, 20, 24),
}
"""Colors of things that captions do not speak of, sRGB."""

TILE = 0.2
"""Length that one repetition of a pattern covers, where an object's longest side is about 1: some ten pixels of a
picture of 64."""
TEXTURE_SIZE = 64

_LEAST_CONTRAST = 215.0


@dataclass(frozen=True)
class Surface:
    """What covers a part."""

    color: str
    """A palette color or one of the neutral ones."""
    pattern: str | None = None
    """A painter's name; None is plain color without a texture."""
    second: str | None = None
    """The pattern's other color."""
    roughness: float = 0.7


def srgb(color: str) -> Rgb:
    """A color's sRGB bytes."""
    return PALETTE[color] if color in PALETTE else _NEUTRALS[color]


def linear(color: str) -> tuple[float, float, float]:
    """A color in linear light, as glTF factors are (IEC 61966-2-1), rounded to be the same on every machine."""
    values = [c / 255.0 for c in srgb(color)]
    red, green, blue = (round(c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4, 6) for c in values)
    return (red, green, blue)


def distance(a: str, b: str) -> float:
    """How far apart two colors look: weighted RGB distance, about 0 to 765."""
    (r0, g0, b0), (r1, g1, b1) = srgb(a), srgb(b)
    mean = (r0 + r1) / 2.0
    weights = (2.0 + mean / 256.0, 4.0, 2.0 + (255.0 - mean) / 256.0)
    return math.sqrt(sum(w * (p - q) ** 2 for w, p, q in zip(weights, (r0, g0, b0), (r1, g1, b1), strict=True)))


@functools.cache
def contrasting(main: str) -> tuple[str, ...]:
    """The palette's colors that stand out on `main`."""
    return tuple(color for color in PALETTE if distance(main, color) > _LEAST_CONTRAST)


def paint(surface: Surface) -> NDArray[np.uint8]:
    """The texture (H, W, 3) uint8 sRGB of a patterned surface; it tiles without a seam."""
    if surface.pattern is None or surface.second is None:
        raise ValueError("A plain surface has no texture.")
    base, second = (np.array(srgb(color), np.float64) for color in (surface.color, surface.second))
    colors = base + (second - base) * _weights(surface.pattern)[..., None]
    return np.floor(colors + 0.5).astype(np.uint8)


@functools.cache
def _weights(pattern: str) -> Floats:
    """(H, W) weight of the second color."""
    cells = (np.arange(TEXTURE_SIZE) + 0.5) / TEXTURE_SIZE
    x, y = np.meshgrid(cells, cells)
    return PATTERNS[pattern](x, y)


def _edge(signed: Floats) -> Floats:
    """1 where `signed` is positive, with a ramp one texel wide."""
    return np.clip(signed * TEXTURE_SIZE + 0.5, 0.0, 1.0)


def _saw(x: Floats) -> Floats:
    """Distance from the nearest whole number."""
    return np.abs(x - np.floor(x + 0.5))


def _stripes(x: Floats, y: Floats) -> Floats:
    return _edge(_saw(x) - 0.37)


def _bands(x: Floats, y: Floats) -> Floats:
    return _stripes(y, x)


def _checks(x: Floats, y: Floats) -> Floats:
    return np.maximum(_edge(_saw(x) - 0.42), _edge(_saw(y) - 0.42))


def _dots(x: Floats, y: Floats) -> Floats:
    return _edge(0.28 - np.hypot(x - 0.5, y - 0.5))


def _zigzags(x: Floats, y: Floats) -> Floats:
    return _edge(_saw(y + _saw(x)) - 0.37)


PATTERNS: dict[str, Callable[[Floats, Floats], Floats]] = {
    "stripes": _stripes,
    "bands": _bands,
    "checks": _checks,
    "dots": _dots,
    "zigzags": _zigzags,
}
"""Each gives the second color's weight (H, W), about a quarter on average, for x and y in (0, 1)."""
