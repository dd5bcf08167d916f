"""Metrics of shape: known answers on constructed clouds, sets and solids."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import trimesh

from sar3d.errors import ObjectError, UserError
from sar3d.meshes.scene import Material, Primitive, Scene
from sar3d.metrics.config import ShapeConfig
from sar3d.metrics.shapes.chamfer import DISTANCES, Distance, chamfer, dense_rows, distance_rows, symmetric_rows
from sar3d.metrics.shapes.matrix import matrix_rows, matrix_schema, set_distances
from sar3d.metrics.shapes.points import mesh_of, pack_points, sample_surface, unpack_points
from sar3d.metrics.shapes.sets import SetDistances, coverage, minimum_matching_distance, one_nn_accuracy
from sar3d.metrics.shapes.surface import compare_shapes, inside, noise_floor

SMALL = ShapeConfig(points=1024, volume_points=4096)


def clouds(count: int, points: int = 60, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).normal(size=(count, points, 3)))


def by_force(a: np.ndarray, b: np.ndarray, distance: Distance) -> float:
    """From the definition, pair by pair."""
    table = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    there, back = table.min(1), table.min(0)
    return (there.mean() + back.mean()) / 2 if distance == "chamfer_l1" else (there**2).mean() + (back**2).mean()


@pytest.mark.parametrize("distance", DISTANCES)
def test_trees_and_all_pairs_give_the_distance_of_the_definition(distance: Distance) -> None:
    rows, columns = clouds(3), clouds(4, 45, seed=1)
    expected = np.array([[by_force(a, b, distance) for b in columns] for a in rows])
    np.testing.assert_allclose(distance_rows(rows, columns, distance), expected, atol=1e-9)
    np.testing.assert_allclose(dense_rows(rows, columns, distance, "cpu"), expected, atol=1e-9)
    assert chamfer(rows[0], columns[0], distance) == pytest.approx(expected[0, 0], abs=1e-9)


def test_a_matrix_is_the_same_in_any_blocks_and_order(tmp_path: Path) -> None:
    """Also through the table that keeps it, its rows in any order."""
    made, true = clouds(5), clouds(6, seed=1)
    whole = distance_rows(made, true)
    assert np.array_equal(np.concatenate([distance_rows(made[:2], true), distance_rows(made[2:], true)]), whole)
    names, references = [f"m{i}" for i in range(5)], [f"t{i}" for i in range(6)]
    rows = matrix_rows("between", "ours", names, whole)
    for i in (3, 0, 4, 1, 2):
        rows += matrix_rows("of_generated", "ours", [names[i]], symmetric_rows(made, i, i + 1))
    rows += matrix_rows("of_references", "truth", references, symmetric_rows(true, 0, 6))
    pq.write_table(pa.Table.from_pylist(rows[::-1], matrix_schema()), tmp_path / "matrix.parquet")
    stored = pq.read_table(tmp_path / "matrix.parquet").to_pylist()
    found = set_distances(names, references, stored)
    assert np.array_equal(found.between, whole)
    np.testing.assert_allclose(found.of_references, distance_rows(true, true), atol=1e-12)
    np.testing.assert_allclose(found.of_generated, distance_rows(made, made), atol=1e-12)
    with pytest.raises(ValueError, match="1 rows of the matrix between are missing, the first of m2"):
        set_distances(names, references, [r for r in stored if (r["part"], r["uid"]) != ("between", "m2")])


def sets(made: list[np.ndarray], true: list[np.ndarray]) -> SetDistances:
    return SetDistances(
        [f"m{i}" for i in range(len(made))],
        [f"t{i}" for i in range(len(true))],
        distance_rows(made, true),
        distance_rows(made, made),
        distance_rows(true, true),
    )


def test_equal_sets_cover_everything_at_no_distance() -> None:
    same = sets(clouds(6), clouds(6)[::-1])
    assert (coverage(same), minimum_matching_distance(same)) == (1.0, 0.0)
    assert one_nn_accuracy(same) == 0.0, "each shape's twin is in the other set"


def test_two_far_clusters_are_told_apart() -> None:
    """Generated shapes all in one cluster: they cover at most its references, 3 of 10."""
    near, far = clouds(3, seed=1), [c + 100 for c in clouds(7, seed=2)]
    collapsed = sets([c + 0.01 for c in clouds(10, seed=3)], near + far)
    assert coverage(collapsed) <= 0.3
    assert minimum_matching_distance(collapsed) > 0.7 * 2 * 3 * 100**2 * 0.9
    disjoint = sets(clouds(5), [c + 100 for c in clouds(5, seed=4)])
    assert one_nn_accuracy(disjoint) == 1.0
    assert coverage(disjoint) < 1


def test_ties_count_half() -> None:
    flat = np.ones((2, 2))
    np.fill_diagonal(flat, 0)
    tied = SetDistances(["a", "b"], ["c", "d"], np.ones((2, 2)), flat, flat)
    assert one_nn_accuracy(tied) == 0.5


def test_one_shape_is_no_set() -> None:
    with pytest.raises(UserError, match="here are 1 generated and 6 reference shapes: give two of each"):
        sets(clouds(1), clouds(6))


def test_points_follow_from_the_object_and_their_role() -> None:
    box = trimesh.creation.box((1.0, 0.6, 0.2))
    first = sample_surface(box, 500, "uid", "truth")
    assert np.array_equal(first.points, sample_surface(box, 500, "uid", "truth").points)
    for other in (("uid", "made", 0), ("other", "truth", 0), ("uid", "truth", 1)):
        assert not np.array_equal(first.points, sample_surface(box, 500, *other).points)
    assert np.allclose(np.abs(first.points / (0.5, 0.3, 0.1)).max(1), 1), "all lie on the surface"
    assert np.abs(unpack_points(pack_points(first.points)) - first.points).max() < 1 / 131_000
    with pytest.raises(ObjectError, match="no area"):
        sample_surface(trimesh.Trimesh([[0, 0, 0]] * 3, [[0, 1, 2]], process=False), 5, "uid", "truth")


def solid(mesh: trimesh.Trimesh) -> Scene:
    """As renderers get it: every triangle has its own vertices, the object lies far from the origin."""
    corners = mesh.vertices[mesh.faces].reshape(-1, 3).astype(np.float32)
    faces = np.arange(len(corners), dtype=np.uint32).reshape(-1, 3)
    primitive = Primitive(corners, np.zeros_like(corners), faces, Material())
    return Scene((primitive,), offset=(100.0, 0.0, 0.0))


def test_a_scene_becomes_one_closed_mesh() -> None:
    mesh = mesh_of(solid(trimesh.creation.icosphere(subdivisions=2)))
    assert mesh.is_watertight
    np.testing.assert_allclose(mesh.bounds.mean(0), (100, 0, 0), atol=1e-5)
    with pytest.raises(ObjectError, match="no triangles"):
        mesh_of(Scene(()))


def test_a_shape_is_its_own_truth_and_samples_have_a_floor() -> None:
    torus = trimesh.creation.torus(0.35, 0.12)
    found = compare_shapes(torus, torus, "uid", SMALL)
    floor = noise_floor(torus, "uid", SMALL)
    assert not found.absent
    assert set(found.values) == set(floor.values)
    for name, value in found.values.items():
        exact = 0.0 if "chamfer" in name else 1.0
        if not name.startswith(("sampled", "visible_sampled")):
            assert value == pytest.approx(exact, abs=1e-6)
            assert floor.values[name] == pytest.approx(exact, abs=1e-6)
    assert found.values["sampled_chamfer_l1_posed"] != floor.values["sampled_chamfer_l1_posed"]
    assert 0.005 < floor.values["sampled_chamfer_l1_posed"] < 0.05, "two samples of one surface are not the same points"


def test_errors_of_size_count_only_as_posed() -> None:
    """A sphere 4 % larger: 0.02 of the truth's diameter all over."""
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.5)
    large = trimesh.creation.icosphere(subdivisions=4, radius=0.52)
    values = compare_shapes(large, ball, "uid", SMALL).values
    assert values["chamfer_l1_unit_box"] == pytest.approx(0, abs=1e-6)
    assert values["chamfer_l1_posed"] == pytest.approx(0.02, rel=0.02)
    assert values["chamfer_l2_posed"] == pytest.approx(2 * 0.02**2, rel=0.04)
    assert values["fscore_0.01_posed"] == 0.0
    assert values["visible_fscore_0.02_posed"] > 0.3
    assert values["volume_iou_posed"] == pytest.approx((0.5 / 0.52) ** 3, abs=0.03)


def test_an_interior_shell_is_not_visible() -> None:
    box, shell = trimesh.creation.box((1, 1, 1)), trimesh.creation.box((0.6, 0.6, 0.6))
    values = compare_shapes(trimesh.util.concatenate([box, shell]), box, "uid", SMALL).values
    assert values["chamfer_l1_unit_box"] > 0.02
    assert values["visible_chamfer_l1_unit_box"] < 1e-6
    assert values["volume_iou_unit_box"] == 1.0, "what lies inside a solid is inside"


def test_only_watertight_truth_has_a_volume_and_turned_faces_show_signed() -> None:
    half, moved = trimesh.creation.box((1, 1, 1)), trimesh.creation.box((1, 1, 1))
    moved.apply_translation((0.5, 0, 0))
    assert compare_shapes(moved, half, "uid", SMALL).values["volume_iou_posed"] == pytest.approx(1 / 3, abs=0.03)
    open_ = trimesh.Trimesh(half.vertices, half.faces[:-1], process=False)
    assert "not watertight" in compare_shapes(half, open_, "uid", SMALL).absent["volume_iou_posed"]
    turned = trimesh.Trimesh(half.vertices, half.faces[:, ::-1], process=False)
    values = compare_shapes(turned, half, "uid", SMALL).values
    assert values["normal_consistency_posed"] == pytest.approx(1)
    assert values["signed_normal_consistency_posed"] == pytest.approx(-1)
    assert inside(turned, np.zeros((1, 3))).all()
