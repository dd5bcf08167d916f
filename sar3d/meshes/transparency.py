"""Triangles of a loaded object that no picture will show."""

import numpy as np

from sar3d.meshes.scene import Primitive, Scene
from sar3d.meshes.warning_list import WarningList

_INVISIBLE = 1 / 255


def warn_of_transparency(scene: Scene, warnings: WarningList) -> None:
    """Warn of triangles that are fully transparent, by their material, vertex colors or the whole of their texture."""
    textures: dict[int, float] = {}
    unseen = sum(len(p.faces) for p in scene.primitives if _greatest_alpha(p, textures) < _needed(p))
    if unseen:
        warnings.add(f"{unseen} of its {scene.triangles} triangles are fully transparent, so nothing of them is seen")


def _needed(p: Primitive) -> float:
    return p.material.alpha_cutoff if p.material.alpha_mode == "MASK" else _INVISIBLE


def _greatest_alpha(p: Primitive, textures: dict[int, float]) -> float:
    if p.material.alpha_mode == "OPAQUE":
        return 1.0
    alpha = p.material.base_color[3]
    if p.colors is not None:
        alpha *= float(p.colors[:, 3].max(initial=0.0))
    texture = p.material.texture
    if texture is not None:
        if id(texture) not in textures:
            textures[id(texture)] = float(np.max(texture.pixels[..., 3])) / 255
        alpha *= textures[id(texture)]
    return alpha
