"""The patch discriminator and its hinge losses."""

import json
from pathlib import Path

import pytest
import torch

from sar3d.errors import UserError
from sar3d.tasks.vqvae.discriminator import (
    Norm,
    PatchDiscriminator,
    discriminator_loss,
    generator_loss,
    published_discriminator,
)


def test_published_layout(shared: Path) -> None:
    wanted = json.loads((shared / "goldens" / "disc_keys.json").read_text())
    model = PatchDiscriminator(norm="batch")
    assert {name: list(value.shape) for name, value in model.state_dict().items()} == wanted
    assert list(model.state_dict()) == list(wanted)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_size_and_start(norm: Norm) -> None:
    torch.manual_seed(0)
    model = PatchDiscriminator(norm=norm)
    assert sum(value.numel() for value in model.parameters()) == 2_765_633
    kernels = torch.cat([m.weight.flatten() for m in model.modules() if isinstance(m, torch.nn.Conv2d)])
    assert kernels.mean().abs() < 1e-4
    assert kernels.std().item() == pytest.approx(0.02, rel=0.01)
    gains = torch.cat([p.flatten() for n, p in model.named_parameters() if p.ndim == 1 and n.endswith("weight")])
    assert gains.mean().item() == pytest.approx(1, abs=0.01)
    assert gains.std().item() == pytest.approx(0.02, rel=0.1)


def test_one_judgment_per_square_of_70_pixels() -> None:
    model = PatchDiscriminator(width=4)
    assert model(torch.rand(2, 3, 130, 130)).shape == (2, 1, 14, 14)
    image = torch.rand(1, 3, 130, 130, requires_grad=True)
    reach = PatchDiscriminator(width=4, norm="batch").eval()(image)[0, 0, 7, 7]
    reach.backward()
    assert image.grad is not None
    touched = image.grad[0].abs().sum(0).nonzero()
    assert (touched.max(0).values - touched.min(0).values + 1).tolist() == [70, 70]


def test_smallest_patch() -> None:
    assert PatchDiscriminator(width=4)(torch.rand(2, 3, 24, 24)).shape == (2, 1, 1, 1)
    with pytest.raises(UserError, match="at least 24 pixels, not 23 x 64"):
        PatchDiscriminator(width=4)(torch.rand(2, 3, 23, 64))


def test_only_batch_norm_lets_images_see_each_other() -> None:
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected: tuple[tuple[Norm, bool], ...] = (("group", True), ("batch", False))
    for norm, alone in expected:
        torch.manual_seed(0)
        model = PatchDiscriminator(width=16, norm=norm)
        together, single = model(images)[:1], model(images[:1])
        assert torch.allclose(together, single, atol=1e-6) == alone


def test_hinge_by_hand() -> None:
    real, fake = (torch.tensor(values).view(2, 1, 1, 1) for values in ([2.0, 0.5], [-3.0, 0.5]))
    assert discriminator_loss(real, fake).item() == pytest.approx(0.5 * (0.25 + 0.75))
    assert generator_loss(fake).item() == pytest.approx(1.25)
    assert discriminator_loss(real.bfloat16(), fake.bfloat16()).dtype == torch.float32


def test_it_learns_to_tell_blurred_patches_from_sharp_ones() -> None:
    torch.manual_seed(0)
    model = PatchDiscriminator(width=8)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, betas=(0.0, 0.999))
    for _ in range(30):
        real = (torch.rand(8, 3, 32, 32) > 0.5).float()
        fake = torch.nn.functional.avg_pool2d(real, 3, 1, 1)
        optimizer.zero_grad()
        discriminator_loss(model(real), model(fake)).backward()
        optimizer.step()
    real = (torch.rand(8, 3, 32, 32) > 0.5).float()
    fake = torch.nn.functional.avg_pool2d(real, 3, 1, 1).requires_grad_()
    logits = model(fake)
    assert model(real).min() > logits.max()
    generator_loss(logits).backward()
    assert fake.grad is not None
    assert model(fake.detach() - 0.05 * fake.grad.sign()).mean() > logits.mean()


def test_published_weights_go_in_and_others_do_not() -> None:
    torch.manual_seed(1)
    source = PatchDiscriminator(norm="batch")
    source(torch.rand(4, 3, 32, 32))  # moves the running statistics from their start
    wrapped = {f"module.{name}": value for name, value in source.state_dict().items()}
    image = torch.rand(1, 3, 48, 48)
    for tensors in (source.state_dict(), wrapped):
        torch.testing.assert_close(published_discriminator(tensors).eval()(image), source.eval()(image))
    with pytest.raises(UserError, match=r"main\.11\.weight does not fit|main\.0\.bias does not fit"):
        published_discriminator(PatchDiscriminator(width=32, norm="batch").state_dict())
    with pytest.raises(UserError, match="running_mean"):
        published_discriminator({k: v for k, v in source.state_dict().items() if k != "main.3.running_mean"})
