"""A loaded object, flattened: what every renderer draws and every loader makes."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

AlphaMode = Literal["OPAQUE", "MASK", "BLEND"]
Wrap = Literal["repeat", "clamp", "mirror"]


@dataclass(frozen=True)
class Texture:
    """`pixels` (H, W, 4) uint8: sRGB-encoded red, green, blue and linear alpha; row 0 is v = 0 (glTF convention)."""

    pixels: NDArray[np.uint8]
    wrap_u: Wrap = "repeat"
    wrap_v: Wrap = "repeat"
    nearest: bool = False
    """Sample without interpolation (the file's magnification filter is NEAREST)."""


@dataclass(frozen=True)
class Material:
    """Surface color only. Shading needs no more: metalness, roughness, emission and normal maps are not drawn."""

    base_color: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    """Linear RGBA factor, multiplied with texture and vertex color."""
    texture: Texture | None = None
    alpha_mode: AlphaMode = "OPAQUE"
    alpha_cutoff: float = 0.5
    double_sided: bool = True
    """As the file says. Renderers draw both sides of every surface whatever this is (scanned and generated objects
    are full of wrongly wound faces); it is kept for exporters."""
    unlit: bool = False


@dataclass(frozen=True)
class Primitive:
    """Triangles with one material, in the scene's frame (node transforms already applied)."""

    positions: NDArray[np.float32]
    """(N, 3)"""
    normals: NDArray[np.float32]
    """(N, 3), unit length; the file's, else flat ones."""
    faces: NDArray[np.uint32]
    """(F, 3), counter-clockwise seen from outside (kept so under negative scales)."""
    material: Material
    uvs: NDArray[np.float32] | None = None
    """(N, 2), texture transform already applied; v = 0 is row 0 of the texture."""
    colors: NDArray[np.float32] | None = None
    """(N, 4), linear RGBA in [0, 1]."""


@dataclass(frozen=True)
class Scene:
    """All triangles of one object."""

    primitives: tuple[Primitive, ...]
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Added to all positions. Zero unless the object lies so far from the origin that float32 would coarsen it; always
    zero after normalization."""
    warnings: tuple[str, ...] = ()
    """What the reader mended, guessed or cannot draw, a sentence each; empty where nothing was wrong."""

    @property
    def triangles(self) -> int:
        return sum(len(p.faces) for p in self.primitives)

    def bounds(self) -> NDArray[np.float64]:
        """(2, 3): the least and the greatest corner over the vertices that faces use, `offset` included."""
        lows, highs = [], []
        for p in self.primitives:
            used = p.positions[p.faces.reshape(-1)]
            lows.append(used.min(axis=0))
            highs.append(used.max(axis=0))
        return np.stack([np.min(lows, axis=0), np.max(highs, axis=0)]).astype(np.float64) + self.offset
