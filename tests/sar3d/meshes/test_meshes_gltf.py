"""Geometry of glTF files: accessors, nodes, skins, morph targets, primitive modes, Draco."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sar3d.errors import ObjectError
from sar3d.meshes import MeshLimits, Scene, load_scene, normalize


def f32(values: Any) -> NDArray[np.float32]:
    return np.array(values, np.float32)


TETRA = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]], np.float32)
TETRA_FACES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.uint16)
CODES = {"int8": 5120, "uint8": 5121, "int16": 5122, "uint16": 5123, "uint32": 5125, "float32": 5126}
TYPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}


class Gltf:
    """Builds a .gltf with its .bin beside it."""

    def __init__(self) -> None:
        self.blob = bytearray()
        self.json: dict[str, Any] = {"asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": []}]}

    def add(self, key: str, entry: dict[str, Any]) -> int:
        self.json.setdefault(key, []).append(entry)
        return len(self.json[key]) - 1

    def view(self, data: bytes, **extra: Any) -> int:
        entry = {"buffer": 0, "byteOffset": len(self.blob), "byteLength": len(data), **extra}
        self.blob += data
        return self.add("bufferViews", entry)

    def accessor(self, values: NDArray[Any], **extra: Any) -> int:
        width = 1 if values.ndim == 1 else values.shape[1]
        entry = {"componentType": CODES[values.dtype.name], "count": len(values), "type": TYPES[width], **extra}
        if "bufferView" not in entry:
            entry["bufferView"] = self.view(values.tobytes())
        return self.add("accessors", {k: v for k, v in entry.items() if v is not None})

    def mesh(
        self, positions: NDArray[Any] = TETRA, faces: NDArray[Any] | None = TETRA_FACES, mode: int = 4, **more: Any
    ) -> int:
        primitive = {"attributes": {"POSITION": self.accessor(positions), **more.pop("attributes", {})}, "mode": mode}
        if faces is not None:
            primitive["indices"] = self.accessor(faces.reshape(-1))
        return self.add("meshes", {"primitives": [{**primitive, **more}]})

    def node(self, root: bool = True, **entry: Any) -> int:
        index = self.add("nodes", entry)
        if root:
            self.json["scenes"][0]["nodes"].append(index)
        return index

    def save(self, folder: Path) -> Path:
        self.json["buffers"] = [{"byteLength": len(self.blob), "uri": "data.bin"}]
        (folder / "data.bin").write_bytes(self.blob)
        (folder / "model.gltf").write_text(json.dumps(self.json))
        return folder / "model.gltf"

    def load(self, folder: Path) -> Scene:
        return load_scene(self.save(folder))


def triangles(scene: Scene) -> NDArray[np.float64]:
    """(F, 3, 3) corners in a canonical order: each from its least corner on, winding kept; then sorted."""
    offset = np.asarray(scene.offset)
    corners = np.concatenate([p.positions.astype(np.float64)[p.faces] + offset for p in scene.primitives])
    turned = []
    for triangle in corners.round(5).tolist():
        start = triangle.index(min(triangle))
        turned.append(triangle[start:] + triangle[:start])
    return np.array(sorted(turned))


def expected(positions: NDArray[Any] = TETRA, faces: NDArray[Any] = TETRA_FACES) -> NDArray[np.float64]:
    turned = []
    for triangle in positions.astype(np.float64)[faces].round(5).tolist():
        start = triangle.index(min(triangle))
        turned.append(triangle[start:] + triangle[:start])
    return np.array(sorted(turned))


def volume(scene: Scene) -> float:
    """Signed: positive where faces are counter-clockwise seen from outside."""
    corners = np.concatenate([p.positions.astype(np.float64)[p.faces] for p in scene.primitives])
    return float(np.einsum("fi,fi->f", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6)


def outward(scene: Scene) -> bool:
    """Whether flat normals agree with the winding."""
    good = True
    for p in scene.primitives:
        a, b, c = (p.positions[p.faces[:, i]] for i in range(3))
        good &= bool((np.einsum("fi,fi->f", np.cross(b - a, c - a), p.normals[p.faces[:, 0]]) > 0).all())
    return good


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_indices_of_every_type_and_flat_normals(tmp_path: Path, dtype: type) -> None:
    file = Gltf()
    file.node(mesh=file.mesh(faces=TETRA_FACES.astype(dtype)))
    scene = file.load(tmp_path)
    np.testing.assert_array_equal(triangles(scene), expected())
    assert volume(scene) == pytest.approx(1.0)
    assert len(scene.primitives[0].positions) == 12  # unshared
    assert outward(scene)


def test_unaligned_interleaved_and_sparse_accessors(tmp_path: Path) -> None:
    file = Gltf()
    file.blob += b"\xff"  # nothing after it is aligned
    rows = np.zeros(4, [("pad", "u1"), ("position", "<f4", 3), ("more", "u1", 2)])
    rows["position"] = 99.0
    rows["position"][:2] = TETRA[:2]
    view = file.view(rows.tobytes(), byteStride=rows.itemsize)
    places, values = file.view(np.array([2, 3], np.uint8).tobytes()), file.view(TETRA[2:].tobytes())
    sparse = {
        "count": 2,
        "indices": {"bufferView": places, "componentType": 5121},
        "values": {"bufferView": values},
    }
    position = file.accessor(TETRA, bufferView=view, byteOffset=1, sparse=sparse)
    indices = file.accessor(TETRA_FACES.reshape(-1))
    primitive = {"attributes": {"POSITION": position}, "indices": indices}
    file.node(mesh=file.add("meshes", {"primitives": [primitive]}))
    np.testing.assert_array_equal(triangles(file.load(tmp_path)), expected())


def test_a_sparse_accessor_without_a_view_starts_from_zeros(tmp_path: Path) -> None:
    file = Gltf()
    places, values = file.view(np.array([1, 2, 3], np.uint16).tobytes()), file.view(TETRA[1:].tobytes())
    sparse = {
        "count": 3,
        "indices": {"bufferView": places, "componentType": 5123},
        "values": {"bufferView": values},
    }
    position = file.accessor(TETRA, bufferView=None, sparse=sparse)
    primitive = {"attributes": {"POSITION": position}, "indices": file.accessor(TETRA_FACES.reshape(-1))}
    file.node(mesh=file.add("meshes", {"primitives": [primitive]}))
    np.testing.assert_array_equal(triangles(file.load(tmp_path)), expected())


@pytest.mark.parametrize(("dtype", "scale"), [(np.int8, 127), (np.int16, 32767), (np.uint8, 255), (np.uint16, 65535)])
def test_quantized_positions(tmp_path: Path, dtype: type, scale: int) -> None:
    file = Gltf()
    file.json["extensionsRequired"] = ["KHR_mesh_quantization"]
    stored: NDArray[Any] = (TETRA / 3 * scale).round().astype(dtype)
    mesh = file.mesh()
    file.json["meshes"][mesh]["primitives"][0]["attributes"]["POSITION"] = file.accessor(stored, normalized=True)
    file.node(mesh=mesh, scale=[3, 3, 3])
    scene = file.load(tmp_path)
    np.testing.assert_allclose(scene.bounds(), [[0, 0, 0], [1, 2, 3]], atol=3.0 / scale)
    assert scene.bounds()[1, 2] == 3.0


SQUARE = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 2, 0]], np.float32)


def test_triangle_strips_keep_one_side_up(tmp_path: Path) -> None:
    file = Gltf()
    file.node(mesh=file.mesh(SQUARE, np.arange(5, dtype=np.uint8), mode=5))
    scene = file.load(tmp_path)
    np.testing.assert_array_equal(triangles(scene), expected(SQUARE, np.array([[0, 1, 2], [2, 1, 3], [2, 3, 4]])))
    assert all(np.allclose(p.normals, [0, 0, 1]) for p in scene.primitives)


def test_triangle_fans(tmp_path: Path) -> None:
    file = Gltf()
    corners = SQUARE[[0, 1, 3, 2]]
    file.node(mesh=file.mesh(corners, None, mode=6))
    np.testing.assert_array_equal(triangles(file.load(tmp_path)), expected(corners, np.array([[0, 1, 2], [0, 2, 3]])))


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_points_and_lines_are_no_faces(tmp_path: Path, mode: int) -> None:
    file = Gltf()
    file.node(mesh=file.mesh(mode=mode))
    with pytest.raises(ObjectError) as caught:
        file.load(tmp_path)
    assert caught.value.kind == "no_faces"


def test_transforms_compose_and_a_mirrored_node_stays_outside_out(tmp_path: Path) -> None:
    file = Gltf()
    half = np.sqrt(0.5)
    child = file.node(root=False, mesh=file.mesh(), scale=[-1, 1, 2])
    # 90 degrees about z, not of unit length, then a translation
    file.node(children=[child], rotation=[0, 0, 3 * half, 3 * half], translation=[10, 0, 0])
    matrix = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 50, 1]
    file.node(mesh=file.mesh(), matrix=matrix)
    scene = file.load(tmp_path)
    moved = TETRA.astype(np.float64) * [-1, 1, 2]
    moved = moved[:, [1, 0, 2]] * [-1, 1, 1] + [10, 0, 0]
    mirrored = expected(moved, TETRA_FACES[:, ::-1])
    np.testing.assert_allclose(
        triangles(scene), np.array(sorted([*mirrored.tolist(), *expected(TETRA + np.array([0, 0, 50])).tolist()]))
    )
    assert outward(scene)
    assert len(scene.primitives) == 1  # same material, so drawn at once


def test_stored_normals_follow_uneven_and_tiny_scales(tmp_path: Path) -> None:
    file = Gltf()
    normals = np.tile(f32([1, 1, 0]) * 5, (4, 1))
    file.node(mesh=file.mesh(attributes={"NORMAL": file.accessor(normals)}), scale=[2e-6, 1e-6, -1e-6])
    wanted = np.array([0.5, 1, 0]) / np.sqrt(1.25)
    np.testing.assert_allclose(file.load(tmp_path).primitives[0].normals, np.tile(wanted, (4, 1)), atol=1e-6)


def test_broken_normals_are_made_from_the_faces_around(tmp_path: Path) -> None:
    file = Gltf()
    normals = f32([[0, 0, 0], [np.nan, 0, 0], [0, 0, -1], [0, 0, -1], [0, 0, -1]])
    faces = np.array([[0, 1, 2], [2, 1, 3]], np.uint8)
    file.node(mesh=file.mesh(SQUARE, faces, attributes={"NORMAL": file.accessor(normals)}))
    np.testing.assert_allclose(
        file.load(tmp_path).primitives[0].normals, [[0, 0, 1], [0, 0, 1], [0, 0, -1], [0, 0, -1], [0, 0, -1]]
    )


def scene_choice(change: Callable[[Gltf], Any], folder: Path) -> int:
    file = Gltf()
    for size in (1.0, 2.0, 4.0):
        file.node(root=False, mesh=file.mesh(TETRA * np.float32(size)))
    file.json["scenes"] = [{"nodes": [0]}, {"nodes": [1]}]
    change(file)
    return int(file.load(folder).bounds()[1, 0])


def test_which_scene_is_shown(tmp_path: Path) -> None:
    assert scene_choice(lambda f: f.json.update(scene=1), tmp_path) == 2
    assert scene_choice(lambda f: f.json.pop("scene"), tmp_path) == 1
    assert scene_choice(lambda f: [f.json.pop("scene"), f.json.pop("scenes")], tmp_path) == 4


def test_thousands_of_nodes_and_a_deep_chain_become_one_primitive(tmp_path: Path) -> None:
    file = Gltf()
    mesh = file.mesh()
    for i in range(3000):
        file.node(mesh=mesh, translation=[float(i % 50), float(i // 50), 0.0])
    parent = file.node(mesh=mesh)
    for _ in range(3000):
        child = file.node(root=False, mesh=mesh, translation=[0, 0, 0.01])
        file.json["nodes"][parent]["children"] = [child]
        parent = child
    scene = file.load(tmp_path)
    assert scene.triangles == 6001 * 4
    assert len(scene.primitives) == 1
    np.testing.assert_allclose(scene.bounds(), [[0, 0, 0], [50, 61, 33]], atol=1e-4)


def test_gpu_instances(tmp_path: Path) -> None:
    file = Gltf()
    attributes = {
        "TRANSLATION": file.accessor(f32([[0, 0, 0], [5, 0, 0]])),
        "SCALE": file.accessor(f32([[1, 1, 1], [2, 2, 2]])),
    }
    file.json["extensionsRequired"] = ["EXT_mesh_gpu_instancing"]
    file.node(mesh=file.mesh(), extensions={"EXT_mesh_gpu_instancing": {"attributes": attributes}})
    scene = file.load(tmp_path)
    np.testing.assert_array_equal(scene.bounds(), [[0, 0, 0], [7, 4, 6]])


def skinned(file: Gltf, joints: NDArray[Any], weights: NDArray[Any], **skin: Any) -> None:
    attributes = {"JOINTS_0": file.accessor(joints), "WEIGHTS_0": file.accessor(weights)}
    mesh = file.mesh(attributes=attributes)
    root = file.node(translation=[0, 10, 0], scale=[2, 2, 2])
    tip = file.node(root=False, translation=[0, 0, 5])
    file.json["nodes"][root]["children"] = [tip]
    number = file.add("skins", {"joints": [root, tip], **skin})
    file.node(mesh=mesh, skin=number, translation=[1000, 1000, 1000])  # to be ignored


def test_skinned_vertices_follow_their_joints_not_their_node(tmp_path: Path) -> None:
    file = Gltf()
    joints = np.array([[0, 1, 0, 0]] * 4, np.uint8)
    weights = f32([[1, 0, 0, 0], [1, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 1, 0, 0]])
    bind = np.tile(np.eye(4, dtype=np.float32), (2, 1, 1))
    bind[1, 2, 3] = -1.0
    skinned(file, joints, weights, inverseBindMatrices=file.accessor(bind.transpose(0, 2, 1).reshape(2, 16)))
    scene = file.load(tmp_path)
    root = TETRA * 2 + [0, 10, 0]
    tip = (TETRA + np.array([0, 0, 4])) * 2 + [0, 10, 0]
    posed = np.stack([root[0], root[1], (root[2] + tip[2]) / 2, tip[3]])
    np.testing.assert_allclose(triangles(scene), expected(posed))


def test_weights_of_zero_in_all_follow_the_first_joint(tmp_path: Path) -> None:
    file = Gltf()
    skinned(file, np.zeros((4, 4), np.uint16), np.zeros((4, 4), np.float32))
    np.testing.assert_allclose(triangles(file.load(tmp_path)), expected(TETRA * 2 + [0, 10, 0]))


def test_default_morph_weights_apply_and_a_node_may_override_them(tmp_path: Path) -> None:
    file = Gltf()
    stretch = f32([[0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 3]])
    targets = [{"POSITION": file.accessor(stretch)}, {"POSITION": file.accessor(stretch * 100)}]
    mesh = file.mesh(targets=targets)
    file.json["meshes"][mesh]["weights"] = [0.5, 0]
    file.node(mesh=mesh)
    file.node(mesh=mesh, weights=[1.0, 0], translation=[20, 0, 0])
    low = TETRA + 0.5 * stretch
    high = TETRA + stretch + [20, 0, 0]
    both = sorted([*expected(low).tolist(), *expected(high).tolist()])
    np.testing.assert_allclose(triangles(file.load(tmp_path)), np.array(both))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("distance", [0.0, 1e3, 1e7])
def test_normalize_at_every_scale_and_distance(tmp_path: Path, scale: float, distance: float) -> None:
    file = Gltf()
    shift = np.array([0.0, -distance, distance]) * scale
    file.node(mesh=file.mesh(), scale=[scale] * 3, translation=shift.tolist())
    scene, matrix = normalize(file.load(tmp_path))
    wanted = (TETRA - [0.5, 1, 1.5])[:, [0, 2, 1]] * [1, -1, 1] * 0.3  # z up, largest extent 3 becomes 0.9
    np.testing.assert_allclose(triangles(scene), expected(wanted), atol=2e-5)
    np.testing.assert_allclose(scene.bounds(), np.array([[-0.15, -0.45, -0.3], [0.15, 0.45, 0.3]]), atol=1e-6)
    source = TETRA * scale + shift
    mapped = source @ matrix[:3, :3].T + matrix[:3, 3]
    np.testing.assert_allclose(mapped, wanted, atol=1e-6)
    back = np.linalg.inv(matrix)
    np.testing.assert_allclose(mapped @ back[:3, :3].T + back[:3, 3], source, rtol=1e-6, atol=1e-6 * scale)
    assert outward(scene)
    assert scene.offset == (0.0, 0.0, 0.0)


def draco(attributes: dict[str, int], **encoded: Any) -> tuple[Gltf, dict[str, Any]]:
    dracopy = pytest.importorskip("DracoPy")
    positions = TETRA.astype(np.float32)
    data = dracopy.encode(
        positions, TETRA_FACES.astype(np.uint32), quantization_bits=16, preserve_order=True, **encoded
    )
    file = Gltf()
    accessors = {
        "POSITION": file.accessor(positions, bufferView=None),
        "TEXCOORD_0": file.accessor(np.zeros((4, 2), np.float32), bufferView=None),
    }
    compressed = {"bufferView": file.view(data), "attributes": attributes}
    primitive = {
        "attributes": {name: accessors[name] for name in attributes},
        "indices": file.accessor(TETRA_FACES.reshape(-1), bufferView=None),
        "extensions": {"KHR_draco_mesh_compression": compressed},
    }
    file.json["extensionsRequired"] = ["KHR_draco_mesh_compression"]
    file.node(mesh=file.add("meshes", {"primitives": [primitive]}))
    return file, primitive


def test_draco_is_decoded(tmp_path: Path) -> None:
    file, _ = draco({"POSITION": 0})
    scene = file.load(tmp_path)
    assert volume(scene) == pytest.approx(1.0, rel=1e-3)
    np.testing.assert_allclose(scene.bounds(), [[0, 0, 0], [1, 2, 3]], atol=1e-3)


def test_draco_attributes_are_found_by_unique_id(tmp_path: Path) -> None:
    decoy = np.full((4, 3), 7, np.float32) * np.arange(4, dtype=np.float32)[:, None]
    file, _ = draco({"POSITION": 9}, generic_attributes={9: decoy})
    np.testing.assert_allclose(file.load(tmp_path).bounds()[1], [21, 21, 21])


@pytest.mark.parametrize("damage", ["stream", "id", "vertices", "faces"])
def test_draco_that_cannot_be_right_is_refused(tmp_path: Path, damage: str) -> None:
    file, primitive = draco({"POSITION": 5 if damage == "id" else 0})
    if damage == "stream":
        view = file.json["bufferViews"][primitive["extensions"]["KHR_draco_mesh_compression"]["bufferView"]]
        file.blob[view["byteOffset"] : view["byteOffset"] + view["byteLength"]] = bytes(view["byteLength"])
    elif damage == "vertices":
        file.json["accessors"][primitive["attributes"]["POSITION"]]["count"] = 5
    elif damage == "faces":
        file.json["accessors"][primitive["indices"]]["count"] = 9
    with pytest.raises(ObjectError) as caught:
        file.load(tmp_path)
    assert caught.value.kind == "draco"


def test_limits_count_instances_before_they_are_made(tmp_path: Path) -> None:
    file = Gltf()
    mesh = file.mesh()
    for _ in range(50):
        file.node(mesh=mesh)
    path = file.save(tmp_path)
    for limits, kind in (
        (MeshLimits(triangles=199), "too_many_triangles"),
        (MeshLimits(vertices=599), "too_many_vertices"),
        (MeshLimits(nodes=49), "too_many_nodes"),
        (MeshLimits(bytes=path.stat().st_size), "too_large"),
    ):
        with pytest.raises(ObjectError) as caught:
            load_scene(path, limits=limits)
        assert caught.value.kind == kind
    assert load_scene(path, limits=MeshLimits(triangles=200, vertices=600, nodes=50)).triangles == 200
