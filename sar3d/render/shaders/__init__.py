"""Shader sources, assembled from the files beside this one."""

from importlib.resources import files

from sar3d.render import lighting


def source(name: str) -> str:
    """The text of one file."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def surface_fragment(name: str) -> str:
    """A fragment shader of a surface: version, common part with the lights, then the file's own `main`."""
    common = source("surface.glsl").replace("//lighting\n", lighting.glsl())
    return "#version 330 core\n" + common + source(name)
