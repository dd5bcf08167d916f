"""What spares the fast renderer work must not change what it draws: the sorted triangles and the tight rectangle."""

import numpy as np
import pytest
import trimesh

from sar3d.geometry import intrinsics, look_at, spherical_to_cartesian
from sar3d.meshes.scene import Material, Primitive, Scene
from sar3d.render import RenderSettings, make_renderer
from sar3d.render.packing import ORDERS, centroids, near_to_far, nearest_order, pack
from sar3d.render.sampling import covered_by_points, covered_rect

LENS = intrinsics(39.6)


def ball(color: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)) -> Primitive:
    shape = trimesh.creation.icosphere(subdivisions=2, radius=0.45)
    vertices = np.asarray(shape.vertices, np.float32)
    return Primitive(vertices, vertices / np.float32(0.45), np.asarray(shape.faces, np.uint32), Material(color))


def test_every_order_has_all_triangles_from_the_nearest_to_the_farthest() -> None:
    batch = pack(Scene((ball(),)))[0]
    where = {tuple(face): depth for face, depth in zip(batch.faces.tolist(), centroids(batch), strict=True)}
    orders = near_to_far(batch)
    assert orders.shape == (len(ORDERS), len(batch.faces), 3)
    for direction, faces in zip(ORDERS, orders.tolist(), strict=True):
        assert sorted(map(tuple, faces)) == sorted(where)
        assert np.all(np.diff([where[tuple(face)] @ direction for face in faces]) >= 0)


@pytest.mark.parametrize(("azimuth", "elevation"), [(0, 0), (95, 10), (180, -20), (260, 5), (30, 88), (30, -88)])
def test_the_order_of_a_view_puts_the_side_towards_the_camera_first(azimuth: float, elevation: float) -> None:
    c2w = look_at(spherical_to_cartesian(2.0, elevation, azimuth))
    batch = pack(Scene((ball(),)))[0]
    faces = near_to_far(batch)[nearest_order(c2w[:3, 2])]
    ahead = (batch.vertices[:, :3][faces].mean(axis=1) - c2w[:3, 3]) @ c2w[:3, 2]
    assert np.mean(ahead[: len(ahead) // 2]) < np.mean(ahead[len(ahead) // 2 :]) - 0.2


def test_of_equal_triangles_the_first_is_seen_from_every_side() -> None:
    renderer = make_renderer("moderngl")
    cameras = np.stack([look_at(-2.0 * direction + 0.01) for direction in ORDERS])
    scene = Scene((ball((1.0, 0.0, 0.0, 1.0)), ball((0.0, 0.0, 1.0, 1.0))))
    frames = renderer.render(scene, cameras, np.tile(LENS, (len(cameras), 1, 1)), RenderSettings(64, lit=False))
    renderer.close()
    assert np.all(frames.rgb[:, 32, 32] == (255, 0, 0))
    assert np.all(frames.rgb[..., 0] == 255)


def test_the_rectangle_of_the_points_holds_them_all_and_lies_in_that_of_their_box() -> None:
    positions = ball().positions * np.array([1.0, 0.4, 0.2], np.float32)
    points = np.stack([*positions.T, np.ones(len(positions), np.float32)])
    bounds = np.stack([positions.min(axis=0), positions.max(axis=0)]).astype(np.float64)
    for azimuth in range(0, 360, 30):
        c2w = look_at(spherical_to_cartesian(1.9, 35.0, azimuth))
        top, left, bottom, right = covered_by_points(points, c2w, LENS, 256)
        image = ((positions - c2w[:3, 3]) @ c2w[:3, :3]) @ LENS.T
        column, row = (image[:, :2] / image[:, 2:] * 256).T
        assert left < column.min()
        assert column.max() < right
        assert top < row.min()
        assert row.max() < bottom
        outer = np.array(covered_rect(bounds, c2w, LENS, 256))
        assert np.all(outer[:2] <= (top, left))
        assert np.all(outer[2:] >= (bottom, right))
    inside = look_at((0.01, 0.0, 0.0))
    assert covered_by_points(points, inside, LENS, 256) == (0, 0, 256, 256)
