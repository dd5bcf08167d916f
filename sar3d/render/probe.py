"""Draw a scene whose pixels are known: `python -m sar3d.render.probe BACKEND` exits with 0 if they came out right.

Otherwise the last line of standard error says what is wrong.
"""

import sys

import numpy as np

from sar3d.meshes.scene import Material, Primitive, Scene
from sar3d.render.backends import make_renderer
from sar3d.render.base import BACKENDS, Frames, RenderSettings

DISTANCE = 2.0
RESOLUTION = 64


def probe_scene() -> Scene:
    """A square of side 0.8 in the plane x = 0, left half (seen from +x) red and right half green."""
    halves = []
    for left, right, color in ((-0.4, 0.0, (1.0, 0.0, 0.0, 1.0)), (0.0, 0.4, (0.0, 1.0, 0.0, 1.0))):
        corners = [(0, left, -0.4), (0, right, -0.4), (0, right, 0.4), (0, left, 0.4)]
        halves.append(
            Primitive(
                positions=np.array(corners, np.float32),
                normals=np.tile(np.array([1, 0, 0], np.float32), (4, 1)),
                faces=np.array([[0, 1, 2], [0, 2, 3]], np.uint32),
                material=Material(base_color=color),
            )
        )
    return Scene(tuple(halves))


def wrong_with(frames: Frames) -> str | None:
    """What differs from the expected picture of `probe_scene`, or None."""
    half = RESOLUTION // 2
    row, left, right = half, half - 4, half + 4
    if not np.array_equal(frames.rgb[0, row, [left, right]], [[255, 0, 0], [0, 255, 0]]):
        return f"it painted {frames.rgb[0, row, [left, right]].tolist()} where red and green belong"
    if frames.alpha[0, row, left] != 255 or frames.alpha[0, 0, 0] != 0:
        return f"alpha is {frames.alpha[0, row, left]} on the square and {frames.alpha[0, 0, 0]} beside it"
    if abs(frames.depth[0, row, left] - DISTANCE) > 1e-4 or frames.depth[0, 0, 0] != 0:
        return f"depth is {frames.depth[0, row, left]} where {DISTANCE} is right"
    if np.abs(frames.normal[0, row, left] - (1, 0, 0)).max() > 1e-4:
        return f"the normal is {frames.normal[0, row, left].tolist()} where [1, 0, 0] is right"
    return None


def main(arguments: list[str]) -> int:
    """Exit status."""
    (name,) = arguments
    renderer = make_renderer(BACKENDS[BACKENDS.index(name)])
    c2w = np.array([[[0, 0, -1, DISTANCE], [1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]]], np.float64)
    intrinsics = np.array([[[1.38889, 0, 0.5], [0, 1.38889, 0.5], [0, 0, 1]]])
    frames = renderer.render(probe_scene(), c2w, intrinsics, RenderSettings(resolution=RESOLUTION, lit=False))
    problem = wrong_with(frames)
    renderer.close()
    if problem:
        sys.stderr.write(problem + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
