"""Draws the pictures of docs/data.md: `python docs/images/make_axes.py` writes axes.png and contact_sheet.png here.

Everything in them is the project's own: procedural objects, its cameras, its renderers.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sar3d.data.contact_sheet import depth_picture, normal_picture
from sar3d.geometry import intrinsics, look_at, project, spherical_to_cartesian
from sar3d.meshes import Scene, load_scene, normalize
from sar3d.meshes.scene import Material, Primitive
from sar3d.procedural import build_glb, catalog
from sar3d.render import Frames, RenderSettings, make_renderer, pick_backend

HERE = Path(__file__).parent
SIZE = 900
FOV = 39.6
AXES = {
    "x": ((1.0, 0.0, 0.0), (210, 30, 30)),
    "y": ((0.0, 1.0, 0.0), (20, 140, 40)),
    "z": ((0.0, 0.0, 1.0), (40, 70, 220)),
}
LENGTH = 0.74
"""Of an axis, in world units; the object's largest half-extent is 0.45."""
RING = 0.62
"""Radius of the drawn circle of azimuths, in the plane z = 0."""
GRAY = (110, 110, 110)


def scene_of(category: str) -> Scene:
    """The first object of a category, normalized: z up, centered, largest half-extent 0.45."""
    entry = next(e for e in catalog(72) if e.category == category)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "object.glb")
        file.write_bytes(build_glb(entry.uid))
        return normalize(load_scene(file))[0]


def tube(
    start: NDArray[np.float64], end: NDArray[np.float64], radii: tuple[float, float], color: tuple[int, int, int]
) -> Primitive:
    """A cone frustum from `start` (3,) to `end` (3,), unlit; `color` is sRGB."""
    along = (end - start) / np.linalg.norm(end - start)
    side = np.cross(along, [0.31, 0.52, 0.79])
    side /= np.linalg.norm(side)
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    normals = np.cos(angles)[:, None] * side + np.sin(angles)[:, None] * np.cross(along, side)
    positions = np.concatenate([start + radii[0] * normals, end + radii[1] * normals])
    i, j = np.arange(24), np.roll(np.arange(24), -1)
    faces = np.concatenate([np.stack([i, j, i + 24], -1), np.stack([j, j + 24, i + 24], -1)])
    linear = tuple((np.array(color) / 255) ** 2.2)
    return Primitive(
        positions=positions.astype(np.float32),
        normals=np.tile(normals, (2, 1)).astype(np.float32),
        faces=faces.astype(np.uint32),
        material=Material(base_color=(*linear, 1.0), unlit=True),
    )


def axis(direction: tuple[float, float, float], color: tuple[int, int, int]) -> list[Primitive]:
    """Shaft and arrow head from the origin."""
    tip = LENGTH * np.array(direction)
    return [tube(0 * tip, 0.9 * tip, (0.008, 0.008), color), tube(0.9 * tip, tip, (0.024, 0.0), color)]


def frames(scene: Scene, c2w: NDArray[np.float64], resolution: int) -> Frames:
    """The scene from V cameras `c2w` (V, 4, 4)."""
    renderer = make_renderer(pick_backend("auto"))
    lenses = np.broadcast_to(intrinsics(FOV), (len(c2w), 3, 3))
    made = renderer.render(scene, c2w, lenses, RenderSettings(resolution=resolution))
    renderer.close()
    return made


def axes_picture() -> Image.Image:
    """A car among its axes, with the azimuths of cameras around it."""
    car = scene_of("car")
    arrows = [part for direction, color in AXES.values() for part in axis(direction, color)]
    c2w = look_at(spherical_to_cartesian(2.75, 27, -52)[None])
    seen = frames(replace(car, primitives=(*car.primitives, *arrows)), c2w, SIZE)
    picture = Image.fromarray(seen.rgb[0])
    pen = ImageDraw.Draw(picture)

    def place(point: NDArray[np.floating]) -> tuple[float, float, bool]:
        """Pixel coordinates of a point (3,), and whether nothing lies before it."""
        image, depth = project(point[None], c2w[0], intrinsics(FOV))
        column, row = image[0] * SIZE
        before = seen.depth[0, int(row), int(column)]
        return float(column), float(row), bool(before == 0 or before > depth[0])

    def write(point: NDArray[np.floating], text: str, color: tuple[int, int, int], size: int) -> None:
        pen.text(place(point)[:2], text, color, ImageFont.load_default(size), anchor="mm")

    for azimuth in range(0, 360, 4):
        ends = [place(spherical_to_cartesian(RING, 0, azimuth + step)) for step in (0, 2)]
        if all(free for *_, free in ends):
            pen.line([*ends[0][:2], *ends[1][:2]], GRAY, 2)
    for azimuth in (-135, -45, 45, 135, 180):
        write(spherical_to_cartesian(RING + 0.09, 0, azimuth), f"{azimuth}°", GRAY, 22)
    write(spherical_to_cartesian(RING + 0.1, 0, -90), "-90° (view 0)", GRAY, 22)
    for name, (direction, color) in AXES.items():
        write((LENGTH + 0.07) * np.array(direction), name, color, 44)
    return picture.crop((0, 60, SIZE, SIZE - 140))


def contact_sheet() -> Image.Image:
    """Seven objects, one a column: color, depth and normal from the front right, and color from the top."""
    columns = []
    for category in ("chair", "mug", "car", "house", "robot", "cake", "tree"):
        eyes = spherical_to_cartesian(1.75, [20, 90], [-60, -90])
        seen = frames(scene_of(category), look_at(eyes), 144)
        pictures = (seen.rgb[0], depth_picture(seen.depth[0]), normal_picture(seen.normal[0]), seen.rgb[1])
        columns.append(np.concatenate(pictures))
    return Image.fromarray(np.concatenate(columns, axis=1))


if __name__ == "__main__":
    axes_picture().save(HERE / "axes.png", optimize=True)
    contact_sheet().save(HERE / "contact_sheet.png", optimize=True)
