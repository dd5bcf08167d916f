"""A built-in set of 3D objects, made by rule: it needs no download and has no licence to mind."""

from sar3d.procedural.catalogue import MAX_COUNT, ProceduralObject, build_glb, catalogue

__all__ = ["MAX_COUNT", "ProceduralObject", "build_glb", "catalogue"]
