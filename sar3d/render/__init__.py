"""Pictures of a scene: one interface, three renderers that draw the same (moderngl, pyrender, CPU ray caster).

Surfaces are drawn from both sides. Base color is factor x texture x vertex color; `lighting` says how it is lit and
`sampling` how samples become pixels. OPAQUE ignores alpha; MASK drops what is below the cutoff; BLEND is composited
back to front over the rest, by triangle in the OpenGL renderers and exactly in the ray caster. A BLEND surface has depth
and normal where its alpha is at least 0.5, as if it were MASK with that cutoff; elsewhere it only tints.
"""

from sar3d.render.backends import available, make_renderer, pick_backend
from sar3d.render.base import BACKENDS, Backend, Frames, Renderer, RenderSettings

__all__ = [
    "BACKENDS",
    "Backend",
    "Frames",
    "RenderSettings",
    "Renderer",
    "available",
    "make_renderer",
    "pick_backend",
]
