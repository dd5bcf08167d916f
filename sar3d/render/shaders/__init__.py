"""Shader sources, assembled from the files beside this one."""

from importlib.resources import files
from typing import Literal

from sar3d.render import lighting

Texels = Literal["PLAIN", "TEXTURED", "MIRRORED"]
"""How a shader comes by its texel. A program of its own for each, since sampling costs a software rasterizer a third of
the time, and sampling with explicit derivatives another fifth."""


def source(name: str) -> str:
    """The text of one file."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def surface_fragment(name: str, texels: Texels) -> str:
    """A fragment shader of a surface: version, common part with the lights, then the file's own `main`."""
    common = source("surface.glsl").replace("//lighting\n", lighting.glsl())
    return f"#version 330 core\n#define {texels}\n{common}{source(name)}"
