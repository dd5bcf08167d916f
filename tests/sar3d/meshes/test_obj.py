"""What an .obj file says, whoever wrote it: geometry, materials, textures; and what is said where it says nonsense."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))
from mesh_files import PICTURED, area, box_obj, picture, refusal, shown, size, volume, write

from sar3d.meshes import Scene, load_scene

WHITE = {"#ffffff"}


def load(folder: Path, text: str | bytes, name: str = "m.obj", root: Path | None = None) -> Scene:
    return load_scene(write(folder / name, text), root)


def is_box(scene: Scene) -> bool:
    whole = scene.triangles == 12 and size(scene) == [4, 3, 2]
    return whole and area(scene) == pytest.approx(52) and volume(scene) == pytest.approx(24)


# --- geometry --------------------------------------------------------------------------------------------------------


def test_relative_indices_count_from_where_the_face_stands(tmp_path: Path) -> None:
    lines = []
    for side in ([0, 3, 2, 1], [4, 5, 6, 7], [0, 1, 5, 4], [1, 2, 6, 5], [2, 3, 7, 6], [3, 0, 4, 7]):
        corners = [((0, 4, 4, 0)[c % 4], (0, 0, 3, 3)[c % 4], 2 * (c // 4)) for c in side]
        lines += [f"v {x} {y} {z}" for x, y, z in corners] + [
            "vt 0 0",
            "vn 0 0 1",
            "f -4/-1/-1 -3/-1/-1 -2/-1/-1 -1/-1/-1",
        ]
    assert is_box(load(tmp_path, "\n".join(lines)))


def test_relative_and_absolute_indices_mix(tmp_path: Path) -> None:
    scene = load(tmp_path, "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 -2 3\nv 5 5 5\nf -4 2 -2\n")
    assert scene.triangles == 2
    assert size(scene) == [1, 1, 0]


@pytest.mark.parametrize("turn", range(8))
@pytest.mark.parametrize("backwards", [False, True])
def test_concave_polygons_keep_their_notch(tmp_path: Path, turn: int, backwards: bool) -> None:
    """A U of area 7, from each of its corners and both ways round, in a plane that is no coordinate plane."""
    outline = [(0, 0), (3, 0), (3, 3), (2, 3), (2, 1), (1, 1), (1, 3), (0, 3)]
    outline = (outline[turn:] + outline[:turn])[:: -1 if backwards else 1]
    across, up = np.array([0.6, 0.8, 0.0]), np.array([0.0, 0.0, 1.0])
    points = [x * across + y * up for x, y in outline]
    scene = load(tmp_path, "".join("v {} {} {}\n".format(*p) for p in points) + "f 1 2 3 4 5 6 7 8\n")
    assert scene.triangles == 6
    assert area(scene) == pytest.approx(7)
    normals = scene.primitives[0].normals
    np.testing.assert_allclose(
        normals, np.tile(np.cross(across, up) * (-1 if backwards else 1), (len(normals), 1)), atol=1e-6
    )


def test_a_concave_quad_is_cut_inside(tmp_path: Path) -> None:
    for turn in range(4):
        points = [(0, 0), (4, 0), (1, 1), (0, 4)]
        text = "".join(f"v {x} {y} 0\n" for x, y in points[turn:] + points[:turn]) + "f 1 2 3 4\n"
        assert area(load(tmp_path, text)) == pytest.approx(4)


def test_polygons_of_many_sizes_and_of_one_size_only(tmp_path: Path) -> None:
    def ring(n: int, z: int) -> str:
        return "".join(f"v {np.cos(2 * np.pi * k / n)} {np.sin(2 * np.pi * k / n)} {z}\n" for k in range(n))

    scene = load(tmp_path, ring(5, 0) + ring(5, 1) + "f 1 2 3 4 5\nf 6 7 8 9 10\n")
    assert (scene.triangles, area(scene)) == (6, pytest.approx(5 * np.sin(2 * np.pi / 5)))
    scene = load(
        tmp_path, ring(3, 0) + ring(4, 1) + ring(12, 2) + "f 1 2 3\nf 4 5 6 7\nf " + " ".join(map(str, range(8, 20)))
    )
    assert scene.triangles == 1 + 2 + 10


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(" ", "\t"),
        lambda text: text.replace("\n", "\n   \t"),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: text.replace("\n", "   # a remark\n"),
        lambda text: "\n".join(f"# mtllib gone.mtl\n{line}" for line in text.split("\n")),
        lambda text: text.replace("f 1/1 4/2 3/3", "f 1/1 4/2 \\\n  3/3"),
        lambda text: text.replace("v 0 0 0", "v 0.000000e+00 -0 .0"),
        lambda text: text.replace("f ", "g part\ns 1\nf "),
        lambda text: text.replace("1/1 4/2", "1/1/ 4/2/"),
        lambda text: text.replace("f 1/1 4/2 3/3 2/4", "f 1 4 3 2"),
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\nv ", "\nv  ").replace("2\n", "2 1.0\n"),
    ],
    ids=["tabs", "indented", "crlf", "cr", "remarks", "comments", "continued", "exponents", "groups", "open", "mix", "bom", "4"],
)  # fmt: skip
def test_spellings_of_the_same_file(tmp_path: Path, change) -> None:
    scene = load(tmp_path, change(box_obj()))
    assert is_box(scene)
    assert scene.warnings == ()


def test_utf16_is_text_too(tmp_path: Path) -> None:
    assert is_box(load(tmp_path, box_obj().encode("utf-16")))


def test_normals_are_shared_or_flat_face_by_face(tmp_path: Path) -> None:
    text = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 1 1 0\nvn 0 0 2\nvn nan 0 0\nf 1//1 2//1 3//2\nf 2 4 3\n"
    scene = load(tmp_path, text)
    assert sorted(len(p.positions) for p in scene.primitives) == [6] or len(scene.primitives) == 1
    for p in scene.primitives:
        np.testing.assert_allclose(p.normals, np.tile([0, 0, 1], (len(p.normals), 1)))
    assert any("normals" in sentence for sentence in scene.warnings)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("v abc 1 2\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "malformed"),
        ("v 0,5 1 2\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "malformed"),
        ("v 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "malformed"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 x\n", "malformed"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3.5\n", "malformed"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 0 1 2\n", "index_out_of_range"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 4\n", "index_out_of_range"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf -1 -2 -4\n", "index_out_of_range"),
        ("v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "non_finite"),
        ("v 0 0 0\nv 1 0 0\nl 1 2\np 1\n", "no_faces"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2\n", "no_faces"),
    ],
)
def test_numbers_that_cannot_be_right_are_refused(tmp_path: Path, text: str, kind: str) -> None:
    assert refusal(write(tmp_path / "m.obj", text)) == kind


def test_a_vertex_of_no_face_may_be_anywhere(tmp_path: Path) -> None:
    assert size(load(tmp_path, "v nan inf 9e30\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 2 3 4\n")) == [1, 1, 0]


# --- materials -------------------------------------------------------------------------------------------------------

MTL = "newmtl skin\nKd 0.2 0.4 0.6\n"
TEXTURED = "newmtl skin\nKd 0 0 0\nmap_Kd skin.png\n"


@pytest.mark.parametrize(
    ("head", "use", "mtl", "colors", "word"),
    [
        ("", "", None, WHITE, ""),
        ("mtllib m.mtl", "", TEXTURED, PICTURED, "names no material"),
        ("mtllib m.mtl", "", TEXTURED + "newmtl other\n", WHITE, "drawn white"),
        ("mtllib m.mtl", "usemtl wood.001", MTL, WHITE, "does not have the material"),
        ("mtllib m.mtl", "usemtl SKIN", MTL, {"#336699"}, ""),
        ("mtllib m.mtl", "usemtl (null)", MTL, WHITE, ""),
        ("", "usemtl skin", None, WHITE, "no library"),
        ("mtllib gone.mtl", "", None, WHITE, "not read"),
        ("mtllib gone.mtl\nmtllib m.mtl", "usemtl skin", MTL, {"#336699"}, "not read"),
        (
            "\tmtllib\tm.mtl ",
            "  usemtl\tskin",
            "\t" + TEXTURED.replace(" ", "\t").replace("\n", "\r\n  "),
            PICTURED,
            "",
        ),
        ("mtllib m.mtl", "usemtl skin", "NEWMTL skin\nKD 0.2 0.4 0.6 # blue\n", {"#336699"}, ""),
    ],
)
def test_texture_coordinates_with_any_material_or_none(
    tmp_path: Path, head: str, use: str, mtl: str | None, colors: set[str], word: str
) -> None:
    picture(tmp_path / "skin.png")
    if mtl is not None:
        write(tmp_path / "m.mtl", mtl)
    scene = load(tmp_path, box_obj(head, use))
    assert is_box(scene)
    assert shown(scene) == colors
    assert any(word in sentence for sentence in scene.warnings) if word else scene.warnings == ()


@pytest.mark.parametrize("heads", ["mtllib a.mtl\nmtllib b c.mtl", "mtllib a.mtl b.mtl", "mtllib b.mtl a.mtl gone.mtl"])
def test_several_libraries(tmp_path: Path, heads: str) -> None:
    write(tmp_path / "a.mtl", "newmtl one\nKd 1 0 0\n")
    write(tmp_path / ("b c.mtl" if "b c" in heads else "b.mtl"), "newmtl two\nKd 0 0 1\n")
    text = box_obj(heads, "usemtl one").split("f ")
    scene = load(tmp_path, "f ".join(text[:4]) + "usemtl two\nf " + "f ".join(text[4:]))
    assert shown(scene) == {"#ff0000", "#0000ff"}


def test_a_missing_library_that_may_have_the_material_is_refused(tmp_path: Path) -> None:
    assert refusal(write(tmp_path / "m.obj", box_obj("mtllib gone.mtl", "usemtl skin"))) == "missing_file"


@pytest.mark.parametrize(
    ("lines", "color", "word"),
    [
        ("Tr 1\n", "#336699", "Tr 1"),
        ("Tr 1.000000\nillum 2\n", "#336699", "Tr 1"),
        ("Tr 0\n", "#336699", ""),
        ("Tr 0.25\n", "#336699 seen through", ""),
        ("d 1\nTr 1\n", "#336699", ""),
        ("d 0.5\nTr 1\n", "#336699 seen through", ""),
        ("d 0\n", "#336699", "d 0"),
        ("d -halo 0.0\n", "#336699", "d 0"),
        ("d nonsense\n", "#336699", "no number"),
        ("map_d mask.png\n", "#336699", "map_d"),
        ("Kd 2 0.4 0.6\n", "#ff6699", "clipped"),
        ("Kd spectral skin.rfl\n", "#ffffff", "white"),
        ("Kd 0.4\n", "#666666", ""),
        ("Paint 1 0 0\n", "#336699", "'paint'"),
        ("Pr 0.5\nmap_Pr gone.png\nbump -bm 1 gone.png\nKe 0 0 0\nNs 10\nTf 1 1 1\n", "#336699", ""),
    ],
)
def test_what_materials_say_of_color_and_opacity(tmp_path: Path, lines: str, color: str, word: str) -> None:
    write(tmp_path / "m.mtl", MTL + lines)
    scene = load(tmp_path, box_obj("mtllib m.mtl", "usemtl skin"))
    assert shown(scene) == {color}
    assert any(word in sentence for sentence in scene.warnings) if word else scene.warnings == ()


def test_a_textured_scan_with_tr_1_is_opaque(tmp_path: Path) -> None:
    picture(tmp_path / "skin.png")
    write(tmp_path / "scan.obj.mtl", TEXTURED + "Tr 1.0\n")
    scene = load(tmp_path, box_obj("mtllib ./scan.obj.mtl", "usemtl skin"), "scan.obj")
    assert shown(scene) == PICTURED
    assert scene.primitives[0].material.alpha_mode == "OPAQUE"


@pytest.mark.parametrize(
    ("line", "corner"),
    [
        ("map_Kd skin one.png", (1, 0)),
        ("map_Kd   skin one.png  ", (1, 0)),
        ("map_kd -s 2 3 1 skin one.png", (2, -2)),
        ("map_Kd -o 0.5 0.25 -s 2 2 2 skin one.png", (2.5, -1.25)),
        ("map_Kd -blendu on -clamp on -mm 0 1 skin one.png", (1, 0)),
        ("map_Kd -s 2 skin one.png", (2, 0)),
        ('map_Kd "skin one.png"', (1, 0)),
        ("map_Kd skin\\ one.png", (1, 0)),
        ("map_Kd skin one.png # the front", (1, 0)),
        ("map_Kd\tSkin One.PNG", (1, 0)),
    ],
)
def test_options_and_blanks_in_texture_names(tmp_path: Path, line: str, corner: tuple[float, float]) -> None:
    picture(tmp_path / "skin one.png")
    write(tmp_path / "m.mtl", f"newmtl skin\n{line}\n")
    scene = load(tmp_path, box_obj("mtllib m.mtl", "usemtl skin"))
    assert shown(scene) == PICTURED
    (p,) = scene.primitives
    assert p.uvs is not None
    # The corner (1, 1) of the file; v = 0 is the upper edge here.
    assert any(np.allclose(uv, corner) for uv in p.uvs)
    assert p.material.texture is not None
    assert p.material.texture.wrap_u == ("clamp" if "-clamp" in line else "repeat")
    assert any("-mm" in sentence for sentence in scene.warnings) == ("-mm" in line)


def test_texture_coordinates_that_decide_nothing_are_mended(tmp_path: Path) -> None:
    picture(tmp_path / "skin.png")
    write(tmp_path / "m.mtl", TEXTURED)
    text = box_obj("mtllib m.mtl", "usemtl skin")
    for broken in (text.replace("vt 1.0 1.0", "vt nan 1.0"), text.replace("vt 1.0 1.0", "vt -1.#IND 1.0")):
        scene = load(tmp_path, broken)
        assert is_box(scene)
        assert any("not finite" in sentence for sentence in scene.warnings)
    scene = load(tmp_path, text.replace("/4", "/9"))
    assert any("texture coordinate 9 of 4" in sentence for sentence in scene.warnings)
    scene = load(tmp_path, box_obj("mtllib m.mtl", "usemtl skin", uvs=False))
    assert any("one color" in sentence for sentence in scene.warnings)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda v: f"{v} 1 0 0", ""),
        (lambda v: f"{v} 255 0 0", ""),
        (lambda v: f"{v} 1 0 0 1", ""),
        (lambda v: f"{v} 1.5 -0.2 0", "range"),
        (lambda v: f"{v} 1 0 0" if v != "v 0 0 0" else v, "have no color"),
    ],
)
def test_vertex_colors(tmp_path: Path, change, word: str) -> None:
    text = "\n".join(change(line) if line.startswith("v ") else line for line in box_obj().split("\n"))
    scene = load(tmp_path, text)
    colors = np.concatenate([p.colors for p in scene.primitives if p.colors is not None])
    assert [1.0, 0.0, 0.0, 1.0] in colors.tolist()
    assert any(word in sentence for sentence in scene.warnings) if word else scene.warnings == ()


def test_zbrush_colors(tmp_path: Path) -> None:
    scene = load(tmp_path, box_obj(before_faces="#MRGB " + "ff00ff00" * 4 + "\n#MRGB " + "ff00ff00" * 4))
    assert scene.primitives[0].colors is not None
    np.testing.assert_allclose(scene.primitives[0].colors, np.tile([0, 1, 0, 1], (36, 1)), atol=1e-6)
    assert any("#MRGB" in s for s in load(tmp_path, box_obj(before_faces="#MRGB ff00ff00")).warnings)


def test_what_is_not_drawn_is_said(tmp_path: Path) -> None:
    text = box_obj("vc 1 0 0", "cstype bezier\ncurv 0 1 1 2\nend")
    assert any("'vc'" in sentence for sentence in load(tmp_path, text).warnings)
    assert any("free-form" in sentence for sentence in load(tmp_path, text).warnings)
    scene = load(tmp_path, box_obj().replace("/1", "/1/1/1"))
    assert any("three numbers" in sentence for sentence in scene.warnings)


def test_one_texture_of_two_materials_is_read_once(tmp_path: Path) -> None:
    picture(tmp_path / "skin.png")
    picture(tmp_path / "copy.png")
    write(tmp_path / "m.mtl", TEXTURED + "newmtl other\nmap_Kd copy.png\nd 0.5\n")
    text = box_obj("mtllib m.mtl", "usemtl skin").split("f ")
    scene = load(tmp_path, "f ".join(text[:4]) + "usemtl other\nf " + "f ".join(text[4:]))
    first, second = (p.material.texture for p in scene.primitives)
    assert first is second


def test_a_missing_texture_is_refused_if_something_shows_it(tmp_path: Path) -> None:
    write(tmp_path / "m.mtl", MTL + "newmtl other\nmap_Kd gone.png\n")
    assert refusal(write(tmp_path / "m.obj", box_obj("mtllib m.mtl", "usemtl other"))) == "missing_file"
    assert refusal(write(tmp_path / "m.obj", box_obj("mtllib m.mtl", "usemtl skin"))) == "none"
