"""Every object file of ../shared/cases, modeled on public bug reports, gives what its expect.json says."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))
from mesh_files import area

from sar3d.meshes import SUFFIXES, Scene, load_safely, loader_process
from sar3d.render.lighting import srgb_encode

CASES = Path(__file__).resolve().parents[4] / "shared" / "cases"
EXPECTED = {folder.parent: json.loads(folder.read_text())["expect"] for folder in sorted(CASES.glob("*/expect.json"))}
OBJECTS = [folder for folder, expect in EXPECTED.items() if "triangles" in expect]
COLORS = {
    "white": lambda red, green, blue: min(red, green, blue) > 240,
    "red": lambda red, green, blue: red > 180 and max(green, blue) < 100,
    "blue": lambda red, green, blue: blue > 180 and max(red, green) < 100,
    "yellow": lambda red, green, blue: min(red, green) > 180 and blue < 120,
    "brown": lambda red, green, blue: red > green > blue,
}


@pytest.mark.skipif(not OBJECTS, reason="the folder ../shared/cases is not here")
def test_every_object_file_is_what_it_should_be() -> None:
    wrong = []
    with loader_process() as process:
        for folder in OBJECTS:
            (file,) = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
            scene = load_safely(file, folder, process=process)
            wrong += [f"{folder.name}: {what}" for what in differences(scene, EXPECTED[folder])]
    assert not wrong, "\n".join(wrong)


def differences(scene: Scene, expect: dict) -> list[str]:
    low, high = scene.bounds()
    found = []
    if scene.triangles != expect["triangles"]:
        found.append(f"{scene.triangles} triangles for {expect['triangles']}")
    if not np.allclose(high - low, expect["size_xyz_source"], rtol=expect["tolerance"], atol=expect["tolerance"]):
        found.append(f"size {high - low} for {expect['size_xyz_source']}")
    if abs(area(scene) - expect["area_source"]) > expect["tolerance"] * expect["area_source"]:
        found.append(f"area {area(scene)} for {expect['area_source']}")
    words = [name for name in COLORS if name in expect["colour"].split(" (")[0]]
    shown = colors(scene)
    found += [f"nothing is {name}" for name in words if not any(COLORS[name](*color) for color in shown)]
    if len(words) == 1 and words[0] != "brown" and not all(COLORS[words[0]](*color) for color in shown):
        found.append(f"not all is {words[0]}")
    if "opaque" in expect["colour"] and any(p.material.alpha_mode != "OPAQUE" for p in scene.primitives):
        found.append("it is not opaque")
    return found


def colors(scene: Scene) -> list[tuple[int, int, int]]:
    """sRGB colors of the texels, vertices or materials, in [0, 255]."""
    found: list[tuple[int, int, int]] = []
    for p in scene.primitives:
        if p.material.texture is not None:
            assert p.uvs is not None
            assert np.ptp(p.uvs, axis=0).min() > 0.4
            values = p.material.texture.pixels[..., :3].reshape(-1, 3)
        elif p.colors is not None:
            values = np.rint(np.asarray(srgb_encode(p.colors[:, :3])) * 255).astype(int)
        else:
            values = np.rint(np.asarray(srgb_encode(np.array([p.material.base_color[:3]]))) * 255).astype(int)
        found += [(int(red), int(green), int(blue)) for red, green, blue in np.unique(values, axis=0)]
    return found
