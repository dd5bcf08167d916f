"""Pictures of placed objects: meshes by a renderer of ours without light, splats by a splat renderer, on white."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sar3d.compare.place import Placed
from sar3d.geometry import intrinsics, look_at, spherical_to_cartesian
from sar3d.render import Renderer, RenderSettings
from sar3d.splats import SplatSettings, pick_renderer

FOV = 39.6
RING_VIEWS, RING_RADIUS, RING_ELEVATION = 24, 1.772, 13.7
"""The published turntable: views, distance and degrees above the horizon."""


@dataclass(frozen=True)
class Drawing:
    """V pictures of one object."""

    rgb: NDArray[np.uint8]
    """(V, H, W, 3) on white."""
    alpha: NDArray[np.uint8]
    """(V, H, W)"""


def ring(
    views: int = RING_VIEWS, radius: float = RING_RADIUS, elevation: float = RING_ELEVATION
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cameras (V, 4, 4) and intrinsics (V, 3, 3) evenly around an object, the first in front of it, then to its right."""
    azimuths = -90.0 + np.arange(views) * (360 / views)
    poses = look_at(spherical_to_cartesian(radius, elevation, azimuths))
    return poses, np.broadcast_to(intrinsics(FOV), (views, 3, 3)).copy()


def draw(
    placed: Placed,
    c2w: NDArray[np.float64],
    lenses: NDArray[np.float64],
    resolution: int,
    renderer: Renderer,
    splats: SplatSettings = SplatSettings(),  # noqa: B008  frozen
) -> Drawing:
    """V views (V, 4, 4) of an object. Every system is drawn without light: colors of many files contain it already.

    Args:
        renderer: of meshes (`sar3d.render.make_renderer`).
        splats: how the system's splats are meant to be drawn (`Layout.splats`).

    Raises:
        ObjectError: what renderers raise.
    """
    if placed.scene is not None:
        frames = renderer.render(placed.scene, c2w, lenses, RenderSettings(resolution, lit=False))
        return Drawing(frames.rgb, frames.alpha)
    if placed.splats is None:
        raise ValueError("there is nothing to draw")
    drawn = pick_renderer()(placed.splats, c2w, lenses, replace(splats, resolution=resolution))
    return Drawing(drawn.rgb, drawn.alpha)
