"""Camera conventions: what stands where in an image, and that rays, projection and depth agree."""

import numpy as np
import pytest
from unprojection import back_project, cartesian_to_spherical

from sar3d.geometry import (
    camera_rays,
    intrinsics,
    look_at,
    project,
    spherical_to_cartesian,
)

K = intrinsics(39.6)


def test_published_field_of_view_gives_the_published_focal_length() -> None:
    assert K[0, 0] == K[1, 1] == pytest.approx(1422.222 / 1024, rel=1e-4)
    assert K[:, 2].tolist() == [0.5, 0.5, 1.0]


@pytest.mark.parametrize("fov", [0, -1, 180, float("nan")])
def test_impossible_fields_of_view_are_refused(fov: float) -> None:
    with pytest.raises(ValueError, match="field of view"):
        intrinsics(fov)


def test_a_camera_in_front_sees_x_on_the_right_and_z_on_top() -> None:
    c2w = look_at([0.0, -2.0, 0.0])
    image, depth = project([[0.1, 0, 0], [0, 0, 0.1], [0, 0.5, 0]], c2w, K)
    assert image[0, 0] > 0.5
    assert image[0, 1] == pytest.approx(0.5)
    assert image[1, 1] < 0.5
    assert image[1, 0] == pytest.approx(0.5)
    assert depth.tolist() == pytest.approx([2.0, 2.0, 2.5])


@pytest.mark.parametrize(("height", "image_top"), [(2.0, [0, 1, 0]), (-2.0, [0, -1, 0])])
def test_the_poles_are_the_limit_of_tilting_a_camera_in_front(height: float, image_top: list[float]) -> None:
    pole = look_at([0, 0, height])
    assert np.allclose(-pole[:3, 1], image_top)
    assert np.allclose(pole[:3, 0], [1, 0, 0])
    nearly = look_at(spherical_to_cartesian(2.0, np.sign(height) * 89.999, -90.0))
    assert np.allclose(pole, nearly, atol=1e-4)


def test_poses_are_rigid_motions_that_look_at_their_target() -> None:
    rng = np.random.default_rng(0)
    eyes = np.concatenate([rng.normal(size=(50, 3)), [[0, 0, 1], [0, 0, -1], [1e-13, 0, 1]]])
    target = np.array([0.1, 0.2, 0.0]) * np.linspace(0, 1, 53)[:, None]
    c2w = look_at(eyes, target)
    rotation = c2w[:, :3, :3]
    assert np.allclose(rotation @ rotation.transpose(0, 2, 1), np.eye(3), atol=1e-12)
    assert np.allclose(np.linalg.det(rotation), 1)
    image, depth = project(target[:, None], c2w, K)
    assert np.allclose(image, 0.5)
    assert np.allclose(depth[:, 0], np.linalg.norm(eyes - target, axis=1))


def test_an_eye_on_its_target_is_refused() -> None:
    with pytest.raises(ValueError, match="coincide"):
        look_at([[1, 0, 0], [0, 0, 0]])


def test_a_point_on_a_ray_projects_to_that_pixel_center() -> None:
    c2w = look_at([1.0, -1.5, 0.7])
    origins, directions = camera_rays(c2w, K, 4, 6)
    assert np.allclose(np.linalg.norm(directions, axis=-1), 1)
    image, _ = project((origins + 1.7 * directions).reshape(-1, 3), c2w, K)
    expected = [((j + 0.5) / 6, (i + 0.5) / 4) for i in range(4) for j in range(6)]
    assert np.allclose(image, expected)


def test_rays_differ_per_camera_and_broadcast_over_leading_axes() -> None:
    c2w = look_at(spherical_to_cartesian(2.0, [[0, 10, 20], [30, 40, 90]], 30.0))
    origins, directions = camera_rays(c2w, K, 3, 5)
    assert origins.shape == directions.shape == (2, 3, 3, 5, 3)
    one_origin, one_direction = camera_rays(c2w[1, 2], K, 3, 5)
    assert np.allclose(origins[1, 2], one_origin)
    assert np.allclose(directions[1, 2], one_direction)


def test_depth_images_return_to_the_points_that_made_them() -> None:
    rng = np.random.default_rng(1)
    c2w = look_at(rng.normal(size=(3, 3)) * 2)
    depth = rng.uniform(0.5, 3.0, (3, 8, 10))
    points = back_project(depth, c2w, K)
    image, again = project(points.reshape(3, 80, 3), c2w, K)
    assert np.allclose(again.reshape(depth.shape), depth)
    assert np.allclose(image.reshape(3, 8, 10, 2)[:, 2, 7], [7.5 / 10, 2.5 / 8])


def test_depth_runs_along_the_axis_and_not_along_the_ray() -> None:
    c2w = look_at([0.0, -2.0, 0.0])
    plane = back_project(np.full((5, 5), 2.0), c2w, K)
    assert np.allclose(plane[..., 1], 0)


def test_spherical_coordinates_invert() -> None:
    points = np.random.default_rng(2).normal(size=(20, 3))
    assert np.allclose(spherical_to_cartesian(*cartesian_to_spherical(points).T), points)
    assert np.allclose(spherical_to_cartesian(2.0, 0.0, 90.0), [0, 2, 0])
    assert np.allclose(spherical_to_cartesian(2.0, 90.0, 12.0), [0, 0, 2])
