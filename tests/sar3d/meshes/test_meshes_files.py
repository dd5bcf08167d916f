"""Whole files of every format: the difficult set, real objects, .obj/.ply/.stl, and loading in a child process."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sar3d.errors import ObjectError, UserError
from sar3d.isolation import LimitedProcess, Limits
from sar3d.meshes import MeshLimits, Scene, load_safely, load_scene, loader_process, normalize
from sar3d.meshes.colors import srgb_to_linear
from sar3d.meshes.scene import Material, Primitive, Texture
from sar3d.meshes.worker import pack_scene, unpack_scene


def u8(values: Any) -> NDArray[np.uint8]:
    return np.array(values, np.uint8)


SHARED = Path(__file__).parents[3].parent / "shared"


def manifest(folder: str) -> list[dict[str, Any]]:
    path = SHARED / folder / "manifest.json"
    if not path.exists():
        pytest.skip(f"the test data {folder}/ is not beside the repository")
    entries: list[dict[str, Any]] = json.loads(path.read_text())
    return entries


REASONS = {
    "git_lfs_pointer.glb": "git_lfs_pointer",
    "html_error_page.glb": "html_page",
    "AllIndicesOutOfRange.gltf": "index_out_of_range",
    "BoxTextured.gltf": "missing_file",
    "truncated_chunk_data.glb": "truncated",
    "length_mismatch.glb": "truncated",
    "chunk_too_big.glb": "truncated",
    "zero_length.glb": "truncated",
    "wrong_bytelength.glb": "truncated",
}


def test_difficult_files_meet_their_expectation() -> None:
    wrong = []
    with loader_process() as process:
        for entry in manifest("hard"):
            kind = ""
            try:
                scene, _ = normalize(load_safely(SHARED / "hard" / entry["file"], process=process))
                assert np.abs(scene.bounds()).max() == pytest.approx(0.45, rel=1e-4)
            except ObjectError as error:
                kind = error.kind
            name = Path(entry["file"]).name
            right = {
                "mesh": not kind,
                "mesh_or_clear_error": not kind,
                "reject_no_faces": kind == "no_faces",
                "reject": kind == REASONS.get(name, "malformed"),
                "either": kind not in ("internal", "crashed", "timeout", "memory"),
            }[entry["expect"]]
            if not right:
                wrong.append((entry["file"], entry["expect"], kind))
    assert not wrong


def test_known_sizes_of_difficult_files() -> None:
    manifest("hard")
    sizes: dict[str, list[float]] = {
        "draco_box.glb": [1, 1, 1],
        "skinned_cesium_man.glb": [0.312, 1.507, 1.138],  # y is up: a standing man
        "scale_1e-6_armchair.glb": [1.8e-6, 1.22406e-6, 1.6e-6],
        "sparse_accessor.gltf": [6, 4, 0],
    }
    for name, size in sizes.items():
        low, high = load_scene(SHARED / "hard" / "ok" / name).bounds()
        np.testing.assert_allclose(high - low, size, rtol=0.01)


SKINNED = {"female cyborg", "man", "male skater"}


def test_real_objects_agree_with_their_manifest_and_with_trimesh() -> None:
    trimesh = pytest.importorskip("trimesh")
    for entry in manifest("objects"):
        path = SHARED / "objects" / entry["file"]
        scene = load_scene(path)
        assert scene.triangles == entry["triangles"], entry["file"]
        assert any(p.material.texture is not None for p in scene.primitives) == entry["textured"], entry["file"]
        for p in scene.primitives:
            np.testing.assert_allclose(np.linalg.norm(p.normals, axis=1), 1.0, atol=1e-4)
        if entry["name"] in SKINNED:
            continue  # trimesh ignores skins: it shows these at the mesh node's scale, not at the skeleton's
        bounds = trimesh.load(path, process=False).bounds
        size = (bounds[1] - bounds[0]).max()
        np.testing.assert_allclose(scene.bounds(), bounds, atol=1e-5 * size, err_msg=entry["file"])


# --- .obj, .ply, .stl ------------------------------------------------------------------------------------------------

OBJ = """mtllib colors.mtl
v 0 0 0
v 1 0 0
v 1 1 0
v 0 1 0
v 0 0 3
vt 0 0
vt 1 0
vt 1 1
vt 0 1
usemtl picture
f 1/1 2/2 3/3
f 1/1 3/3 4/4
usemtl plain
f 1 5 2
"""
MTL = "newmtl picture\nKd 0 0 0\nmap_Kd sub/quarters.png\n\nnewmtl plain\nKd 0.5 0 1\nd 0.25\n"


def write_obj(folder: Path, obj: str = OBJ, mtl: str = MTL) -> Path:
    (folder / "sub").mkdir()
    Image.fromarray(u8([[[255, 0, 0]], [[0, 255, 0]]])).save(folder / "sub" / "quarters.png")
    (folder / "colors.mtl").write_text(mtl)
    (folder / "model.obj").write_text(obj)
    return folder / "model.obj"


def test_obj_with_materials(tmp_path: Path) -> None:
    scene = load_scene(write_obj(tmp_path))
    assert scene.triangles == 3
    picture, plain = sorted(scene.primitives, key=lambda p: p.material.texture is None)
    assert picture.material.texture is not None
    assert picture.material.base_color == (1.0, 1.0, 1.0, 1.0)  # Kd is replaced by the texture
    np.testing.assert_array_equal(picture.material.texture.pixels[:, 0, :3], [[255, 0, 0], [0, 255, 0]])
    assert picture.uvs is not None
    # The file counts v from the lower edge: the point (0, 0) shows the image's last row, v = 1 here.
    for position, uv in zip(picture.positions, picture.uvs, strict=True):
        np.testing.assert_array_equal(uv, [position[0], 1 - position[1]])
    red, green, blue, alpha = plain.material.base_color
    assert (red, green, blue) == pytest.approx((0.21404, 0.0, 1.0), abs=1e-4)  # sRGB 0.5 is linear 0.214
    assert (alpha, plain.material.alpha_mode) == (0.25, "BLEND")
    np.testing.assert_allclose(plain.normals, [[0, 1, 0]] * 3)


@pytest.mark.parametrize(
    ("mtl", "kind"),
    [
        ("newmtl picture\nmap_Kd ../secret.png\n", "unsafe_uri"),
        ("newmtl picture\nmap_Kd /etc/passwd\n", "unsafe_uri"),
        ("newmtl picture\nmap_Kd absent.png\n", "missing_file"),
        ("newmtl picture\nmap_Kd -s 2 2 1 model.obj\n", "bad_image"),
    ],
)
def test_references_of_an_obj_follow_the_same_rules(tmp_path: Path, mtl: str, kind: str) -> None:
    Image.new("RGB", (1, 1)).save(tmp_path / "secret.png")
    folder = tmp_path / "object"
    folder.mkdir()
    with pytest.raises(ObjectError) as caught:
        load_scene(write_obj(folder, mtl=mtl))
    assert caught.value.kind == kind


def test_an_obj_whose_material_library_is_elsewhere_is_refused(tmp_path: Path) -> None:
    path = write_obj(tmp_path, OBJ.replace("colors.mtl", "../colors.mtl"))
    with pytest.raises(ObjectError) as caught:
        load_scene(path)
    assert caught.value.kind == "unsafe_uri"


PLY = """ply
format ascii 1.0
element vertex 4
property float x
property float y
property float z
property uchar red
property uchar green
property uchar blue
element face 2
property list uchar int vertex_indices
end_header
0 0 0 255 0 128
1 0 0 255 0 128
1 2 0 255 0 128
0 2 0 255 0 128
3 0 1 2
3 0 2 3
"""


def test_ply_colors_become_linear_and_z_may_be_up(tmp_path: Path) -> None:
    path = tmp_path / "model.ply"
    path.write_text(PLY)
    (p,) = load_scene(path).primitives
    assert p.colors is not None
    np.testing.assert_allclose(p.colors, [[1, 0, 0.21586, 1]] * len(p.positions), atol=1e-4)
    np.testing.assert_allclose(p.normals, [[0, 0, 1]] * len(p.positions))
    turned = load_scene(path, up="z")
    np.testing.assert_allclose(turned.bounds(), [[0, 0, -2], [1, 0, 0]])
    np.testing.assert_allclose(turned.primitives[0].normals, [[0, 1, 0]] * 6)
    normalized, _ = normalize(turned)  # back where the file had it, z up
    np.testing.assert_allclose(normalized.bounds(), [[-0.225, -0.45, 0], [0.225, 0.45, 0]], atol=1e-7)
    np.testing.assert_allclose(normalized.primitives[0].normals, [[0, 0, 1]] * 6, atol=1e-7)


def test_ply_with_its_own_normals_keeps_them(tmp_path: Path) -> None:
    text = PLY.replace("uchar red", "float nx").replace("uchar green", "float ny").replace("uchar blue", "float nz")
    (tmp_path / "model.ply").write_text(text.replace("255 0 128", "0 0 -2"))
    (p,) = load_scene(tmp_path / "model.ply").primitives
    assert len(p.positions) == 4
    np.testing.assert_array_equal(p.normals, [[0, 0, -1]] * 4)


def test_stl_binary_and_ascii(tmp_path: Path) -> None:
    trimesh = pytest.importorskip("trimesh")
    box = trimesh.creation.box([1, 2, 3])
    for name, kind in (("binary.stl", "stl"), ("text.stl", "stl_ascii")):
        box.export(tmp_path / name, file_type=kind)
        scene = load_scene(tmp_path / name)
        assert scene.triangles == 12
        np.testing.assert_allclose(scene.bounds(), [[-0.5, -1, -1.5], [0.5, 1, 1.5]])


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("a.stl", b"", "empty_file"),
        ("a.stl", b"solid nothing\nendsolid\n", "no_faces"),
        ("a.ply", PLY.replace("3 0 2 3", "3 0 2 9").encode(), "index_out_of_range"),
        ("a.ply", PLY.replace("1 2 0 255", "1 nan 0 255").encode(), "non_finite"),
        ("a.ply", PLY.replace("1 0 0", "0 0 0").replace("1 2 0", "0 0 0").replace("0 2 0", "0 0 0").encode(), "degenerate"),
        ("a.ply", PLY.replace("vertex_indices", "corners").encode(), "malformed"),
        ("a.obj", b"v 0 0 0\nv 1 0 0\nf 1 2 9\n", "index_out_of_range"),
        ("a.obj", b"\x00\x01\x02" * 50, "no_faces"),
    ],
)  # fmt: skip
def test_broken_plain_files_have_reasons(tmp_path: Path, name: str, data: bytes, kind: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ObjectError) as caught:
        load_scene(tmp_path / name)
    assert caught.value.kind == kind, caught.value.reason


def test_a_vertical_axis_that_does_not_exist_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "model.ply").write_text(PLY)
    for load in (load_scene, load_safely):
        with pytest.raises(UserError, match="'x'"):
            load(tmp_path / "model.ply", up="x")  # type: ignore[arg-type]


def test_limits_hold_for_plain_files(tmp_path: Path) -> None:
    path = tmp_path / "model.ply"
    path.write_text(PLY)
    for limits, kind in (
        (MeshLimits(triangles=1), "too_many_triangles"),
        (MeshLimits(vertices=3), "too_many_vertices"),
        (MeshLimits(bytes=100), "too_large"),
    ):
        with pytest.raises(ObjectError) as caught:
            load_scene(path, limits=limits)
        assert caught.value.kind == kind


def test_srgb_curve() -> None:
    np.testing.assert_allclose(srgb_to_linear(np.array([0, 0.04045, 0.5, 1])), [0, 0.0031308, 0.2140411, 1], atol=1e-6)


# --- in a process ----------------------------------------------------------------------------------------------------


def rich_scene() -> Scene:
    rng = np.random.default_rng(0)
    texture = Texture(rng.integers(0, 256, (5, 7, 4), dtype=np.uint8), "clamp", "mirror", True)
    materials = [
        Material((0.1, 0.2, 0.3, 0.4), texture, "MASK", 0.7, False, True),
        Material((1.0, 0.0, 0.0, 1.0), texture),
        Material(),
    ]
    return Scene(
        tuple(
            Primitive(
                positions=rng.random((6, 3), np.float32),
                normals=rng.random((6, 3), np.float32),
                faces=np.array([[0, 1, 2], [3, 4, 5]], np.uint32),
                material=m,
                uvs=None if m.texture is None else rng.random((6, 2), np.float32),
                colors=rng.random((6, 4), np.float32) if m.unlit else None,
            )
            for m in materials
        ),
        offset=(1e9, -0.1, 0.0),
    )


def same(a: Scene, b: Scene) -> None:
    assert a.offset == b.offset
    assert len(a.primitives) == len(b.primitives)
    for p, q in zip(a.primitives, b.primitives, strict=True):
        for name in ("positions", "normals", "faces", "uvs", "colors"):
            left, right = getattr(p, name), getattr(q, name)
            assert (left is None) == (right is None)
            if left is not None:
                np.testing.assert_array_equal(left, right)
                assert left.dtype == right.dtype
        for name in ("base_color", "alpha_mode", "alpha_cutoff", "double_sided", "unlit"):
            assert getattr(p.material, name) == getattr(q.material, name)
        s, t = p.material.texture, q.material.texture
        assert (s is None) == (t is None)
        if s is not None and t is not None:
            np.testing.assert_array_equal(s.pixels, t.pixels)
            assert (s.wrap_u, s.wrap_v, s.nearest) == (t.wrap_u, t.wrap_v, t.nearest)


def test_scenes_cross_the_pipe_unchanged_and_shared_textures_once() -> None:
    scene = rich_scene()
    reply, blobs = pack_scene(scene)
    received = unpack_scene(json.loads(json.dumps(reply)), [bytes(b) for b in blobs])
    same(scene, received)
    assert received.primitives[0].material.texture is received.primitives[1].material.texture
    assert sum(len(b) == 5 * 7 * 4 for b in blobs) == 1


@pytest.mark.parametrize("damage", ["index", "length", "missing", "empty"])
def test_a_scene_that_makes_no_sense_is_not_believed(damage: str) -> None:
    reply, views = pack_scene(rich_scene())
    reply, blobs = copy.deepcopy(reply), [bytes(b) for b in views]
    packed = reply["primitives"][0]
    if damage == "index":
        blobs[packed["faces"]] = np.array([[0, 1, 6]], np.uint32).tobytes()
    elif damage == "length":
        blobs[packed["normals"]] = blobs[packed["normals"]][:-12]
    elif damage == "missing":
        del packed["positions"]
    else:
        blobs[packed["faces"]] = b""
    with pytest.raises((ObjectError, KeyError, ValueError)):
        unpack_scene(reply, blobs)


def test_loading_in_a_process_gives_the_same_scene_and_the_same_errors(tmp_path: Path) -> None:
    good, bad = write_obj(tmp_path), tmp_path / "ünsafe \udcff.glb"
    bad.write_bytes(b"glTF")
    with loader_process() as process:
        same(load_safely(good, up="z", process=process), load_scene(good, up="z"))
        pid = process.pid
        for path, limits, kind in (
            (bad, MeshLimits(), "truncated"),
            (good, MeshLimits(triangles=2), "too_many_triangles"),
        ):
            with pytest.raises(ObjectError) as caught:
                load_safely(path, limits=limits, process=process)
            assert caught.value.kind == kind
        assert process.pid == pid
    same(load_safely(good), load_scene(good))


def test_a_file_that_fills_the_memory_is_contained(tmp_path: Path) -> None:
    # 3 KB of JSON that ask for 600 MB of zeros
    accessor = {"componentType": 5126, "count": 10_000_000, "type": "VEC3"}
    primitives = [{"attributes": {"POSITION": i, "NORMAL": i + 5}} for i in range(5)]
    document = {
        "asset": {"version": "2.0"},
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": primitives}],
        "accessors": [accessor] * 10,
    }
    (tmp_path / "model.gltf").write_text(json.dumps(document))
    with LimitedProcess("sar3d.meshes.worker:handle", Limits(60, 300 << 20)) as process:
        with pytest.raises(ObjectError) as caught:
            load_safely(tmp_path / "model.gltf", limits=MeshLimits(triangles=10**8, vertices=10**9), process=process)
        assert caught.value.kind == "memory"


def test_a_pipe_instead_of_a_file_does_not_hang(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "model.glb")
    with pytest.raises(ObjectError) as caught:
        load_scene(tmp_path / "model.glb")
    assert caught.value.kind == "missing_file"
