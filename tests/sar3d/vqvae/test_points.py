"""The point encoder: pixels are laid where their depth says they lie, whatever the cameras and the order of the views."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from sar3d.errors import UserError
from sar3d.vqvae import VQVAE
from sar3d.vqvae.cameras import rays_of, z_depth
from sar3d.vqvae.config import (
    DecoderConfig,
    EncoderConfig,
    FieldConfig,
    QuantizerConfig,
    VQVAEConfig,
    from_dict,
    to_dict,
)
from sar3d.vqvae.points import PointEncoder, Points, _CellMeans, camera_axes, cells_of, seen_points, surface

ENCODER = EncoderConfig(kind="points", channels=16, multipliers=(1, 2), blocks=1, attention_width=16, attention_heads=2)
CONFIG = VQVAEConfig(
    resolution=32,
    encoder=ENCODER,
    quantizer=QuantizerConfig(codebook_size=32, code_dim=4, scales=(1, 2, 4), latent_norm="rms"),
    decoder=DecoderConfig(width=16, depth=1, heads=2, channels=8, multipliers=(1, 1), blocks=1, plane_channels=8),
    field=FieldConfig(hidden=16),
)


RADIUS, CENTER = 0.3, torch.tensor([0.08, -0.05, 0.02])


def views(objects: int = 2) -> Tensor:
    """Encoder input of six views of each of some balls, which differ in color."""
    cameras = []
    for azimuth, elevation in zip(torch.arange(6) * math.pi / 3, torch.tensor([0.4, -0.2] * 3), strict=True):
        back = torch.stack([azimuth.cos() * elevation.cos(), azimuth.sin() * elevation.cos(), elevation.sin()])
        right = torch.stack([-azimuth.sin(), azimuth.cos(), torch.zeros(())])
        pose = torch.eye(4)
        pose[:3] = torch.stack([right, torch.linalg.cross(right, back), -back, 1.8 * back], -1)
        cameras.append(torch.cat([pose.flatten(), torch.tensor([1.4, 0, 0.5, 0, 1.4, 0.5, 0, 0, 1])]))
    camera = torch.stack(cameras)
    rays = rays_of(camera, 32, 32)
    towards = CENTER - rays.origins
    along = (towards * rays.directions).sum(-1)
    gap = along.square() - towards.square().sum(-1) + RADIUS**2
    depth = torch.where(gap > 0, z_depth(along - gap.clamp_min(0).sqrt(), rays.directions, camera), 0.0)
    moment = torch.linalg.cross(rays.origins, rays.directions)
    geometry = torch.cat([moment, rays.directions, depth[..., None]], -1).mT.unflatten(-1, (32, 32))
    colors = torch.rand(objects, 1, 3, 1, 1, generator=torch.Generator().manual_seed(0)).expand(-1, 6, -1, 32, 32)
    return torch.cat([colors, geometry.expand(objects, -1, -1, -1, -1)], 2)


def test_points_lie_on_the_surface_that_was_drawn() -> None:
    points = seen_points(views(1), 2)
    assert len(points.place) > 100
    radius = (points.place - CENTER).norm(dim=-1)
    torch.testing.assert_close(radius, torch.full_like(radius, RADIUS), atol=1e-4, rtol=0)


def test_cameras_are_found_from_their_rays_also_off_center() -> None:
    angle = torch.tensor(0.7)
    pose = torch.eye(4)
    pose[:3, :3] = torch.linalg.matrix_exp(torch.tensor([[0, -1.0, 0.3], [1.0, 0, -0.5], [-0.3, 0.5, 0]]) * angle)
    pose[:3, 3] = torch.tensor([0.4, -1.2, 1.9])
    lens = torch.tensor([[1.3, 0.05, 0.62], [0, 1.1, 0.41], [0, 0, 1]])
    camera = torch.cat([pose.flatten(), lens.flatten()])[None]
    rays = rays_of(camera, 12, 16)
    direction = rays.directions.mT.unflatten(-1, (12, 16))
    moment = torch.linalg.cross(rays.origins, rays.directions).mT.unflatten(-1, (12, 16))
    torch.testing.assert_close(camera_axes(direction), pose[None, :3, 2], atol=1e-5, rtol=0)
    depth = torch.rand(1, 1, 12, 16) + 1
    found = surface(torch.cat([torch.zeros(1, 3, 12, 16), moment, direction, depth], 1))
    distance = depth.flatten(1)[..., None] / (rays.directions @ pose[:3, 2])[..., None]
    torch.testing.assert_close(found.flatten(2).mT, rays.origins + distance * rays.directions, atol=1e-4, rtol=0)


def test_each_plane_is_filled_along_its_own_axes() -> None:
    place = torch.tensor([[0.1, -0.2, 0.4], [9.0, -9.0, 0.0]])
    points = Points(place, place, place, place[:, :1], torch.tensor([0, 1]))
    grid, side = 8, 1.0
    x, y, z = (math.floor((v / side + 0.5) * grid) for v in (0.1, -0.2, 0.4))
    expected = [y * grid + x, grid**2 + z * grid + y, 2 * grid**2 + x * grid + z]
    assert cells_of(points, grid, side)[0].tolist() == expected
    outside = cells_of(points, grid, side)[1] - 3 * grid**2
    assert outside.tolist() == [7, grid**2 + 4 * grid, 2 * grid**2 + 7 * grid + 4]


def test_means_of_cells_and_their_gradients() -> None:
    features = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    cells = torch.tensor([[0, 4, 7], [0, 5, 7], [1, 5, 7], [0, 4, 8], [2, 5, 6]])
    means, count = _CellMeans.apply(features, cells, 9)
    assert count.tolist() == [3, 1, 1, 0, 2, 3, 1, 3, 1]
    torch.testing.assert_close(means[0], features[[0, 1, 3]].mean(0))
    assert not means[3].any()
    assert torch.autograd.gradcheck(lambda f: _CellMeans.apply(f, cells, 9)[0], (features,))


@torch.no_grad()
def test_the_order_of_the_views_does_not_matter_and_objects_do_not_mix() -> None:
    torch.manual_seed(0)
    encoder, x = PointEncoder(ENCODER, 4, 4, 0.9), views()
    whole = encoder(x)
    assert whole.shape == (6, 4, 4, 4)
    torch.testing.assert_close(encoder(x[:, [3, 1, 5, 0, 2, 4]]), whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(encoder(x[1:]), whole[3:], atol=1e-5, rtol=1e-5)
    empty = x.clone()
    empty[:, :, 9] = 0
    assert encoder(empty).isfinite().all()


def test_every_parameter_learns_and_the_configuration_keeps_the_encoder() -> None:
    torch.manual_seed(0)
    model = VQVAE(from_dict(to_dict(CONFIG)))
    assert isinstance(model.encoder, PointEncoder)
    f = model.latent(views())
    (f * torch.randn_like(f)).sum().backward()
    silent = [name for name, p in model.encoder.named_parameters() if p.grad is None or not p.grad.any()]
    # A projection that starts at zero hides what lies before it at the first step.
    assert all("mid_attention" in name for name in silent)


def test_bf16_reaches_no_coordinate() -> None:
    torch.manual_seed(0)
    encoder, x = PointEncoder(ENCODER, 4, 4, 0.9).eval(), views(1)
    with torch.no_grad():
        exact = encoder.planes(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = encoder.planes(x)
    assert torch.equal(exact[:, -1], rounded[:, -1])
    torch.testing.assert_close(exact, rounded, atol=0.05, rtol=0.05)


def test_a_stride_that_does_not_divide_the_views_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"encoder\.point_stride=3 does not divide them"):
        dataclasses.replace(CONFIG, encoder=dataclasses.replace(ENCODER, point_stride=3))
