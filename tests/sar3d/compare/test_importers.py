"""Importers: whatever system wrote it, the same object lands on the same pose; what does not fit is said."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import layouts
import numpy as np
import pytest
import trimesh
from layouts import UID, moved, obj_with_colors

from sar3d.compare import (
    SYSTEMS,
    Drawing,
    align,
    cloud_of,
    find_files,
    import_process,
    load_found,
    measure_floor,
    measure_shape,
    place,
    posed,
    system_named,
)
from sar3d.compare.align import STEPS, icp, ring_of
from sar3d.compare.draw import draw, ring
from sar3d.compare.load import Loaded
from sar3d.compare.place import Placed, fitted, transformed, turned
from sar3d.errors import ObjectError, UserError
from sar3d.isolation import LimitedProcess
from sar3d.meshes.scene import Material, Primitive, Scene
from sar3d.metrics.config import ShapeConfig
from sar3d.metrics.shapes.points import mesh_of
from sar3d.metrics.shapes.surface import inside
from sar3d.render import Renderer, make_renderer


@pytest.fixture(scope="module")
def process() -> Iterator[LimitedProcess]:
    with import_process() as made:
        yield made


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return make_renderer("raycast")


def scene_of(mesh: trimesh.Trimesh) -> Scene:
    corners = mesh.vertices[mesh.faces].reshape(-1, 3).astype(np.float32)
    colors = (mesh.visual.vertex_colors[mesh.faces].reshape(-1, 4) / 255).astype(np.float32) ** 2.2
    faces = np.arange(len(corners), dtype=np.uint32).reshape(-1, 3)
    normals = mesh.face_normals.repeat(3, axis=0).astype(np.float32)
    return Scene((Primitive(corners, normals, faces, Material(), colors=colors),))


TRUTH = Placed(fitted(Placed(scene_of(layouts.truth()), None, np.eye(4))).scene, None, np.eye(4))


@pytest.fixture(scope="module")
def truth(renderer: Renderer) -> Drawing:
    return ring_of(TRUTH, renderer)


def imported(root: Path, system: str, process: LimitedProcess) -> Loaded:
    found = find_files(root, system_named(system), [UID, "other"])
    assert list(found) == [UID]
    return load_found(found[UID], process)


def volume_iou(first: Placed, second: Placed) -> float:
    points = np.random.default_rng(0).uniform(-0.46, 0.46, (20_000, 3))
    assert first.scene is not None
    assert second.scene is not None
    a, b = (inside(mesh_of(scene), points) for scene in (first.scene, second.scene))
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("layout", layouts.MESHES)
def test_every_layout_lands_on_the_same_pose(layout: str, tmp_path: Path, process: LimitedProcess) -> None:
    system, write = layouts.MESHES[layout]
    write(tmp_path)
    loaded = imported(tmp_path, system, process)
    placed = place(loaded)
    assert volume_iou(placed, TRUTH) > 0.98
    assert placed.scene is not None
    assert TRUTH.scene is not None
    colors = [mean_colors(scene) for scene in (placed.scene, TRUTH.scene)]
    assert np.abs(colors[0] - colors[1]).max() < 0.02
    low, high = placed.scene.bounds()
    assert (high - low).max() == pytest.approx(0.9, abs=1e-6)
    at_scale = posed(loaded)
    assert (at_scale is None) == (loaded.layout.units is None)
    if at_scale is not None:
        assert volume_iou(at_scale, TRUTH) > 0.98, "the declared size is the object's"


def mean_colors(scene: Scene) -> np.ndarray:
    """(8, 3) mean color, by vertices, of the octants of the world; white where there is no vertex."""
    points, colors = [], []
    for p in scene.primitives:
        color = np.ones((len(p.positions), 3)) if p.colors is None else p.colors[:, :3]
        if p.material.texture is not None and p.uvs is not None:
            pixels = p.material.texture.pixels
            at = (p.uvs * (pixels.shape[1], pixels.shape[0])).astype(int)
            color = (pixels[at[:, 1], at[:, 0], :3] / 255) ** 2.2
        points.append(p.positions)
        colors.append(color)
    where = (np.concatenate(points) > 0) @ [1, 2, 4]
    values = np.concatenate(colors)
    return np.stack([values[where == i].mean(0) if (where == i).any() else np.ones(3) for i in range(8)])


@pytest.mark.parametrize("layout", layouts.SPLATS)
def test_splats_land_where_the_mesh_does(
    layout: str, tmp_path: Path, process: LimitedProcess, renderer: Renderer
) -> None:
    system, write = layouts.SPLATS[layout]
    write(tmp_path)
    loaded = imported(tmp_path, system, process)
    placed = place(loaded)
    solid = scene_of(layouts.moved(*layouts.SPLAT_FRAMES[layout]))
    assert volume_iou(Placed(transformed(solid, placed.matrix), None, placed.matrix), TRUTH) > 0.98
    cameras = ring(2, 2.2, 20.0)
    drawn, true = (draw(p, *cameras, 128, renderer, loaded.layout.splats) for p in (placed, TRUTH))
    inner, either = (drawn.alpha > 127) & (true.alpha > 127), (drawn.alpha > 127) | (true.alpha > 127)
    assert inner.sum() / either.sum() > 0.88, "splats reach beyond the surface that their centers lie on"
    assert np.abs(drawn.rgb[inner].astype(float) - true.rgb[inner]).mean() < 15


def test_lara_takes_the_elevation_of_each_object_from_the_table(tmp_path: Path, process: LimitedProcess) -> None:
    layouts.lara(tmp_path, 27.0)
    loaded = imported(tmp_path, "lara", process)
    assert volume_iou(place(loaded), TRUTH) < 0.9, "at the usual 20 degrees it leans"
    (tmp_path / "mapping.csv").write_text(f"uid,file,elevation\n{UID},{layouts.KEY}.obj,27\n")
    assert volume_iou(place(imported(tmp_path, "lara", process)), TRUTH) > 0.98


# ---- alignment


def test_a_turned_object_is_turned_back(renderer: Renderer, truth: Drawing) -> None:
    aside = fitted(turned(TRUTH, 150.0))
    upright, found = align(aside, truth, renderer)
    assert found.yaw == -150.0
    assert not found.mirrored
    assert found.declared_iou < 0.8 < 0.98 < found.iou
    assert volume_iou(upright, TRUTH) > 0.98


def test_an_undocumented_mirror_is_reported_and_not_used(
    tmp_path: Path, process: LimitedProcess, renderer: Renderer, truth: Drawing
) -> None:
    obj_with_colors(tmp_path / f"{UID}.obj", moved(layouts.FLIP_X))
    placed = place(imported(tmp_path, "z-up", process))
    upright, found = align(placed, truth, renderer)
    assert found.mirrored
    assert found.mirrored_iou > 0.98 > found.iou
    assert volume_iou(upright, TRUTH) < 0.9, "it stays a mirror image"
    assert np.linalg.det(upright.matrix[:3, :3]) > 0


def test_a_symmetric_object_is_not_called_mirrored(renderer: Renderer) -> None:
    box = trimesh.creation.box((0.9, 0.5, 0.3))
    box.visual.vertex_colors = np.tile([200, 80, 60, 255], (8, 1))
    placed = Placed(scene_of(box), None, np.eye(4))
    drawn = ring_of(placed, renderer)
    _, found = align(placed, drawn, renderer, embed=lambda images: np.ones((len(images), 1)))
    assert (found.yaw, found.mirrored) == (0, False)
    assert found.iou == 1.0
    assert len(drawn.rgb) == STEPS


def test_icp_undoes_a_similarity_and_never_mirrors() -> None:
    target = trimesh.sample.sample_surface(layouts.truth(), 3000, seed=0)[0]
    angle = np.radians(8)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    moved_points = 1.05 * target @ turn.T + (0.02, -0.03, 0.01)
    matrix = icp(moved_points, target)
    back = moved_points @ matrix[:3, :3].T + matrix[:3, 3]
    assert np.abs(back - target).max() < 1e-3
    assert np.linalg.det(icp(target * (-1, 1, 1), target)[:3, :3]) > 0


# ---- numbers


def test_a_system_is_measured_against_the_truth(tmp_path: Path, process: LimitedProcess) -> None:
    """What lost its size has no numbers of size; splats have only points."""
    config = ShapeConfig(points=512, volume_points=2048)
    layouts.MESHES["crm zip"][1](tmp_path / "crm")
    loaded = imported(tmp_path / "crm", "crm", process)
    found = measure_shape(place(loaded), TRUTH, UID, posed(loaded), config)
    assert found.values["chamfer_l1_unit_box"] < 1e-4
    assert found.values["fscore_0.01_unit_box"] == 1.0
    assert "do not keep the size" in found.absent["chamfer_l1_posed"]
    floor = measure_floor(TRUTH, UID, config)
    assert floor.values["sampled_chamfer_l1_unit_box"] > floor.values["chamfer_l1_unit_box"]
    assert not np.array_equal(floor.points, cloud_of(TRUTH, UID, "truth")), "another sample of the same surface"
    layouts.MESHES["trellis glb"][1](tmp_path / "trellis")
    loaded = imported(tmp_path / "trellis", "trellis", process)
    assert measure_shape(place(loaded), TRUTH, UID, posed(loaded), config).values["chamfer_l1_posed"] < 1e-4
    layouts.SPLATS["lgm"][1](tmp_path / "lgm")
    splats = place(imported(tmp_path / "lgm", "lgm", process))
    found = measure_shape(splats, TRUTH, UID, None, config)
    assert (found.points.shape, found.points_from) == ((2048, 3), "splat_centers")
    assert 0 < found.values["sampled_chamfer_l1_unit_box"] < 0.03
    assert "only centers" in found.absent["normal_consistency_unit_box"]


# ---- what does not fit


def test_names_that_fit_no_object_are_one_sentence(tmp_path: Path) -> None:
    lgm = system_named("lgm")
    with pytest.raises(UserError, match="there is no folder"):
        find_files(tmp_path / "none", lgm, [UID])
    (tmp_path / "else.ply").write_bytes(b"ply")
    with pytest.raises(UserError, match=r"holds none of the 1 objects of the truth as LGM writes them \(\{uid\}\.ply"):
        find_files(tmp_path, lgm, [UID])
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{UID}.ply").write_bytes(b"ply")
    with pytest.raises(UserError, match="has two files"):
        find_files(tmp_path, lgm, [UID])
    with pytest.raises(UserError, match=r"names the files of a\.1 and of a\.2 both a"):
        find_files(tmp_path, system_named("openlrm"), ["a.1", "a.2"])
    with pytest.raises(UserError, match="there is no importer 'foo': choose from splatter-image, openlrm"):
        system_named("foo")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("uid,path\nx,y\n", "line 2 of .* has no uid or no file"),
        ("uid,file\nx,../secret.ply\n", "names ../secret.ply, which is not in that folder"),
        ("uid,file,elevation\nx,x.ply,high\n", "elevation 'high', which is no angle"),
        ("uid,file\nx,x.ply\nx,x.ply\n", "names x twice"),
        ("uid,file\nx,x.txt\n", "is none of the files that LGM writes"),
    ],
)
def test_a_broken_table_is_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    for name in ("x.ply", "x.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "mapping.csv").write_text(text)
    with pytest.raises(UserError, match=words):
        find_files(tmp_path, system_named("lgm"), ["x"])


def test_a_table_may_name_files_as_it_likes(tmp_path: Path) -> None:
    (tmp_path / "example_mesh_3.ply").write_bytes(b"ply")
    (tmp_path / "mapping.csv").write_text("uid,file\na/b,example_mesh_3.ply\n")
    found = find_files(tmp_path, system_named("shap-e"), ["a/b", "c"])
    assert [one.path.name for one in found.values()] == ["example_mesh_3.ply"]


def test_broken_files_have_typed_reasons(tmp_path: Path, process: LimitedProcess) -> None:
    def kind(system: str, name: str, data: bytes) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        found = find_files(tmp_path / Path(name).parts[0], system_named(system), ["x"])["x"]
        with pytest.raises(ObjectError) as caught:
            load_found(found, process)
        return caught.value.kind

    assert kind("crm", "a/x.zip", b"no archive") == "bad_archive"
    layouts.write_zip(tmp_path / "b/y.zip", {"one.obj": b"", "two.obj": b""})
    assert kind("crm", "c/x.zip", (tmp_path / "b/y.zip").read_bytes()) == "bad_archive"
    assert kind("lgm", "d/x.ply", b"ply\nformat ascii 1.0\n") == "malformed"
    assert kind("openlrm", "e/x.mov", b"no film") == "bad_picture"
    assert kind("splatter-image", "f/0_x/00000.png", b"no picture") == "bad_picture"


def test_films_and_folders_are_pictures(tmp_path: Path, process: LimitedProcess) -> None:
    from PIL import Image

    from sar3d.export.turntable import write_mp4

    frames = np.stack([np.full((32, 32, 3), 8 * i, np.uint8) for i in range(30)])
    write_mp4(tmp_path / "x.mp4", frames)
    film = load_found(find_files(tmp_path, system_named("lara"), ["x"])["x"], process).pictures
    assert film is not None
    assert film.shape == (24, 32, 32, 3)
    assert (np.diff(film.mean((1, 2, 3))) > 0).all(), "spread evenly over the film, in order"
    folder = tmp_path / "out" / "7_x"
    folder.mkdir(parents=True)
    for i in range(3):
        Image.fromarray(np.full((16, 16, 4), (0, 0, 0, 0), np.uint8)).save(folder / f"{i:05d}.png")
    shown = load_found(find_files(tmp_path, system_named("splatter-image"), ["x"])["x"], process)
    assert shown.pictures is not None
    assert shown.pictures.shape == (3, 16, 16, 3)
    assert (shown.pictures == 255).all(), "transparency is shown on white"
    with pytest.raises(ValueError, match="pictures have no place"):
        place(shown)


def test_every_system_of_the_table_has_an_importer() -> None:
    assert set(SYSTEMS) >= {
        "splatter-image",
        "openlrm",
        "one-2-3-45",
        "lara",
        "crm",
        "lgm",
        "shap-e",
        "ln3diff",
        "sar3d",
        "instantmesh",
        "trellis",
        "hunyuan3d-2.1",
        "gaussiananything",
    }
    for system in SYSTEMS.values():
        for layout in system.layouts:
            assert abs(np.linalg.det(layout.frame.to_world())) == pytest.approx(1)
            assert all("{uid}" in pattern for pattern in layout.patterns)
            assert replace(layout, note="") is not layout
