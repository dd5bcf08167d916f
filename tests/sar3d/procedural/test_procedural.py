"""The procedural world: stable identities, identical bytes, sound geometry, truthful captions, splits by attribute."""

import hashlib
import io
import itertools
import json
import struct
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray
from PIL import Image

from sar3d.errors import ObjectError, UserError
from sar3d.meshes import load_scene, normalize
from sar3d.metrics.judge import judge_cameras
from sar3d.procedural import HeldOutObjects, ProceduralObject, build_glb, catalog, describe, listing, vocabulary
from sar3d.procedural.choices import COLORS, recipe_of
from sar3d.procedural.families import FAMILIES
from sar3d.procedural.glb import encode_png
from sar3d.procedural.mesh import ProceduralMesh
from sar3d.procedural.paint import PATTERNS, TEXTURE_SIZE, TILE, Surface, contrasting, paint, srgb
from sar3d.procedural.parts import arc, box, cone, cylinder, ellipsoid, frustum, lathe, prism, sphere, sweep, torus
from sar3d.procedural.recipe import Drawing, Family, Recipe, merged
from sar3d.render import RenderSettings, make_renderer, pick_backend

ROUND = len(FAMILIES)
"""Objects until each family has come once."""
OBJECTS = catalog(ROUND * 12)
PAIRS = HeldOutObjects(pairs=("family", "main"), share=0.2)


def _drawings(family: Family) -> list[tuple[Recipe, Drawing]]:
    """Some twelve objects of a family, all its styles among them."""
    place = FAMILIES.index(family)
    recipes = [recipe_of(3, place + ROUND * i)[1] for i in range(40)]
    chosen = [recipe for i, recipe in enumerate(recipes) if i < 9 or recipe.style not in {r.style for r in recipes[:i]}]
    assert {recipe.style for recipe in chosen} == set(family.styles)
    return [(recipe, family.build(recipe)) for recipe in chosen]


def _crosses(mesh: ProceduralMesh) -> NDArray[np.float64]:
    a, b, c = mesh.positions[mesh.faces].transpose(1, 0, 2)
    return np.asarray(np.cross(b - a, c - a))


def _flatness(mesh: ProceduralMesh) -> float:
    """The least cosine between a face and one of its vertex normals."""
    crosses = _crosses(mesh)
    crosses /= np.linalg.norm(crosses, axis=1, keepdims=True)
    return float((mesh.normals[mesh.faces] * crosses[:, None]).sum(axis=2).min())


def _volume(mesh: ProceduralMesh) -> float:
    a, b, c = mesh.positions[mesh.faces].transpose(1, 0, 2)
    return float((a * np.cross(b, c)).sum() / 6.0)


def _is_closed(mesh: ProceduralMesh) -> bool:
    return bool(trimesh.Trimesh(mesh.positions.round(9), mesh.faces, process=True).is_watertight)


def test_families_come_in_turn_and_each_has_all_main_colors() -> None:
    assert len(FAMILIES) >= 24
    assert Counter((o.category, o.attributes["main"]) for o in OBJECTS) == Counter(
        itertools.product(vocabulary()["family"], COLORS)
    )
    assert [o.uid for o in OBJECTS] == sorted(o.uid for o in OBJECTS)


def test_the_first_dozen_has_a_dozen_families_and_colors() -> None:
    first = catalog(12)
    assert len({o.category for o in first}) == len({o.attributes["main"] for o in first}) == 12


def test_an_object_is_described_by_its_attributes() -> None:
    words = vocabulary()
    for made in OBJECTS[:60]:
        about = made.attributes
        assert set(about) == {"family", "style", "main", "accent", "pattern", "parts"}
        assert all(about[name] in words[name] for name in words)
        assert about["accent"] in contrasting(about["main"])
        assert made.name == f"{about['main']} {about['family']}"
        assert {about["main"], about["accent"], about["style"], about["pattern"]} <= set(made.tags)
        assert (made.license, made.author, describe(made.uid)) == ("CC0-1.0", "SAR3D", made)


def test_uids_and_choices_are_the_same_on_every_machine() -> None:
    (first,) = catalog(1, seed=7)
    assert first.uid == "49930b068c7f84370007000000000000"
    sentence = "A yellow slatted chair with white checks and a white seat cushion."
    assert first.captions == ("a yellow slatted chair with white checks", sentence)


def test_a_larger_count_keeps_every_object_of_a_smaller_one() -> None:
    many = {uid for uid, _ in listing(80_000)}
    assert len(many) == 80_000
    assert {uid for uid, _ in listing(7)} < {uid for uid, _ in listing(70_001)} < many


def test_seeds_make_different_objects() -> None:
    assert not {o.uid for o in catalog(72, 1)} & {o.uid for o in OBJECTS}
    assert {o.captions for o in catalog(72, 1)} != {o.captions for o in OBJECTS}


def test_no_two_objects_are_alike() -> None:
    place = next(i for i, family in enumerate(FAMILIES) if family.name == "mug")
    drawn = [FAMILIES[place].build(recipe_of(0, place + ROUND * i)[1]) for i in range(60)]
    shapes = {np.concatenate([m.positions for _, m in parts]).round(4).tobytes() for parts in drawn}
    assert len(shapes) == 60


@pytest.mark.parametrize("count", [0, -1, (1 << 40) + 1])
def test_a_count_out_of_range_is_the_users_error(count: int) -> None:
    with pytest.raises(UserError, match=f"{count:,}"):
        listing(count)


def test_a_seed_out_of_range_is_the_users_error() -> None:
    with pytest.raises(UserError, match="65536"):
        catalog(3, 65536)


@pytest.mark.parametrize(
    "change",
    [lambda uid: "f" * 32, lambda uid: uid[:-1], lambda uid: "0" + uid, lambda uid: "é", lambda uid: uid[:-1] + "f"],
)
def test_a_foreign_uid_is_an_object_error(change: object) -> None:
    assert callable(change)
    with pytest.raises(ObjectError) as raised:
        build_glb(change(OBJECTS[0].uid))
    assert raised.value.kind == "unknown_uid"


def test_another_process_writes_the_same_bytes() -> None:
    uids = [o.uid for o in OBJECTS[:ROUND]]
    code = (
        "import hashlib, sys; from sar3d.procedural import build_glb; "
        "print(*[hashlib.sha256(build_glb(u)).hexdigest() for u in sys.argv[1:]])"
    )
    answer = subprocess.run([sys.executable, "-c", code, *uids], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == [hashlib.sha256(build_glb(uid)).hexdigest() for uid in uids]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_is_sound_and_has_parts_of_accent_color(family: Family) -> None:
    for recipe, drawing in _drawings(family):
        areas: Counter[str] = Counter()
        for surface, mesh in drawing:
            crosses = np.linalg.norm(_crosses(mesh), axis=1)
            assert crosses.min() > 1e-9
            assert np.allclose(np.linalg.norm(mesh.normals, axis=1), 1.0, atol=1e-6)
            assert _flatness(mesh) > 0.0
            areas[surface.color] += float(crosses.sum())
        assert areas[recipe.accent] > 0.02 * areas.total(), (recipe, areas)
        parts = merged(drawing)
        points = np.concatenate([mesh.positions for mesh in parts.values()])
        # Patterns are sized for objects whose longest side is about 1.
        assert 0.7 < np.ptp(points, axis=0).max() < 1.35
        assert sum(len(mesh.faces) for mesh in parts.values()) < 2500


def test_pictures_show_more_of_the_main_color_than_of_the_accent(tmp_path: Path) -> None:
    renderer, (c2w, intrinsics) = make_renderer(pick_backend("auto")), judge_cameras()
    ratios = []
    for made in catalog(ROUND):
        file = tmp_path / "object.glb"
        file.write_bytes(build_glb(made.uid))
        scene, _ = normalize(load_scene(file))
        frames = renderer.render(scene, c2w[1::4], intrinsics[1::4], RenderSettings(48, lit=False))
        seen = frames.rgb[frames.alpha == 255].astype(np.float64)
        main, accent = (np.abs(seen - srgb(made.attributes[name])).sum(axis=1) for name in ("main", "accent"))
        ratios.append((main < np.minimum(accent, 60)).mean() / (accent < np.minimum(main, 60)).mean())
    renderer.close()
    assert min(ratios) > 0.5
    assert np.median(ratios) > 1.5


def _share(surface: Surface) -> float:
    """Share of a texture that is of its second color."""
    plain = paint(Surface("black", surface.pattern, "white")).astype(np.float64)
    return float((plain.mean() - plain.min()) / np.ptp(plain))


@pytest.mark.parametrize("made", OBJECTS[:3], ids=lambda made: made.name)
def test_trimesh_reads_geometry_coordinates_and_textures(made: ProceduralObject) -> None:
    scene = trimesh.load_scene(io.BytesIO(build_glb(made.uid)), file_type="glb", process=False)
    parts = list(scene.geometry.values())
    assert min(part.bounds[0][1] for part in parts) == pytest.approx(0.0, abs=1e-5)
    textures = [part.visual.material.baseColorTexture for part in parts]
    assert all(t.size == (TEXTURE_SIZE, TEXTURE_SIZE) for t in textures if t is not None)
    assert any(t is not None for t in textures) == (made.attributes["pattern"] != "plain")
    assert all(part.visual.uv.shape == (len(part.vertices), 2) for part in parts)


def test_a_file_is_a_well_formed_glb() -> None:
    glb = build_glb(OBJECTS[0].uid)
    magic, version, total = struct.unpack_from("<4sII", glb)
    assert (magic, version, total) == (b"glTF", 2, len(glb))
    length = struct.unpack_from("<I", glb, 12)[0]
    document = json.loads(glb[20 : 20 + length])
    views, start = document["bufferViews"], 20 + length + 8
    assert all((start + view["byteOffset"]) % 4 == 0 for view in views)
    positions = [row for row in document["accessors"] if "min" in row]
    assert positions
    for row in positions:
        view = views[row["bufferView"]]
        values = np.frombuffer(glb, "<f4", 3 * row["count"], start + view["byteOffset"]).reshape(-1, 3)
        assert values.min(axis=0).tolist() == row["min"]
        assert values.max(axis=0).tolist() == row["max"]


def test_captions_name_family_and_color_and_use_the_right_article() -> None:
    short, long = set(), set()
    for made in catalog(800, 5):
        about = made.attributes
        first, sentence = made.captions
        short.add(first)
        long.add(sentence)
        for caption in made.captions:
            assert about["family"] in caption.lower()
            words = caption.lower().replace(",", "").replace(".", "").split()
            assert about["main"] in words
            for article, following in pairwise(words):
                if article in ("a", "an"):
                    vowel = following[0] in "aeiou" and not following.startswith("one-")
                    assert (article == "an") == vowel, caption
        assert about["accent"] in sentence
        assert sentence.endswith(".")
        assert sentence[0].isupper()
        assert about["pattern"] == "plain" or about["pattern"] in sentence
    assert len(long) > 780
    assert len(short) > 600


def test_no_phrase_of_a_style_clashes_with_the_templates() -> None:
    for family in FAMILIES:
        for phrase in family.styles.values():
            assert family.name in phrase
            assert " with " not in phrase


def test_held_out_combinations_are_whole_and_the_same_in_every_world() -> None:
    held: dict[int, set[tuple[str, str]]] = {}
    for seed in (0, 9):
        by_pair: dict[tuple[str, str], set[str]] = {}
        for uid, reason in listing(2 * 12 * ROUND, seed, PAIRS):
            about = describe(uid).attributes
            by_pair.setdefault((about["family"], about["main"]), set()).add(reason)
        assert len(by_pair) == ROUND * 12
        assert all(len(reasons) == 1 for reasons in by_pair.values())
        held[seed] = {pair for pair, reasons in by_pair.items() if reasons == {"family and main"}}
    assert held[0] == held[9]
    assert 0.14 < len(held[0]) / (ROUND * 12) < 0.26


def test_held_out_styles_are_whole_and_every_family_keeps_one() -> None:
    reasons: dict[str, dict[str, set[str]]] = {}
    for uid, reason in listing(1000, 0, HeldOutObjects(styles=0.5)):
        about = describe(uid).attributes
        reasons.setdefault(about["family"], {}).setdefault(about["style"], set()).add(reason)
    for styles in reasons.values():
        assert all(found in ({""}, {"style"}) for found in styles.values())
        assert {""} in styles.values()
    assert 0.2 < np.mean([{"style"} == found for styles in reasons.values() for found in styles.values()]) < 0.6


def test_what_is_held_out_changes_no_uid_and_grows_with_its_share() -> None:
    without, some = (list(listing(500, 0, config)) for config in (HeldOutObjects(), PAIRS))
    more = list(listing(500, 0, HeldOutObjects(pairs=("family", "main"), share=0.4)))
    assert [uid for uid, _ in without] == [uid for uid, _ in some] == [uid for uid, _ in more]
    assert not any(reason for _, reason in without)
    held, longer = ({uid for uid, reason in rows if reason} for rows in (some, more))
    assert held < longer


@pytest.mark.parametrize("wrong", [{"share": 1.0}, {"share": -0.1}, {"styles": 2.0}, {"pairs": ()}])
def test_a_wrong_rule_is_the_users_error(wrong: dict[str, object]) -> None:
    with pytest.raises(UserError, match=f"held_out.{next(iter(wrong))}="):
        HeldOutObjects(**wrong)  # type: ignore[arg-type]


def test_an_object_is_built_in_less_than_50_ms() -> None:
    seconds = []
    for made in OBJECTS[:ROUND]:
        build_glb(made.uid)
        start = time.process_time()
        build_glb(made.uid)
        seconds.append(time.process_time() - start)
    assert np.median(seconds) < 0.05


SOLIDS = {
    "box": (box(1.0, 2.0, 3.0), 6.0),
    "frustum": (frustum(2.0, 2.0, 3.0, 1.0, 1.0), 7.0),
    "cylinder": (cylinder(1.0, 2.0, segments=200), 2.0 * np.pi),
    "cone": (cone(1.0, 3.0, segments=200), np.pi),
    "sphere": (sphere(1.0, 100), 4.0 / 3.0 * np.pi),
    "ellipsoid": (ellipsoid(1.0, 2.0, 0.5, 100), 4.0 / 3.0 * np.pi),
    "torus": (torus(2.0, 0.5, 100, 60), 2.0 * np.pi**2 * 2.0 * 0.25),
    "L-shaped prism": (prism([(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)], 0.5), 1.5),
    "rod": (sweep([(0.0, 0.0), (1.0, 0.0), (2.0, 0.0)], 0.1, sides=100), 2.0 * np.pi * 0.01),
    "half ball": (lathe([(0.0, 0.0), *arc(1.0, 1.0, 0.0, 90.0, 40)], 100), 2.0 / 3.0 * np.pi),
}


@pytest.mark.parametrize("name", SOLIDS)
def test_a_part_is_closed_wound_outwards_and_of_the_right_volume(name: str) -> None:
    mesh, volume = SOLIDS[name]
    assert _is_closed(mesh)
    assert _volume(mesh) == pytest.approx(volume, rel=0.01)
    assert _flatness(mesh) > 0.5


def test_transforms_keep_normals_on_their_surface() -> None:
    mesh = sphere(1.0, 40).scaled(2.0, 0.5, 1.0).turned("x", 30.0).turned("y", 40.0).turned("z", 50.0).moved(1, 2, 3)
    assert _flatness(mesh) > 0.9
    assert _volume(mesh) == pytest.approx(4.0 / 3.0 * np.pi, rel=0.03)


def test_a_pattern_goes_around_a_part_a_whole_number_of_times() -> None:
    for radius in (0.1, 0.17, 0.4):
        can = cylinder(radius, 1.0)
        around = np.ptp(can.uvs[np.abs(can.normals[:, 1]) < 0.5, 0]) / TILE
        assert around == pytest.approx(round(around))
        assert around == pytest.approx(2 * np.pi * radius / TILE, abs=0.51) or around == pytest.approx(2.0)


def test_a_prism_listed_clockwise_is_refused() -> None:
    with pytest.raises(ValueError, match="clockwise"):
        prism([(0, 0), (0, 1), (1, 1), (1, 0)], 1.0)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_shows_both_colors_and_tiles_without_a_seam(pattern: str) -> None:
    pixels = paint(Surface("red", pattern, "white")).astype(np.float64)
    assert pixels.shape == (TEXTURE_SIZE, TEXTURE_SIZE, 3)
    assert np.ptp(pixels[..., 1]) > 200.0
    assert 0.2 < _share(Surface("red", pattern, "white")) < 0.32
    across, down = np.abs(np.diff(pixels, axis=1)).mean(axis=(0, 2)), np.abs(np.diff(pixels, axis=0)).mean(axis=(1, 2))
    assert np.abs(pixels[:, 0] - pixels[:, -1]).mean() <= across.max() + 1.0
    assert np.abs(pixels[0] - pixels[-1]).mean() <= down.max() + 1.0


def test_pillow_reads_back_the_pixels_of_a_png() -> None:
    pixels = np.arange(200 * 130 * 3, dtype=np.uint32).astype(np.uint8).reshape(200, 130, 3)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(pixels)))), pixels)
