"""Pixel rays in torch: equal to the NumPy geometry, and distances along them."""

import numpy as np
import pytest
import torch
from torch import Tensor

from sar3d.geometry import camera_rays, intrinsics, look_at, project
from sar3d.vqvae.cameras import all_pixels, rays_of, z_depth


def some_cameras() -> tuple[Tensor, np.ndarray, np.ndarray]:
    eyes = np.array([[1.2, -1.0, 0.6], [0.0, 0.0, 1.7], [-1.5, 0.3, -0.4]])
    c2w = look_at(eyes)
    k = np.stack([intrinsics(39.6)] * 3)
    k[1, 0, 1], k[2, 0, 2] = 0.1, 0.4  # skew, and a principal point off the center
    vectors = np.concatenate([c2w.reshape(3, 16), k.reshape(3, 9)], axis=1)
    return torch.from_numpy(vectors).float(), c2w, k


def test_all_rays_equal_the_numpy_rays() -> None:
    cameras, c2w, k = some_cameras()
    origins, directions = camera_rays(c2w, k, 12, 17)
    rays = rays_of(cameras, 12, 17)
    assert rays.directions.shape == (3, 12 * 17, 3)
    np.testing.assert_allclose(rays.origins.numpy(), origins.reshape(3, -1, 3), atol=1e-6)
    np.testing.assert_allclose(rays.directions.numpy(), directions.reshape(3, -1, 3), atol=1e-6)


def test_rays_of_chosen_pixels_are_those_of_the_whole_image() -> None:
    cameras, _, _ = some_cameras()
    whole = rays_of(cameras, 12, 17)
    pixels = torch.tensor([[[0, 16], [11, 0]], [[5, 5], [6, 2]], [[1, 1], [1, 1]]])
    chosen = rays_of(cameras, 12, 17, pixels)
    numbers = pixels[..., 0] * 17 + pixels[..., 1]
    expected = whole.directions.gather(1, numbers[..., None].expand(-1, -1, 3))
    torch.testing.assert_close(chosen.directions, expected, atol=0, rtol=0)
    assert torch.equal(rays_of(cameras, 12, 17, all_pixels(12, 17)).directions, whole.directions)


def test_leading_dimensions_may_be_any() -> None:
    cameras, _, _ = some_cameras()
    batch = torch.stack([cameras, cameras.flip(0)])
    rays = rays_of(batch, 4, 4)
    assert rays.origins.shape == (2, 3, 16, 3)
    torch.testing.assert_close(rays.directions[1, 0], rays_of(cameras[2], 4, 4).directions)


def test_z_depth_is_what_projecting_the_point_gives() -> None:
    cameras, c2w, k = some_cameras()
    rays = rays_of(cameras, 8, 8)
    distance = torch.linspace(0.5, 2.5, 64).expand(3, -1)
    points = rays.origins + distance[..., None] * rays.directions
    _, expected = project(points.numpy(), c2w, k)
    depth = z_depth(distance, rays.directions, cameras)
    np.testing.assert_allclose(depth.numpy(), expected, atol=1e-5)
    assert (depth < distance).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_touch_rays(dtype: torch.dtype) -> None:
    cameras, _, _ = some_cameras()
    exact = rays_of(cameras, 8, 8)
    with torch.autocast("cpu", dtype):
        rays = rays_of(cameras, 8, 8)
        depth = z_depth(torch.ones(3, 64), rays.directions, cameras)
    assert torch.equal(rays.directions, exact.directions)
    assert depth.dtype == torch.float32
    assert torch.equal(depth, z_depth(torch.ones(3, 64), exact.directions, cameras))
