"""Texture files of .obj and .ply, decoded once each under the object's limits."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from sar3d.meshes.beside import Beside
from sar3d.meshes.images import decode_image
from sar3d.meshes.limits import MeshLimits
from sar3d.meshes.scene import Texture, Wrap


class TextureFiles:
    """What an object's materials show; equal pictures are one `Texture`, so that what they cover is drawn at once."""

    def __init__(self, beside: Beside, limits: MeshLimits) -> None:
        self._beside, self._limits = beside, limits
        self._textures: dict[tuple[bytes, Wrap], Texture] = {}
        self._pixels = 0

    def load(self, name: str, wrap: Wrap = "repeat") -> Texture:
        """The texture in a file that `Beside.find` has named.

        Raises ObjectError: `bad_image`, `texture_too_large`, `too_large`.
        """
        data = self._beside.read(name)
        if (data, wrap) not in self._textures:
            same = next((texture for (known, _), texture in self._textures.items() if known == data), None)
            self._textures[data, wrap] = (
                Texture(self._decoded(data), wrap, wrap)
                if same is None
                else dataclasses.replace(same, wrap_u=wrap, wrap_v=wrap)
            )
        return self._textures[data, wrap]

    def _decoded(self, data: bytes) -> NDArray[np.uint8]:
        room = self._limits.total_texture_pixels - self._pixels
        pixels = decode_image(data, self._limits.texture_pixels, room)
        self._pixels += pixels.shape[0] * pixels.shape[1]
        return pixels
