"""Texture sampling on the CPU as OpenGL does it: sRGB texels, mip levels by footprint, bilinear, wrap modes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sar3d.meshes.scene import Texture, Wrap
from sar3d.render.lighting import srgb_decode, srgb_encode

DECODE = np.asarray(srgb_decode(np.arange(256) / 255), np.float32)
BLOCK = 256
"""Rows averaged at a time, which bounds the memory that a large texture takes."""


@dataclass(frozen=True)
class Pyramid:
    """All mip levels of a texture, one after another."""

    texture: Texture
    texels: NDArray[np.uint8]
    """(N, 4) sRGB color and linear alpha."""
    sizes: NDArray[np.int64]
    """(levels, 2): width and height."""
    offsets: NDArray[np.int64]
    """(levels,): index of each level's first texel."""


def pyramid(texture: Texture) -> Pyramid:
    """Each level is the mean of 2 x 2 texels of the one before, in linear light."""
    levels = [np.ascontiguousarray(texture.pixels)]
    while max(levels[-1].shape[:2]) > 1:
        levels.append(_halve(levels[-1]))
    sizes = np.array([(level.shape[1], level.shape[0]) for level in levels], np.int64)
    offsets = np.cumsum([0, *sizes.prod(axis=1)[:-1]])
    return Pyramid(texture, np.concatenate([level.reshape(-1, 4) for level in levels]), sizes, offsets)


def _halve(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = (max(1, n // 2) for n in pixels.shape[:2])
    out = np.empty((height, width, 4), np.uint8)
    step_y, step_x = (2 if n > 1 else 1 for n in pixels.shape[:2])
    for top in range(0, height, BLOCK):
        rows = pixels[top * step_y : (top + BLOCK) * step_y]
        total = np.zeros((min(BLOCK, height - top), width, 4), np.float32)
        for y in range(step_y):
            for x in range(step_x):
                part = rows[y::step_y, x::step_x][: len(total), :width]
                total[..., :3] += DECODE[part[..., :3]]
                total[..., 3] += part[..., 3] / np.float32(255)
        total /= step_y * step_x
        total[..., :3] = srgb_encode(total[..., :3])
        out[top : top + BLOCK] = np.round(total * 255)
    return out


def sample(p: Pyramid, uv: NDArray[np.float32], footprint: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 4) linear RGBA at `uv` (N, 2), v = 0 being row 0.

    `footprint` (N,): the longer side, in texels of the finest level, of what one sample covers.
    """
    last = len(p.sizes) - 1
    lod = np.clip(np.log2(np.maximum(footprint, 1e-9)), 0, last)
    fine = np.minimum(lod.astype(np.int64), max(last - 1, 0))
    blend = (lod - fine).astype(np.float32)[:, None]
    out = _bilinear(p, uv, fine)
    coarser = blend[:, 0] > 0
    if coarser.any():
        far = _bilinear(p, uv[coarser], np.minimum(fine[coarser] + 1, last))
        out[coarser] += blend[coarser] * (far - out[coarser])
    if p.texture.nearest:
        magnified = lod <= 0
        out[magnified] = _nearest(p, uv[magnified])
    return out


def _bilinear(p: Pyramid, uv: NDArray[np.float32], level: NDArray[np.int64]) -> NDArray[np.float32]:
    at = uv.astype(np.float64) * p.sizes[level] - 0.5
    corner = np.floor(at).astype(np.int64)
    weight = (at - corner).astype(np.float32)
    out = np.zeros((len(uv), 4), np.float32)
    for dx in (0, 1):
        for dy in (0, 1):
            wx = weight[:, 0] if dx else 1 - weight[:, 0]
            wy = weight[:, 1] if dy else 1 - weight[:, 1]
            out += (wx * wy)[:, None] * _fetch(p, corner + np.array((dx, dy)), level)
    return out


def _nearest(p: Pyramid, uv: NDArray[np.float32]) -> NDArray[np.float32]:
    return _fetch(p, np.floor(uv * p.sizes[0]).astype(np.int64), np.zeros(len(uv), np.int64))


def _fetch(p: Pyramid, at: NDArray[np.int64], level: NDArray[np.int64]) -> NDArray[np.float32]:
    size = p.sizes[level]
    x = _wrap(at[:, 0], size[:, 0], p.texture.wrap_u)
    y = _wrap(at[:, 1], size[:, 1], p.texture.wrap_v)
    texel = p.texels[p.offsets[level] + y * size[:, 0] + x]
    return np.concatenate([DECODE[texel[:, :3]], texel[:, 3:] / np.float32(255)], axis=1)


def _wrap(at: NDArray[np.int64], size: NDArray[np.int64], mode: Wrap) -> NDArray[np.int64]:
    if mode == "repeat":
        return at % size
    if mode == "mirror":
        at = at % (2 * size)
        return np.minimum(at, 2 * size - 1 - at)
    return np.clip(at, 0, size - 1)
