"""Load any 3D file from anyone, or say in one sentence why not.

`load_safely` (or, for files one trusts, `load_scene`) gives a y-up `Scene`; `normalize` makes it z-up, centered and of
one size, which is what renderers expect.
"""

from sar3d.meshes.limits import MeshLimits
from sar3d.meshes.load import SUFFIXES, load_scene
from sar3d.meshes.scene import Scene
from sar3d.meshes.sniff import sniff
from sar3d.meshes.transform import normalize
from sar3d.meshes.worker import load_safely, loader_process

__all__ = ["SUFFIXES", "MeshLimits", "Scene", "load_safely", "load_scene", "loader_process", "normalize", "sniff"]
