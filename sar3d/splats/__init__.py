"""Gaussian splats: read from the PLY files of other systems, placed in our world, drawn without a GPU or by gsplat.

`load_splats` parses files in a limited process. `render_splats` draws with plain tensors on any device; `pick_renderer`
takes gsplat where it is installed and there is a GPU. Both draw the same pictures.
"""

from sar3d.splats.gsplat_backend import pick_renderer
from sar3d.splats.render import SplatFrames, SplatSettings, render_splats
from sar3d.splats.scene import Splats
from sar3d.splats.worker import load_splats

__all__ = ["SplatFrames", "SplatSettings", "Splats", "load_splats", "pick_renderer", "render_splats"]
