"""The training losses of the VQVAE."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from losses import LOSS_PRESETS
from torch import Tensor

from sar3d.errors import UserError
from sar3d.metrics.lpips import LaplacianPyramid
from sar3d.tasks.vqvae.config import LossConfig
from sar3d.tasks.vqvae.losses import (
    Pixels,
    adversarial_weight,
    depth_loss,
    normal_loss,
    ray_pixels,
    reconstruction_losses,
    scale_and_shift,
    scale_shift_loss,
)

Kind = Literal["ssi", "l1"]

NOTHING = LossConfig(rgb_l1=0, lpips=0, depth=0, mask=0, adversarial=0)


def pixels(seed: int, *shape: int) -> Pixels:
    generator = torch.Generator().manual_seed(seed)

    def random(*size: int) -> Tensor:
        return torch.rand(size, generator=generator)

    count, *rest = shape
    return Pixels(
        rgb=random(count, 3, *rest),
        alpha=random(*shape),
        depth=random(*shape) + 1,
        normal=torch.nn.functional.normalize(random(count, 3, *rest) - 0.5, dim=1),
        cosine=0.7 + 0.3 * random(*shape),
    )


def wall(most: float = 0.8, least: float = 0.3) -> tuple[Pixels, Pixels]:
    """A tilted wall behind a disc-shaped mask, seen by wide-angled rays whose opacity runs from `least` to `most`."""
    v, u = torch.meshgrid(torch.linspace(-1, 1, 24), torch.linspace(-1, 1, 24), indexing="ij")
    z = (1.5 + 0.2 * u - 0.1 * v)[None]
    cosine = (1 / (1 + u**2 + v**2).sqrt())[None]
    opacity = (least + (most - least) * (u + 1) / 2)[None]
    mask = ((u**2 + v**2) < 0.8).float()[None]
    target = Pixels(rgb=torch.ones(1, 3, 24, 24), alpha=mask, depth=z * mask)
    rendered = Pixels(rgb=torch.ones(1, 3, 24, 24), alpha=opacity, depth=opacity * z / cosine, cosine=cosine)
    return rendered, target


def test_depth_loss_agrees_with_the_recording(shared: Path) -> None:
    recorded = np.load(shared / "goldens" / "loss_depth_ssi.npz")
    prediction, target, mask = (torch.from_numpy(recorded[k].astype(np.float32)) for k in ("pred", "gt", "mask"))
    scale, shift = scale_and_shift(prediction, target, mask)
    np.testing.assert_allclose(scale, recorded["scale"], atol=1e-5)
    np.testing.assert_allclose(shift, recorded["shift"], atol=1e-5)
    assert scale_shift_loss(prediction, target, mask).item() == pytest.approx(float(recorded["loss"]), abs=1e-6)


def test_scale_and_shift_of_the_published_rule_reach_the_total(shared: Path) -> None:
    """The same recording through the whole loss: under the published preset and below or above its limit."""
    recorded = np.load(shared / "goldens" / "loss_depth_ssi.npz")
    prediction, truth, mask = (torch.from_numpy(recorded[k].astype(np.float32)) for k in ("pred", "gt", "mask"))
    white = torch.ones(3, 3, 20, 20)
    rendered, target = Pixels(rgb=white, alpha=mask, depth=prediction), Pixels(rgb=white, alpha=mask, depth=truth)
    config = dataclasses.replace(LOSS_PRESETS["published"], lpips=0)
    total, parts = reconstruction_losses(rendered, target, config)
    assert parts["depth"].item() == pytest.approx(float(recorded["loss"]), abs=1e-6)
    assert total.item() == 0, "0.565 lies above the published limit of 0.2"
    total, _ = reconstruction_losses(rendered, target, dataclasses.replace(config, depth_zero_above=0.6))
    assert total.item() == pytest.approx(0.5 * float(recorded["loss"]), abs=1e-6)


def test_scale_shift_loss_ignores_scale_and_shift_only() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(2, 16, 16, generator=generator) + 1
    mask = (torch.rand(2, 16, 16, generator=generator) > 0.3).float()
    distorted = 3 * target - 5
    scale, shift = scale_and_shift(distorted, target, mask)
    torch.testing.assert_close(scale, torch.full((2,), 1 / 3), rtol=1e-4, atol=0)
    torch.testing.assert_close(shift, torch.full((2,), 5 / 3), rtol=1e-4, atol=0)
    assert scale_shift_loss(distorted, target, mask) < 1e-3 * scale_shift_loss(distorted**2, target, mask)


def test_scale_shift_gradient_is_the_derivative() -> None:
    generator = torch.Generator().manual_seed(1)
    prediction, target = (torch.rand(2, 5, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = torch.rand(2, 5, 4, generator=generator, dtype=torch.float64)
    mask[0, :2] = 0
    assert torch.autograd.gradcheck(lambda p: scale_shift_loss(p, target, mask), prediction.requires_grad_())


def test_a_picture_without_foreground_costs_nothing() -> None:
    prediction = torch.rand(2, 8, 8, requires_grad=True)
    loss = scale_shift_loss(prediction, torch.zeros(2, 8, 8), torch.zeros(2, 8, 8))
    loss.backward()
    assert loss.item() == 0
    assert prediction.grad is not None
    assert prediction.grad.abs().max() == 0


@pytest.mark.parametrize("kind", ["l1", "ssi"])
def test_the_right_depth_costs_nothing_where_the_published_rules_see_an_error(kind: Kind) -> None:
    rendered, target = wall()
    mended = dataclasses.replace(NOTHING, depth_kind=kind)
    assert depth_loss(rendered, target, mended) < 1e-4
    mistakes: list[dict[str, Any]] = [{"depth_measure": "ray"}, {"depth_mean": "composited"}]
    for mistake in mistakes:
        assert depth_loss(rendered, target, dataclasses.replace(mended, **mistake)) > 1e-3, mistake


@pytest.mark.parametrize("kind", ["l1", "ssi"])
def test_covered_pixels_without_a_depth_count_only_under_the_published_rule(kind: Kind) -> None:
    """At silhouettes a pixel can be covered a little and yet have no depth: 0 means none there, not the camera."""
    rendered, target = wall(most=1.0, least=1.0)
    holes = target.depth.clone()
    holes[:, ::5] = 0
    target = dataclasses.replace(target, depth=holes)
    mended = dataclasses.replace(NOTHING, depth_kind=kind)
    assert depth_loss(rendered, target, mended) < 1e-4
    assert depth_loss(rendered, target, dataclasses.replace(mended, depth_mean="composited")) > 0.1


def test_metric_depth_is_measured_in_units_of_the_world() -> None:
    rendered, target = wall(most=1.0, least=1.0)
    assert rendered.cosine is not None
    further = dataclasses.replace(rendered, depth=rendered.depth + 0.05 / rendered.cosine)
    loss = depth_loss(further, target, dataclasses.replace(NOTHING, depth_kind="l1"))
    assert loss.item() == pytest.approx(0.05, abs=1e-5)


@pytest.mark.parametrize("kind", ["l1", "ssi"])
def test_nearly_transparent_rays_have_bounded_depth_gradients(kind: Kind) -> None:
    """Dividing by the opacity alone would multiply the gradient of an almost empty ray by a thousand."""
    weights = torch.full((1, 24, 24, 2), 5e-4, requires_grad=True)
    distances = torch.tensor([1.0, 3.0])
    rendered, target = wall()
    rendered = dataclasses.replace(rendered, alpha=weights.sum(-1), depth=(weights * distances).sum(-1), cosine=None)
    depth_loss(rendered, target, dataclasses.replace(NOTHING, depth_kind=kind)).backward()
    assert weights.grad is not None
    per_pixel = weights.grad.abs() * target.alpha.sum()
    assert torch.isfinite(per_pixel).all()
    assert per_pixel.max() < 10


def test_depth_makes_no_ray_more_transparent() -> None:
    """A ray whose samples all lie at one wrong depth cannot lower its loss by its opacity."""
    weight = torch.full((1, 24, 24), 0.5, requires_grad=True)
    rendered, target = wall()
    rendered = dataclasses.replace(rendered, alpha=weight, depth=weight * 2.0, cosine=None)
    depth_loss(rendered, target, dataclasses.replace(NOTHING, depth_kind="l1")).backward()
    assert weight.grad is not None
    assert weight.grad.abs().max() < 1e-6


def test_tiny_recipe_by_hand_on_scattered_rays() -> None:
    rendered, target = pixels(0, 4, 50), pixels(1, 4, 50)
    total, parts = reconstruction_losses(rendered, target, LOSS_PRESETS["tiny"])
    color = (rendered.rgb - target.rgb).numpy()
    opacity, truth = rendered.alpha.numpy(), target.alpha.numpy()
    assert rendered.cosine is not None
    z = rendered.depth.numpy() * rendered.cosine.numpy() / opacity
    depth = (truth * opacity * np.abs(z - target.depth.numpy())).sum() / truth.sum()
    expected = np.abs(color).mean() + 2 * (color**2).mean() + 0.5 * np.abs(opacity - truth).mean() + 0.3 * depth
    assert total.item() == pytest.approx(float(expected), rel=1e-5)
    assert set(parts) == {"rgb_l1", "rgb_l2", "mask", "depth"}
    assert not any(part.requires_grad for part in parts.values())


def test_published_weights_by_hand() -> None:
    rendered, target = pixels(0, 2, 32, 32), pixels(1, 2, 32, 32)
    perceptual = LaplacianPyramid()
    config = dataclasses.replace(LOSS_PRESETS["published"], depth_zero_above=None)
    total, parts = reconstruction_losses(rendered, target, config, 100, perceptual)
    signed = ((rendered.rgb * 2 - 1) - (target.rgb * 2 - 1)).abs().mean()
    depth = scale_shift_loss(rendered.depth, target.depth, target.alpha)
    mask = (rendered.alpha - target.alpha).abs().mean()
    expected = signed + 0.8 * perceptual(rendered.rgb, target.rgb).mean() + 0.5 * depth + mask
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(parts["depth"], depth)


def test_rays_of_a_patch_cost_what_the_patch_costs() -> None:
    last = torch.rand(2, 48, 3), torch.rand(2, 48), torch.rand(2, 48)
    wanted = torch.rand(2, 48, 3), torch.rand(2, 48), torch.rand(2, 48)
    rays = reconstruction_losses(ray_pixels(*last), ray_pixels(*wanted), LOSS_PRESETS["tiny"])[0]
    patches = [ray_pixels(*values, height=6) for values in (last, wanted)]
    assert patches[0].rgb.shape == (2, 3, 6, 8)
    assert patches[0].rgb[1, 2, 3, 4] == last[0][1, 3 * 8 + 4, 2]
    torch.testing.assert_close(reconstruction_losses(patches[0], patches[1], LOSS_PRESETS["tiny"])[0], rays)


def test_perceptual_distance_starts_late_and_looks_at_the_center() -> None:
    config = dataclasses.replace(NOTHING, lpips=1.0, lpips_start=10, lpips_crop=16)
    target = pixels(0, 1, 40, 40)
    border = target.rgb.clone()
    border[..., :12] = 0
    center = target.rgb.clone()
    center[..., 12:28, 12:28] = 0
    perceptual = LaplacianPyramid()

    def cost(rgb: Tensor, step: int) -> float:
        return reconstruction_losses(dataclasses.replace(target, rgb=rgb), target, config, step, perceptual)[0].item()

    assert cost(center, 9) == 0
    assert cost(center, 10) > 0.1
    assert cost(border, 10) == 0


def test_a_dropped_depth_is_still_reported() -> None:
    rendered, target = wall()
    depth = dataclasses.replace(rendered, depth=rendered.depth.clone().requires_grad_())
    config = dataclasses.replace(NOTHING, depth=1.0, depth_kind="l1", depth_measure="ray", depth_zero_above=1e-3)
    total, parts = reconstruction_losses(depth, target, config)
    total.backward()
    assert total.item() == 0
    assert parts["depth"] > 1e-3
    assert depth.depth.grad is not None
    assert depth.depth.grad.abs().max() == 0


def test_normals_cost_one_less_their_cosine() -> None:
    target = pixels(0, 2, 30)
    opaque = dataclasses.replace(target, alpha=torch.ones(2, 30))
    assert normal_loss(opaque, target) < 1e-6
    assert target.normal is not None
    flipped = dataclasses.replace(opaque, normal=-target.normal)
    assert normal_loss(flipped, target).item() == pytest.approx(2, abs=1e-5)
    total, parts = reconstruction_losses(flipped, target, dataclasses.replace(NOTHING, normal=0.5))
    assert total.item() == pytest.approx(1, abs=1e-5)
    assert set(parts) == {"normal"}
    with pytest.raises(ValueError, match="no normals"):
        normal_loss(dataclasses.replace(opaque, normal=None), target)


@pytest.mark.parametrize("preset", LOSS_PRESETS)
def test_losses_are_float32_under_autocast(preset: str) -> None:
    config = dataclasses.replace(LOSS_PRESETS[preset], lpips_start=0, normal=0.1)
    rendered, target, perceptual = pixels(0, 2, 32, 32), pixels(1, 2, 32, 32), LaplacianPyramid()
    plain, _ = reconstruction_losses(rendered, target, config, 0, perceptual)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, parts = reconstruction_losses(rendered, target, config, 0, perceptual)
    assert all(part.dtype == torch.float32 for part in (mixed, *parts.values()))
    assert mixed.item() == plain.item()
    half = dataclasses.replace(rendered, rgb=rendered.rgb.bfloat16(), alpha=rendered.alpha.bfloat16())
    assert reconstruction_losses(half, target, config, 0, perceptual)[0].dtype == torch.float32


@pytest.mark.parametrize(("setting", "part"), [({"lpips": 1.0, "lpips_start": 0}, "lpips"), ({"depth": 1.0}, "ssi")])
def test_patch_losses_refuse_scattered_rays(setting: dict[str, Any], part: str) -> None:
    rays = pixels(0, 2, 50)
    with pytest.raises(UserError, match=part):
        reconstruction_losses(rays, rays, dataclasses.replace(NOTHING, **setting), 0, LaplacianPyramid())


def test_a_perceptual_weight_without_a_distance_is_an_error() -> None:
    patches = pixels(0, 1, 32, 32)
    with pytest.raises(ValueError, match="no perceptual distance"):
        reconstruction_losses(patches, patches, LossConfig(lpips_start=0))


def test_adversarial_phase_begins_at_its_step() -> None:
    config = LossConfig(adversarial_start=50)
    assert [adversarial_weight(config, step) for step in (0, 49, 50)] == [0, 0, 0.025 * 0.025]


def test_descent_on_the_losses_finds_the_target() -> None:
    """Pixels that start grey, half transparent and at the wrong depth end at the target's."""
    target = pixels(3, 2, 24, 24)
    target = dataclasses.replace(target, alpha=(target.alpha > 0.5).float(), cosine=None)
    free = [torch.full_like(x, value).requires_grad_() for x, value in ((target.rgb, 0.5), (target.alpha, 0.5))]
    distance = torch.full_like(target.depth, 2.5).requires_grad_()
    optimizer = torch.optim.Adam([*free, distance], lr=0.03)
    for _ in range(250):
        optimizer.zero_grad()
        rendered = Pixels(rgb=free[0], alpha=free[1], depth=free[1] * distance)
        reconstruction_losses(rendered, target, LOSS_PRESETS["tiny"])[0].backward()
        optimizer.step()
    assert (free[0] - target.rgb).abs().mean() < 0.03
    assert (free[1] - target.alpha).abs().mean() < 0.03
    assert (distance - target.depth)[target.alpha > 0.5].abs().mean() < 0.05
