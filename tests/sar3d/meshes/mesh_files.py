"""What the tests of the plain formats write and measure."""

from pathlib import Path

import numpy as np
from PIL import Image

from sar3d.errors import ObjectError
from sar3d.meshes import Scene, load_scene

SIDES = [[0, 3, 2, 1], [4, 5, 6, 7], [0, 1, 5, 4], [1, 2, 6, 5], [2, 3, 7, 6], [3, 0, 4, 7]]
CORNERS = np.array([[x, y, z] for z in (0, 2) for x, y in ((0, 0), (4, 0), (4, 3), (0, 3))], float)
"""A box of 4 x 3 x 2; its area is 52."""
UVS = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]
RED, GREEN = (255, 0, 0), (0, 255, 0)


def box_obj(head: str = "", before_faces: str = "", uvs: bool = True) -> str:
    """The box as quads; with `uvs` every side shows the whole picture."""
    lines = [head, *(f"v {x:g} {y:g} {z:g}" for x, y, z in CORNERS), *(f"vt {u} {v}" for u, v in UVS), before_faces]
    for side in SIDES:
        lines.append("f " + " ".join(f"{c + 1}/{k + 1}" if uvs else f"{c + 1}" for k, c in enumerate(side)))
    return "\n".join(lines) + "\n"


def picture(path: Path, upper: tuple[int, int, int] = RED, lower: tuple[int, int, int] = GREEN) -> Path:
    """A PNG of two pixels, one above the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array([[upper], [lower]], np.uint8)).save(path, "PNG")
    return path


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def area(scene: Scene) -> float:
    total = 0.0
    for p in scene.primitives:
        a, b, c = (p.positions[p.faces[:, i]].astype(np.float64) for i in range(3))
        total += float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)
    return total


def size(scene: Scene) -> list[float]:
    low, high = scene.bounds()
    return (high - low).round(5).tolist()


def volume(scene: Scene) -> float:
    """Of what is wound counter-clockwise seen from outside; negative if it is inside out."""
    total = 0.0
    for p in scene.primitives:
        a, b, c = (p.positions[p.faces[:, i]].astype(np.float64) for i in range(3))
        total += float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)
    return total


def shown(scene: Scene) -> set[str]:
    """The color of each material: its texture's upper and lower pixel, or its own as #rrggbb (sRGB), and its opacity."""
    found = set()
    for p in scene.primitives:
        m = p.material
        if m.texture is not None:
            upper, lower = (m.texture.pixels[row, 0, :3].tolist() for row in (0, -1))
            found.add(f"{upper} over {lower}")
        else:
            linear = np.array(m.base_color[:3])
            srgb = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
            found.add(
                "#" + "".join(f"{round(v * 255):02x}" for v in srgb) + ("" if m.base_color[3] == 1 else " seen through")
            )
    return found


PICTURED = {f"{list(RED)} over {list(GREEN)}"}


def refusal(path: Path, root: Path | None = None) -> str:
    """The kind of the ObjectError."""
    try:
        load_scene(path, root)
    except ObjectError as error:
        return error.kind
    return "none"
