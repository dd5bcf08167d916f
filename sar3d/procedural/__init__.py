"""An endless world of 3D objects, made by rule: it needs no download and has no license to mind."""

from sar3d.procedural.choices import vocabulary
from sar3d.procedural.held_out import HeldOutObjects
from sar3d.procedural.world import MAX_COUNT, ProceduralObject, build_glb, catalog, describe, listing

__all__ = [
    "MAX_COUNT",
    "HeldOutObjects",
    "ProceduralObject",
    "build_glb",
    "catalog",
    "describe",
    "listing",
    "vocabulary",
]
