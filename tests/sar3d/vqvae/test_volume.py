"""The volume renderer: the recorded renderings, known integrals, chunks, normals, and empty space skipped."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sar3d.vqvae.cameras import rays_of
from sar3d.vqvae.config import FieldConfig, VolumeConfig
from sar3d.vqvae.field import FieldMLP, FieldSample, TriplaneField
from sar3d.vqvae.marching import ask, look
from sar3d.vqvae.occupancy import occupancy_of
from sar3d.vqvae.rays import importance, march_span, stratified, weights_of
from sar3d.vqvae.volume import (
    RayNoise,
    Rays,
    Rendering,
    published_depth,
    published_image,
    published_mask,
    render,
)


@dataclass
class Ball:
    """A ball of one density per object, colored by position; counts what it is asked."""

    radius: Tensor
    strength: float = 40.0
    center: tuple[float, float, float] = (0.05, 0.0, -0.04)
    side: float = 0.9
    asked: list[Tensor] = field(default_factory=list)

    def query(self, points: Tensor) -> FieldSample:
        self.asked.append(points)
        distance = (points - torch.tensor(self.center)).norm(dim=-1, keepdim=True)
        raw = (self.radius[:, None, None] - distance) * 300
        return FieldSample(rgb=0.5 + 0.4 * torch.sin(20 * points), raw=raw.clamp(-40, 20))

    def density(self, raw: Tensor) -> Tensor:
        return self.strength * torch.nn.functional.softplus(raw)

    def density_gradient(self, points: Tensor) -> Tensor:
        offset = points - torch.tensor(self.center)
        return -300 * self.strength * offset / offset.norm(dim=-1, keepdim=True).clamp(min=1e-6)


def parallel_rays(side: int, objects: int = 1) -> Rays:
    """Along +x, over the whole face of the cube and a little more."""
    ticks = torch.linspace(-0.5, 0.5, side)
    place = torch.cartesian_prod(ticks, ticks)
    origins = torch.cat([torch.full((len(place), 1), -1.5), place], dim=-1).expand(objects, -1, -1)
    return Rays(origins=origins, directions=torch.tensor([1.0, 0.0, 0.0]).expand_as(origins))


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * (a - b).square().mean().log10())


Golden = dict[str, Tensor]


def golden_file(path: Path) -> Golden:
    with np.load(path) as file:
        return {k: torch.from_numpy(file[k]) for k in file.files}


@pytest.fixture(scope="module")
def recorded(shared: Path) -> tuple[TriplaneField, Golden]:
    prefix = "decoder.triplane_decoder.decoder."
    weights = load_file(shared / "goldens/tiny_vqvae.safetensors")
    mlp = FieldMLP(96, FieldConfig()).requires_grad_(False)
    mlp.load_state_dict({k.removeprefix(prefix): v.float() for k, v in weights.items() if k.startswith(prefix)})
    golden = golden_file(shared / "goldens/render_12_noise.npz")
    return TriplaneField(golden["planes"].float().unflatten(1, (3, 32)), mlp, FieldConfig()), golden


def assert_published(found: Rendering, golden: Golden) -> None:
    image = golden["image"].flatten(2).transpose(1, 2)
    torch.testing.assert_close(published_image(found), image, atol=1e-4, rtol=0)
    torch.testing.assert_close(published_depth(found), golden["depth"].flatten(1), atol=1e-4, rtol=0)
    torch.testing.assert_close(published_mask(found), golden["mask"].flatten(1), atol=1e-4, rtol=0)
    assert 0.1 < found.opacity.mean() < 0.9


def test_the_recorded_picture_without_noise(recorded: tuple[TriplaneField, Golden], shared: Path) -> None:
    golden = golden_file(shared / "goldens/render_64_mid_cam0.npz")
    rays = rays_of(golden["c"][None], 64, 64)
    found = render(recorded[0], rays, VolumeConfig(64, 64), missing_rays="published")
    assert_published(found, golden)
    torch.testing.assert_close(found.opacity, golden["weights_sum"].flatten(1), atol=1e-4, rtol=0)


def test_the_recorded_picture_with_noise(recorded: tuple[TriplaneField, Golden]) -> None:
    triplane, golden = recorded
    # The recording's importance noise is a copy of its stratified noise. The numbers that were used follow the
    # stratified ones in the generator, which the recorded sample places confirm.
    generator = torch.Generator().manual_seed(3)
    first = torch.rand(1, 144, 16, generator=generator)
    assert torch.equal(first, golden["noise_stratified"][..., 0])
    noise = RayNoise(stratified=first, importance=torch.rand(144, 16, generator=generator)[None])
    rays = Rays(golden["ray_o"], golden["ray_d"])
    assert_published(render(triplane, rays, VolumeConfig(16, 16), noise=noise, missing_rays="published"), golden)

    near, far = march_span(rays, 0.9, "published")
    hit = (golden["box_near"] < golden["box_far"])[..., 0]
    assert torch.equal(near[hit], golden["box_near"][hit][:, 0])
    assert torch.equal(far[hit], golden["box_far"][hit][:, 0])
    coarse = look(triplane, rays, stratified(near, far, 16, noise.stratified), False)
    weights = weights_of(coarse.raw, coarse.distances, triplane)
    drawn = importance(coarse.distances, weights, 16, noise.importance)
    places = torch.cat([coarse.distances, drawn], -1).sort(-1).values
    expected = ((golden["all_coords"] - golden["ray_o"][:, :, None]) * golden["ray_d"][:, :, None]).sum(-1)
    torch.testing.assert_close(places, expected, atol=1e-5, rtol=0)
    both = look(triplane, rays, places, False)
    torch.testing.assert_close(weights_of(both.raw, places, triplane), golden["weights"][..., 0], atol=1e-5, rtol=0)


def test_published_treatment_of_missing_rays_marches_them_between_the_entries_of_the_others() -> None:
    rays = parallel_rays(9)
    tilted = Rays(rays.origins + torch.arange(81)[None, :, None] * torch.tensor([1e-3, 0, 0]), rays.directions)
    near, far = march_span(tilted, 0.9, "published")
    missed = (rays.origins[..., 1:].abs() > 0.45).any(-1)
    assert missed.sum() == 81 - 49
    assert (near[missed] == near[~missed].min()).all()
    assert (far[missed] == near[~missed].max()).all()
    near, far = march_span(tilted, 0.9, "skip")
    assert (far[missed] == near[missed]).all()
    nothing = render(Ball(torch.tensor([0.6])), tilted, VolumeConfig(16, 8))
    assert (nothing.rgb[missed] == 1).all()
    assert nothing.opacity[missed].abs().max() == 0
    assert nothing.depth[missed].abs().max() == 0


def test_rays_that_all_miss_are_white_in_both_treatments() -> None:
    away = Rays(torch.tensor([[[2.0, 2.0, 2.0]]]), torch.tensor([[[1.0, 0.0, 0.0]]]))
    for treatment in ("skip", "published"):
        found = render(Ball(torch.tensor([0.3])), away, VolumeConfig(8, 8), missing_rays=treatment)
        assert (found.rgb == 1).all()
        assert found.opacity.abs().max() == 0


def test_rays_from_within_the_cube_and_rays_in_its_faces_are_finite() -> None:
    origins = torch.tensor([[[0.0, 0.0, 0.0], [-1.0, 0.45, 0.0], [-1.0, -0.45, 0.45]]])
    rays = Rays(origins, torch.tensor([1.0, 0.0, 0.0]).expand_as(origins))
    near, far = march_span(rays, 0.9, "skip")
    torch.testing.assert_close(near, torch.tensor([[0.0, 0.55, 0.55]]))
    torch.testing.assert_close(far, torch.tensor([[0.45, 1.45, 1.45]]))


def test_a_homogeneous_medium_dims_and_is_seen_as_the_integral_says() -> None:
    @dataclass
    class Fog:
        side: float = 0.9

        def query(self, points: Tensor) -> FieldSample:
            return FieldSample(rgb=torch.full_like(points, 0.25), raw=torch.ones_like(points[..., :1]))

        def density(self, raw: Tensor) -> Tensor:
            return 3.0 * raw

    rays = Rays(torch.tensor([[[-1.5, 0.1, 0.2]]]), torch.tensor([[[1.0, 0.0, 0.0]]]))
    found = render(Fog(), rays, VolumeConfig(2000, 0))
    opacity = 1 - np.exp(-3.0 * 0.9)
    assert float(found.opacity) == pytest.approx(opacity, abs=1e-3)
    assert found.rgb[0, 0].tolist() == pytest.approx([1 - 0.75 * opacity] * 3, abs=1e-3)
    mean = 1.05 + 1 / 3 - 0.9 * np.exp(-2.7) / opacity  # of an exponential that ends after 0.9
    assert float(found.depth / found.opacity) == pytest.approx(mean, abs=1e-3)


def test_weights_equal_the_published_running_product() -> None:
    generator = torch.Generator().manual_seed(1)
    distances = torch.rand(2, 50, 40, generator=generator).sort(-1).values
    raw = torch.randn(2, 50, 40, generator=generator) * 20
    ball = Ball(torch.tensor([0.3, 0.3]), strength=2.0)
    alpha = 1 - torch.exp(-ball.density((raw[..., 1:] + raw[..., :-1]) / 2) * distances.diff(dim=-1))
    transmittance = torch.cat([torch.ones(2, 50, 1), 1 - alpha + 1e-10], -1).cumprod(-1)[..., :-1]
    expected = alpha * transmittance
    assert expected.max() > 0.5
    torch.testing.assert_close(weights_of(raw, distances, ball), expected, atol=1e-5, rtol=0)


def test_importance_samples_lie_on_the_surface_and_in_order_without_noise() -> None:
    rays = Rays(torch.tensor([[[-1.5, 0.0, -0.04]]]), torch.tensor([[[1.0, 0.0, 0.0]]]))
    ball = Ball(torch.tensor([0.2]))
    coarse = look(ball, rays, stratified(*march_span(rays, 0.9, "skip"), 33, None), False)
    drawn = importance(coarse.distances, weights_of(coarse.raw, coarse.distances, ball), 64, None)
    assert (drawn.diff(dim=-1) >= -1e-6).all()
    assert ((drawn - 1.35).abs() < 0.06).float().mean() > 0.5
    assert ((drawn - 1.35).abs() > 0.2).any()


def test_chunks_change_neither_picture_nor_gradients() -> None:
    torch.manual_seed(0)
    planes = torch.randn(2, 3, 4, 8, 8, requires_grad=True)
    config = FieldConfig(hidden=16, hidden_layers=2, density_scale=10.0)
    mlp = FieldMLP(12, config)
    rays = parallel_rays(7, objects=2)
    results = []
    for chunk in (None, 10, 49):
        generator = torch.Generator().manual_seed(2)
        triplane = TriplaneField(planes, mlp, config)
        found = render(triplane, rays, VolumeConfig(12, 6), generator=generator, chunk=chunk, normals=True)
        assert found.normal is not None
        loss = found.rgb.square().sum() + found.depth.sum() + found.normal[..., 0].sum()
        results.append((found.rgb, *torch.autograd.grad(loss, [planes, *mlp.parameters()])))
    assert results[0][1].abs().max() > 1e-3
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_the_generator_decides_the_jitter() -> None:
    ball, rays = Ball(torch.tensor([0.3])), parallel_rays(6)

    def picture(seed: int | None) -> Tensor:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return render(ball, rays, VolumeConfig(16, 8), generator=generator).rgb

    assert torch.equal(picture(1), picture(1))
    assert not torch.equal(picture(1), picture(2))
    assert torch.equal(picture(None), picture(None))


def test_normals_point_out_of_the_surface() -> None:
    ball, rays = Ball(torch.tensor([0.3])), parallel_rays(21)
    found = render(ball, rays, VolumeConfig(64, 64), normals=True)
    assert found.normal is not None
    solid = found.opacity > 0.99
    assert solid.sum() > 50
    surface = rays.origins + found.depth[..., None] * rays.directions
    outward = torch.nn.functional.normalize(surface - torch.tensor(ball.center), dim=-1)
    assert (found.normal[solid] * outward[solid]).sum(-1).min() > 0.97
    assert (found.normal[found.opacity == 0] == 0).all()


def test_normals_are_supervision_for_the_planes() -> None:
    torch.manual_seed(1)
    planes = torch.randn(1, 3, 4, 8, 8, requires_grad=True)
    config = FieldConfig(hidden=16, hidden_layers=2, density_scale=10.0)
    mlp = FieldMLP(12, config)
    rays = parallel_rays(5)
    optimizer = torch.optim.Adam([planes, *mlp.parameters()], lr=0.02)
    wanted = torch.tensor([0.0, 0.6, 0.8])
    losses = []
    for _ in range(15):
        found = render(TriplaneField(planes, mlp, config), rays, VolumeConfig(16, 0), normals=True)
        assert found.normal is not None
        loss = (found.normal - wanted * found.opacity.detach()[..., None]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_under_autocast_compositing_stays_float32() -> None:
    torch.manual_seed(0)
    config = FieldConfig(hidden=16, hidden_layers=2, density_scale=10.0)
    mlp = FieldMLP(12, config).requires_grad_(False)
    planes, rays = torch.randn(1, 3, 4, 8, 8), parallel_rays(7)
    exact = render(TriplaneField(planes, mlp, config), rays, VolumeConfig(16, 8))
    with torch.autocast("cpu", torch.bfloat16):
        found = render(TriplaneField(planes, mlp, config), rays, VolumeConfig(16, 8))
    for name in ("rgb", "opacity", "depth", "first", "last"):
        assert getattr(found, name).dtype == torch.float32
    assert torch.equal(found.last, exact.last) or (found.last - exact.last).abs().max() < 0.05
    assert (found.rgb - exact.rgb).abs().max() < 0.05


@torch.no_grad()
def test_skipping_empty_space_shows_the_same_and_asks_far_less() -> None:
    rays = parallel_rays(40, objects=2)
    radius = torch.tensor([0.15, 0.3])
    occupancy = occupancy_of(Ball(radius), objects=2, resolution=64)
    plain, skipping = Ball(radius), Ball(radius)
    expected = render(plain, rays, VolumeConfig(40, 40), normals=True)
    found = render(skipping, rays, VolumeConfig(40, 40), normals=True, occupancy=occupancy)
    assert psnr(found.rgb, expected.rgb) > 55
    torch.testing.assert_close(found.opacity, expected.opacity, atol=5e-3, rtol=0)
    torch.testing.assert_close(found.depth, expected.depth, atol=1e-2, rtol=0)
    assert found.normal is not None
    assert expected.normal is not None
    torch.testing.assert_close(found.normal, expected.normal, atol=1e-2, rtol=0)
    asked, all_of_it = (sum(p.shape[:2].numel() for p in ball.asked) for ball in (skipping, plain))
    assert asked < all_of_it / 4


@torch.no_grad()
def test_nothing_behind_an_opaque_surface_is_asked() -> None:
    ball, rays = Ball(torch.tensor([0.3]), strength=200.0), parallel_rays(12)
    render(ball, rays, VolumeConfig(64, 64), occupancy=occupancy_of(Ball(torch.tensor([0.3])), resolution=64))
    deep = torch.cat([p[0] for p in ball.asked])
    deep = deep[(deep[:, 1:].norm(dim=-1) < 0.1)]
    assert len(deep) > 100
    assert deep[:, 0].max() < 0.0  # the ball's surface lies at -0.25, its far side at +0.35


@torch.no_grad()
def test_skipping_uses_the_same_random_samples_and_any_chunk() -> None:
    rays = parallel_rays(20)
    ball = Ball(torch.tensor([0.3]))
    occupancy = occupancy_of(ball, resolution=64)
    pictures = [
        render(
            ball,
            rays,
            VolumeConfig(16, 8),
            generator=torch.Generator().manual_seed(4),
            occupancy=grid,
            chunk=chunk,
        ).rgb
        for grid, chunk in ((None, None), (occupancy, None), (occupancy, 33))
    ]
    assert psnr(pictures[0], pictures[1]) > 45
    torch.testing.assert_close(pictures[1], pictures[2])
    other = render(ball, rays, VolumeConfig(16, 8), generator=torch.Generator().manual_seed(5)).rgb
    assert psnr(pictures[0], pictures[1]) > psnr(pictures[0], other) + 10


@torch.no_grad()
def test_skipping_works_without_an_importance_pass_and_on_an_empty_field() -> None:
    rays = parallel_rays(20)
    ball = Ball(torch.tensor([0.3]))
    occupancy = occupancy_of(ball, resolution=64)
    plain = render(ball, rays, VolumeConfig(64, 0))
    assert psnr(plain.rgb, render(ball, rays, VolumeConfig(64, 0), occupancy=occupancy).rgb) > 55
    nothing = Ball(torch.tensor([-1.0]))
    found = render(nothing, rays, VolumeConfig(16, 16), occupancy=occupancy_of(nothing, resolution=16), normals=True)
    assert (found.rgb == 1).all()
    assert found.opacity.abs().max() == 0
    assert found.normal is not None
    assert found.normal.shape == (1, 400, 3)


@torch.no_grad()
def test_occupied_cells_are_the_object_and_its_neighborhood() -> None:
    ball = Ball(torch.tensor([0.1, 0.3]))
    grid = occupancy_of(ball, objects=2, resolution=32)
    middles = ((torch.arange(32) + 0.5) / 32 - 0.5) * 0.9
    where = torch.stack(torch.meshgrid(middles, middles, middles, indexing="ij"), dim=-1)
    distance = (where - torch.tensor(ball.center)).norm(dim=-1)
    for radius, occupied in zip((0.1, 0.3), grid.occupied, strict=True):
        assert occupied[distance < radius].all()
        assert not occupied[distance > radius + 0.15].any()
    assert ((grid.low[0] > -0.2) & (grid.high[0] < 0.25)).all()
    known = grid.at(torch.tensor([0]), torch.tensor([[[0.4, 0.4, 0.4], [0.05, 0.0, -0.04], [9.0, 0.0, 0.0]]]))
    raw, _ = ask(ball, torch.tensor([[[0.4, 0.4, 0.4]]]), False)
    assert float(known[0, 0]) == pytest.approx(float(raw[0, 0]), abs=10)
    assert known[0, 1].isinf()
    assert known[0, 2] < -1e37


def test_an_occupancy_cannot_be_used_with_gradients() -> None:
    ball = Ball(torch.tensor([0.3]))
    with pytest.raises(ValueError, match="without gradients"):
        render(ball, parallel_rays(3), VolumeConfig(8, 0), occupancy=occupancy_of(ball, resolution=8))
