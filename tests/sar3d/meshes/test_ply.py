"""What a .ply file says: faces of any length in any byte order, colors under any name, strips, textures."""

import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))
from mesh_files import CORNERS, PICTURED, SIDES, area, picture, refusal, shown, size, volume, write

from sar3d.meshes import Scene, load_scene

CODES = {"char": "b", "uchar": "B", "short": "h", "ushort": "H", "int": "i", "uint": "I", "float": "f", "double": "d"}
ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
FORMATS = tuple(ORDERS)
XYZ = ("float x", "float y", "float z")
INDICES = "list uchar int vertex_indices"
HOUSE = [*SIDES[:5], [3, 0, 4], [3, 4, 7]]
"""The box with one side cut: faces of two lengths."""

Rows = Sequence[Sequence[Any]]


def ply(form: str, *elements: tuple[str, Sequence[str], Rows], comments: Sequence[str] = ()) -> bytes:
    """A file; each element is (name, its properties, its rows), the values of a list property in one list."""
    head = ["ply", f"format {form} 1.0", *(f"comment {c}" for c in comments)]
    body = b""
    for name, properties, rows in elements:
        head += [f"element {name} {len(rows)}", *(f"property {p}" for p in properties)]
        for row in rows:
            words: list[tuple[str, Any]] = []
            for prop, value in zip(properties, row, strict=True):
                kind = prop.split()
                if kind[0] == "list":
                    words += [(CODES[kind[1]], len(value)), *((CODES[kind[2]], v) for v in value)]
                else:
                    words.append((CODES[kind[0]], value))
            if form == "ascii":
                body += " ".join(str(v) for _, v in words).encode() + b"\n"
            else:
                body += b"".join(struct.pack(ORDERS[form] + code, v) for code, v in words)
    return "\n".join([*head, "end_header\n"]).encode() + body


def load(folder: Path, data: bytes) -> Scene:
    return load_scene(write(folder / "m.ply", data))


def box(
    form: str = "ascii", faces: Rows = HOUSE, extra: Sequence[str] = (), values: Sequence[Any] = (), **more: Any
) -> bytes:
    """The box, with `values` for the `extra` properties of each vertex."""
    vertices = [[*map(float, corner), *values] for corner in CORNERS]
    return ply(form, ("vertex", (*XYZ, *extra), vertices), ("face", (INDICES,), [[f] for f in faces]), **more)


def is_box(scene: Scene) -> bool:
    whole = scene.triangles == 12 and size(scene) == [4, 3, 2]
    return whole and area(scene) == pytest.approx(52) and volume(scene) == pytest.approx(24)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("faces", [HOUSE, SIDES, [[f[0], f[i], f[i + 1]] for f in SIDES for i in (1, 2)]])
def test_faces_of_one_length_and_of_several(tmp_path: Path, form: str, faces: Rows) -> None:
    scene = load(tmp_path, box(form, faces))
    assert is_box(scene)
    assert scene.warnings == ()


@pytest.mark.parametrize("form", FORMATS)
def test_rows_with_several_lists_and_other_elements_before_and_after(tmp_path: Path, form: str) -> None:
    data = ply(
        form,
        ("camera", ("float fov", "list uchar short ids"), [[1.0, [1, 2, 3]], [2.0, []]]),
        ("vertex", XYZ, [list(map(float, c)) for c in CORNERS]),
        (
            "face",
            ("uchar flag", "list int float weights", "list uint uint vertex_index"),
            [[1, [0.5] * len(f), f] for f in HOUSE],
        ),
        ("edge", ("int vertex1", "int vertex2"), [[0, 1]]),
    )
    scene = load(tmp_path, data)
    assert is_box(scene)
    for word in ("'camera'", "'edge'", "flag, weights"):
        assert any(word in sentence for sentence in scene.warnings)


def test_concave_polygons_and_nothing_but_polygons(tmp_path: Path) -> None:
    outline = [(0, 0), (3, 0), (3, 3), (2, 3), (2, 1), (1, 1), (1, 3), (0, 3)]
    vertices = [[float(x), float(y), float(z)] for z in (0, 1) for x, y in outline]
    faces = [[list(range(8))], [list(range(15, 7, -1))]]
    for form in FORMATS:
        scene = load(tmp_path, ply(form, ("vertex", XYZ, vertices), ("face", (INDICES,), faces)))
        assert (scene.triangles, area(scene)) == (12, pytest.approx(14))


@pytest.mark.parametrize(
    ("names", "kind", "values"),
    [
        (("red", "green", "blue"), "uchar", (255, 0, 128)),
        (("Red", "Green", "Blue", "Alpha"), "uchar", (255, 0, 128, 255)),
        (("r", "g", "b"), "uchar", (255, 0, 128)),
        (("diffuse_red", "diffuse_green", "diffuse_blue"), "uchar", (255, 0, 128)),
        (("red", "green", "blue"), "float", (1.0, 0.0, 128 / 255)),
        (("red", "green", "blue"), "float", (255.0, 0.0, 128.0)),
        (("red", "green", "blue"), "ushort", (65535, 0, 32896)),
        (("red", "green", "blue"), "int", (255, 0, 128)),
    ],
)
@pytest.mark.parametrize("form", ["ascii", "binary_little_endian"])
def test_vertex_colors_under_all_their_names(tmp_path: Path, form: str, names: Any, kind: str, values: Any) -> None:
    scene = load(tmp_path, box(form, extra=[f"{kind} {n}" for n in names], values=values))
    (p,) = scene.primitives
    assert p.colors is not None
    np.testing.assert_allclose(p.colors, np.tile([1, 0, 0.21586, 1], (36, 1)), atol=1e-4)
    assert scene.warnings == ()


@pytest.mark.parametrize(
    ("extra", "values", "word"),
    [
        (["uchar red", "uchar green", "uchar blue", "uchar alpha"], (1, 2, 3, 100), "alpha below 1"),
        (["float confidence", "uchar ambient_red"], (0.5, 7), "confidence, ambient_red"),
        (["float red", "float green", "float blue"], (1.5, 0.0, 0.0), "range"),
    ],
)
def test_what_is_not_drawn_of_the_vertices_is_said(tmp_path: Path, extra: list[str], values: Any, word: str) -> None:
    scene = load(tmp_path, box(extra=extra, values=values))
    assert is_box(scene)
    assert any(word in sentence for sentence in scene.warnings)


def test_face_colors(tmp_path: Path) -> None:
    properties = (INDICES, "uchar red", "uchar green", "uchar blue")
    faces = [[f, 255 * (i % 2), 0, 255] for i, f in enumerate(HOUSE)]
    vertices = [list(map(float, c)) for c in CORNERS]
    for form in FORMATS:
        (p,) = load(tmp_path, ply(form, ("vertex", XYZ, vertices), ("face", properties, faces))).primitives
        assert p.colors is not None
        assert len(p.colors) == 36
        assert np.unique(p.colors, axis=0).tolist() == [[0, 0, 1, 1], [1, 0, 1, 1]]
        assert (p.colors.reshape(12, 3, 4) == p.colors.reshape(12, 3, 4)[:, :1]).all()


@pytest.mark.parametrize("names", [("s", "t"), ("u", "v"), ("texture_u", "texture_v")])
def test_texture_coordinates_with_and_without_a_texture(tmp_path: Path, names: tuple[str, str]) -> None:
    picture(tmp_path / "skin one.png")
    extra = [f"float {n}" for n in names]
    scene = load(tmp_path, box("binary_little_endian", extra=extra, values=(0.25, 0.75)))
    assert is_box(scene)
    assert (shown(scene), scene.warnings) == ({"#ffffff"}, ())
    scene = load(tmp_path, box(extra=extra, values=(0.25, 0.75), comments=["TextureFile skin one.png"]))
    assert is_box(scene)
    assert shown(scene) == PICTURED
    np.testing.assert_allclose(scene.primitives[0].uvs, np.tile([0.25, 0.25], (36, 1)))  # type: ignore[arg-type]
    scene = load(tmp_path, box(extra=extra, values=("nan", 0.75), comments=["TextureFile skin one.png"]))
    assert any("not finite" in sentence for sentence in scene.warnings)
    scene = load(tmp_path, box(comments=["TextureFile skin one.png"]))
    assert any("no texture coordinates" in sentence for sentence in scene.warnings)
    assert (
        refusal(write(tmp_path / "m.ply", box(extra=extra, values=(0, 0), comments=["TextureFile gone.png"])))
        == "missing_file"
    )


def test_texture_coordinates_of_faces_and_several_textures(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png", (1, 2, 3), (4, 5, 6))
    properties = (INDICES, "list uchar float texcoord", "int texnumber")
    vertices = [list(map(float, c)) for c in CORNERS]
    faces = [[f, [0.0, 1.0] * len(f) if i else [], i % 3] for i, f in enumerate(HOUSE)]
    for form in FORMATS:
        data = ply(
            form,
            ("vertex", XYZ, vertices),
            ("face", properties, faces),
            comments=["TextureFile a.png", "TextureFile b.png"],
        )
        scene = load(tmp_path, data)
        assert is_box(scene)
        assert shown(scene) == {"#ffffff", "[1, 2, 3] over [4, 5, 6]", *PICTURED}
        assert any("1 of its faces have no texture" in sentence for sentence in scene.warnings)
        assert any("texture number 2" in sentence for sentence in scene.warnings)


def test_triangle_strips(tmp_path: Path) -> None:
    strip = [0, 1, 3, 2, -1, 4, 5, 7, 6]
    data = ply(
        "binary_big_endian",
        ("vertex", XYZ, [list(map(float, c)) for c in CORNERS]),
        ("tristrips", (INDICES,), [[strip]]),
    )
    scene = load(tmp_path, data)
    assert (scene.triangles, area(scene)) == (4, pytest.approx(24))
    assert all(np.allclose(p.normals, [0, 0, 1]) for p in scene.primitives)


def test_normals_are_kept_and_vertices_shared(tmp_path: Path) -> None:
    data = box("binary_little_endian", extra=["float nx", "float ny", "float nz"], values=(0.0, 3.0, 4.0))
    (p,) = load(tmp_path, data).primitives
    assert len(p.positions) == 8
    np.testing.assert_allclose(p.normals, np.tile([0, 0.6, 0.8], (8, 1)), atol=1e-6)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (box("binary_little_endian")[:-1], "truncated"),
        (box("binary_big_endian", SIDES)[:-40], "truncated"),
        (box("ascii")[:-9], "truncated"),
        (box("ascii") + b"7 7\n", "malformed"),
        (box("ascii").replace(b"0.0 3.0", b"0.0 x"), "malformed"),
        (box("ascii").replace(b"4.0 3.0", b"4,0 3.0"), "malformed"),
        (box("ascii").replace(b"3 3 0 4", b"3 3 0 9"), "index_out_of_range"),
        (box("ascii").replace(b"3 3 0 4", b"3 3 0 -4"), "index_out_of_range"),
        (box("ascii").replace(b"3 3 0 4", b"3 3 0 1.5"), "malformed"),
        (box("ascii").replace(b"3 3 0 4", b"2.5 3 0 4"), "malformed"),
        (box("ascii").replace(b"element face 7", b"element face 999999999999999999"), "truncated"),
        (box("binary_little_endian").replace(b"element face 7", b"element face 999999999999999999"), "truncated"),
        (box("ascii").replace(b"property float y\n", b""), "malformed"),
        (box("ascii").replace(b"format ascii 1.0\n", b""), "malformed"),
        (box("ascii").replace(b"float x", b"quad x"), "malformed"),
        (box("ascii").partition(b"end_header")[0], "truncated"),
        (b"plx\n", "malformed"),
        (ply("ascii", ("vertex", XYZ, [[0.0, 0.0, 0.0]])), "no_faces"),
        (ply("ascii", ("nothing", (), [[], []]), ("vertex", XYZ, [[0.0, 0.0, 0.0]])), "no_faces"),
    ],
)  # fmt: skip
def test_what_cannot_be_right_is_refused(tmp_path: Path, data: bytes, kind: str) -> None:
    assert refusal(write(tmp_path / "m.ply", data)) == kind


def test_faces_of_two_corners_are_left_out_with_a_warning(tmp_path: Path) -> None:
    scene = load(tmp_path, box("binary_little_endian", [*HOUSE, [0, 1]]))
    assert is_box(scene)
    assert any("fewer than three" in sentence for sentence in scene.warnings)
