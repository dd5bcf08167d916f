"""What an .stl file says, binary or ASCII, whatever its solid is called and whatever follows its last triangle."""

import struct
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))
from mesh_files import CORNERS, SIDES, area, refusal, size, volume, write

from sar3d.meshes import Scene, load_scene

TRIANGLES = [CORNERS[[f[0], f[i], f[i + 1]]] for f in SIDES for i in (1, 2)]


def binary(count: int = 12, attribute: int = 0, header: bytes = b"made by hand") -> bytes:
    body = b"".join(struct.pack("<12fH", 0, 0, 0, *t.reshape(-1), attribute) for t in TRIANGLES)
    return header.ljust(80, b" ") + struct.pack("<I", count) + body


def ascii_stl(name: str = "box", end: str = "\n") -> str:
    lines = [f"solid {name}"]
    for t in TRIANGLES:
        lines += [
            "facet normal 0 0 0",
            " outer loop",
            *("  vertex {} {:e} {}".format(*c) for c in t),
            " endloop",
            "endfacet",
        ]
    return end.join([*lines, f"endsolid {name}", ""])


def load(folder: Path, data: bytes | str) -> Scene:
    return load_scene(write(folder / "m.stl", data))


def is_box(scene: Scene) -> bool:
    whole = scene.triangles == 12 and size(scene) == [4, 3, 2]
    return whole and area(scene) == pytest.approx(52) and volume(scene) == pytest.approx(24)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (binary(), ""),
        (binary() + b"\0\0", "2 bytes after"),
        (binary() + b"solid facet normal" * 9, "162 bytes after"),
        (binary()[:-2], "attribute bytes of its last triangle"),
        (binary(header=b"solid binary all the same"), ""),
        (binary(header=b"solid facet normal 0 0 1 vertex 1 2 3"), ""),
        (binary(header=b"solid and padded") + b"\0\0", "2 bytes after"),
        (binary(count=0), "counts no triangles"),
        (binary(attribute=77), "unknown layout"),
    ],
)
def test_binary(tmp_path: Path, data: bytes, word: str) -> None:
    scene = load(tmp_path, data)
    assert is_box(scene)
    assert any(word in sentence for sentence in scene.warnings) if word else scene.warnings == ()


@pytest.mark.parametrize(
    "name",
    ["", "box", "vertex 1 2 3", "my facet", "C:\\parts\\vertex.stl", "größe 10 mm", "endsolid", "x" * 5000, "a\tb  c"],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_ascii_with_any_name(tmp_path: Path, name: str, end: str) -> None:
    scene = load(tmp_path, ascii_stl(name, end))
    assert is_box(scene)
    assert scene.warnings == ()


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.upper().replace("E+00", "e+00"),
        lambda text: text.replace("\n", " "),
        lambda text: text.replace(" ", "\t"),
        lambda text: "\n\n  " + text,
        lambda text: text.replace("solid box\nfacet", "facet", 1),
        lambda text: text + text.replace("solid box", "solid other").replace("  vertex 0.0", "  vertex 0"),
    ],
    ids=["capitals", "one line", "tabs", "blank lines", "no solid", "two solids"],
)
def test_spellings_of_ascii(tmp_path: Path, change) -> None:
    scene = load(tmp_path, change(ascii_stl()))
    assert scene.triangles in (12, 24)
    assert size(scene) == [4, 3, 2]
    assert area(scene) == pytest.approx(52 * scene.triangles / 12)


def test_a_text_that_may_have_been_cut_is_said(tmp_path: Path) -> None:
    whole = ascii_stl()
    scene = load(tmp_path, whole[: whole.rindex("facet normal")])
    assert scene.triangles == 11
    assert any("cut" in sentence for sentence in scene.warnings)


def test_colors_of_both_layouts(tmp_path: Path) -> None:
    red = 31 << 10 | 1 << 15
    (p,) = load(tmp_path, binary(attribute=red)).primitives
    assert p.colors is not None
    np.testing.assert_allclose(p.colors, np.tile([1, 0, 0, 1], (36, 1)))
    magics = b"COLOR=" + bytes([0, 0, 255, 255])
    (p,) = load(tmp_path, binary(attribute=31, header=magics)).primitives  # bit 15 off: its own color, red lowest
    np.testing.assert_allclose(p.colors, np.tile([1, 0, 0, 1], (36, 1)))
    (p,) = load(tmp_path, binary(attribute=1 << 15, header=magics)).primitives
    np.testing.assert_allclose(p.colors, np.tile([0, 0, 1, 1], (36, 1)))


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (binary()[:-60], "truncated"),
        (binary(count=13), "truncated"),
        (b"\0" * 40, "truncated"),
        (binary(count=0)[:84], "no_faces"),
        (b"solid nothing\nendsolid nothing\n", "no_faces"),
        (ascii_stl().replace("vertex 0.0", "vertex zero", 1).encode(), "malformed"),
        (ascii_stl().replace("vertex 4.0", "vertex 4,0", 1).encode(), "malformed"),
        (ascii_stl()[:650].encode(), "malformed"),
        (ascii_stl().replace("vertex 4.0", "vertex nan", 1).encode(), "non_finite"),
    ],
)
def test_what_cannot_be_right_is_refused(tmp_path: Path, data: bytes, kind: str) -> None:
    assert refusal(write(tmp_path / "m.stl", data)) == kind
