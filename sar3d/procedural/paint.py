"""Colours with names, and textures painted from them."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sar3d.procedural.mesh import Floats

Rgb = tuple[int, int, int]

PALETTE: dict[str, Rgb] = {
    "red": (203, 36, 42),
    "orange": (240, 128, 28),
    "yellow": (246, 206, 48),
    "green": (54, 148, 66),
    "turquoise": (52, 190, 188),
    "blue": (38, 92, 204),
    "purple": (122, 58, 166),
    "pink": (243, 142, 184),
    "brown": (121, 76, 44),
    "white": (241, 241, 238),
    "black": (36, 36, 41),
    "grey": (140, 142, 148),
}
"""The colour words of names and captions, sRGB."""

_NEUTRALS: dict[str, Rgb] = {
    "cream": (242, 228, 198),
    "glass": (84, 116, 142),
    "rubber": (30, 30, 33),
    "steel": (165, 168, 175),
    "bark": (104, 70, 46),
    "soil": (70, 48, 36),
    "stalk": (72, 130, 60),
    "coffee": (66, 40, 26),
    "straw": (214, 176, 118),
    "light": (255, 244, 205),
}
"""Colours of things that captions do not speak of, sRGB."""

TEXTURE_SIZE = 128


@dataclass(frozen=True)
class Surface:
    """What covers a part."""

    color: str
    """A palette colour or one of the neutral ones."""
    pattern: str | None = None
    """A painter's name; None is plain colour without a texture."""
    second: str | None = None
    """The pattern's other colour; None takes a shade of `color`."""
    roughness: float = 0.75


def srgb(color: str) -> Rgb:
    """A colour's sRGB bytes."""
    return PALETTE[color] if color in PALETTE else _NEUTRALS[color]


def linear(color: str) -> tuple[float, float, float]:
    """A colour in linear light, as glTF factors are (IEC 61966-2-1), rounded to be the same on every machine."""
    values = [c / 255.0 for c in srgb(color)]
    red, green, blue = (round(c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4, 6) for c in values)
    return (red, green, blue)


def distance(a: str, b: str) -> float:
    """How far apart two colours look: weighted RGB distance, about 0 to 765."""
    (r0, g0, b0), (r1, g1, b1) = srgb(a), srgb(b)
    mean = (r0 + r1) / 2.0
    weights = (2.0 + mean / 256.0, 4.0, 2.0 + (255.0 - mean) / 256.0)
    return math.sqrt(sum(w * (p - q) ** 2 for w, p, q in zip(weights, (r0, g0, b0), (r1, g1, b1), strict=True)))


def paint(surface: Surface) -> NDArray[np.uint8]:
    """The texture (H, W, 3) uint8 sRGB of a patterned surface; it tiles without a seam."""
    if surface.pattern is None:
        raise ValueError("A plain surface has no texture.")
    base = np.array(srgb(surface.color), np.float64)
    second = base * 0.72 if surface.second is None else np.array(srgb(surface.second), np.float64)
    cells = (np.arange(TEXTURE_SIZE) + 0.5) / TEXTURE_SIZE
    x, y = np.meshgrid(cells, cells)
    weight, light = PATTERNS[surface.pattern](x, y)
    colors = (base + (second - base) * weight[..., None]) * light[..., None]
    return np.clip(np.floor(colors + 0.5), 0, 255).astype(np.uint8)


def _edge(signed: Floats) -> Floats:
    """1 where `signed` is positive, with a ramp one texel wide."""
    return np.clip(signed * TEXTURE_SIZE + 0.5, 0.0, 1.0)


def _saw(x: Floats) -> Floats:
    """Distance from the nearest whole number."""
    return np.abs(x - np.floor(x + 0.5))


def _noise(x: Floats, y: Floats, salt: int) -> Floats:
    """A value in [0, 1) for each pair of whole numbers."""
    mixed = (x.astype(np.int64) * 374761393 + y.astype(np.int64) * 668265263 + salt * 974634777) & 0xFFFFFFFF
    mixed = ((mixed ^ (mixed >> 13)) * 1274126177) & 0xFFFFFFFF
    return ((mixed ^ (mixed >> 16)) & 0xFFFF) / 65536.0


Painted = tuple[Floats, Floats]


def _stripes(x: Floats, y: Floats) -> Painted:
    return _edge((0.2 - _saw(2.0 * x)) / 2.0), np.ones_like(x)


def _hoops(x: Floats, y: Floats) -> Painted:
    return _stripes(y, x)


def _checks(x: Floats, y: Floats) -> Painted:
    across, down = _edge((0.25 - _saw(2.0 * x)) / 2.0), _edge((0.25 - _saw(2.0 * y)) / 2.0)
    return across * (1.0 - down) + down * (1.0 - across), np.ones_like(x)


def _dots(x: Floats, y: Floats) -> Painted:
    even = np.hypot(_saw(2.0 * x), _saw(2.0 * y))
    odd = np.hypot(_saw(2.0 * x + 0.5), _saw(2.0 * y + 0.5))
    return _edge((0.23 - np.minimum(even, odd)) / 2.0), np.ones_like(x)


def _zigzag(x: Floats, y: Floats) -> Painted:
    return _edge((0.2 - _saw(2.0 * y + _saw(2.0 * x))) / 2.0), np.ones_like(x)


def _bricks(x: Floats, y: Floats) -> Painted:
    row = np.floor(8.0 * y)
    column = np.floor(4.0 * x + 0.5 * (row % 2.0)) % 4.0
    joint = np.minimum(_saw(4.0 * x + 0.5 * (row % 2.0)) / 4.0, _saw(8.0 * y) / 8.0)
    return 1.0 - _edge(joint - 0.008), 0.86 + 0.2 * _noise(column, row, 1)


def _tiles(x: Floats, y: Floats) -> Painted:
    row = np.floor(6.0 * y)
    shift = 6.0 * x + 0.5 * (row % 2.0)
    depth = 6.0 * y - row
    rim = depth - (0.95 - 0.45 * (2.0 * _saw(shift)) ** 2)
    return 0.8 * _edge((0.1 - np.abs(rim)) / 6.0), 0.82 + 0.2 * _noise(np.floor(shift) % 6.0, row, 2) + 0.1 * depth


def _wood(x: Floats, y: Floats) -> Painted:
    wave = y + 0.018 * np.sin(2.0 * math.pi * x) + 0.008 * np.sin(2.0 * math.pi * (3.0 * x + 2.0 * y))
    rings = 0.5 + 0.5 * np.sin(2.0 * math.pi * (7.0 * wave + 0.6 * np.sin(2.0 * math.pi * wave)))
    return 0.75 * rings**3, 0.95 + 0.08 * _noise(np.floor(4.0 * x), np.floor(64.0 * y), 3)


def _planks(x: Floats, y: Floats) -> Painted:
    row = np.floor(5.0 * y)
    butt = _saw(x + 0.37 * row)
    grain = 0.3 * _noise(np.floor(6.0 * x), np.floor(64.0 * y), 4)
    gap = 1.0 - _edge(np.minimum(_saw(5.0 * y) / 5.0, butt) - 0.006)
    return np.maximum(gap, grain), 0.9 + 0.14 * _noise(row, row, 5)


def _foliage(x: Floats, y: Floats) -> Painted:
    coarse = _noise(np.floor(12.0 * x), np.floor(12.0 * (y + 0.5 * _saw(x))) % 12.0, 6)
    fine = _noise(np.floor(24.0 * x + 0.5) % 24.0, np.floor(24.0 * y), 7)
    return np.where(coarse > 0.62, 0.7, 0.0), 0.88 + 0.2 * fine


PATTERNS: dict[str, Callable[[Floats, Floats], Painted]] = {
    "stripes": _stripes,
    "hoops": _hoops,
    "checks": _checks,
    "dots": _dots,
    "zigzags": _zigzag,
    "bricks": _bricks,
    "tiles": _tiles,
    "wood": _wood,
    "planks": _planks,
    "foliage": _foliage,
}
"""Each gives the second colour's weight and a factor on the result, both (H, W), for x and y in (0, 1)."""
