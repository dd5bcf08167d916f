"""PSNR, SSIM, depth and normal errors, and the use of a codebook."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sar3d.errors import UserError
from sar3d.metrics.codebook import code_counts, perplexity, usage
from sar3d.metrics.geometry import depth_error, normal_error
from sar3d.metrics.image import foreground_psnr, psnr, ssim


def random(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_psnr_of_a_known_error() -> None:
    white = torch.ones(2, 3, 8, 8)
    grey = white.clone()
    grey[0] -= 0.1
    grey[1] -= 0.01
    torch.testing.assert_close(psnr(grey, white), torch.tensor([20.0, 40.0]), atol=1e-3, rtol=0)
    assert psnr(white, white).tolist() == [math.inf, math.inf]


def test_foreground_psnr_leaves_the_background_out() -> None:
    target, image = torch.ones(1, 3, 8, 8), torch.ones(1, 3, 8, 8)
    alpha = torch.zeros(1, 8, 8)
    alpha[:, :2] = 1
    alpha[:, 2] = 0.4
    image[:, :, :2] = 0.9
    image[:, :, 4:] = 0.0
    assert foreground_psnr(image, target, alpha).item() == pytest.approx(20, abs=1e-3)
    assert foreground_psnr(image, target, torch.zeros(1, 8, 8)).isnan().all()


def test_ssim_agrees_with_another_implementation() -> None:
    peer = pytest.importorskip("torchmetrics.functional.image").structural_similarity_index_measure
    target = random(0, 3, 3, 24, 31)
    image = (target + 0.2 * random(1, 3, 3, 24, 31)).clamp(0, 1)
    _, windows = peer(image, target, data_range=1.0, reduction="none", return_full_image=True)
    # The peer's mean includes windows that reach into a reflected border; the definition has none of those.
    inside = windows[..., 5:-5, 5:-5].mean((1, 2, 3))
    torch.testing.assert_close(ssim(image, target), inside, atol=1e-5, rtol=0)


def test_ssim_by_the_definition() -> None:
    image, target = random(2, 1, 3, 13, 12), random(3, 1, 3, 13, 12)
    row = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = np.outer(row, row) / np.outer(row, row).sum()
    values = []
    for x, y in zip(image[0].double().numpy(), target[0].double().numpy(), strict=True):
        for i in range(3):
            for j in range(2):
                a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
                ma, mb = (window * a).sum(), (window * b).sum()
                va, vb, c = (
                    window * (p - q) * (r - s) for p, q, r, s in ((a, ma, a, ma), (b, mb, b, mb), (a, ma, b, mb))
                )
                top = (2 * ma * mb + 1e-4) * (2 * c.sum() + 9e-4)
                values.append(top / ((ma**2 + mb**2 + 1e-4) * (va.sum() + vb.sum() + 9e-4)))
    assert ssim(image, target).item() == pytest.approx(np.mean(values), abs=1e-6)


def test_ssim_of_equal_images_and_of_too_small_ones() -> None:
    image = random(4, 2, 3, 16, 16)
    torch.testing.assert_close(ssim(image, image), torch.ones(2))
    with torch.autocast("cpu", torch.bfloat16):
        assert ssim(image, 1 - image).dtype == torch.float32
    with pytest.raises(UserError, match="at least 11 pixels"):
        ssim(image[..., :10], image[..., :10])


def test_depth_error_is_taken_on_the_common_foreground() -> None:
    target = torch.zeros(2, 4, 4)
    target[0, :2] = 1.5
    alpha = (target > 0).float()
    opacity = torch.zeros(2, 4, 4)
    opacity[0, 1:3] = 0.9
    depth = torch.full((2, 4, 4), math.inf)
    depth[0, 1:3] = 1.7
    found = depth_error(depth, opacity, target, alpha)
    assert found.error[0].item() == pytest.approx(0.2, abs=1e-6)
    assert found.missing[0].item() == pytest.approx(0.5)
    assert found.error[1].isnan()
    assert found.missing[1].isnan()


@pytest.mark.parametrize("degrees", [0.0, 0.01, 30.0, 90.0, 179.99, 180.0])
def test_normal_error_is_an_angle(degrees: float) -> None:
    angle = math.radians(degrees)
    normals = torch.tensor([0.0, 0.0, 2.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    turned = torch.tensor([math.sin(angle), 0.0, math.cos(angle)]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    mask = torch.ones(1, 4, 4, dtype=torch.bool)
    assert normal_error(normals, turned, mask).item() == pytest.approx(degrees, abs=1e-4)


def test_normal_error_counts_only_the_mask_and_missing_normals_as_square() -> None:
    normals, target = torch.zeros(2, 3, 2, 2), torch.zeros(2, 3, 2, 2)
    target[:, 1] = 1
    normals[0, 1, 0] = 1
    mask = torch.zeros(2, 2, 2, dtype=torch.bool)
    mask[0, 0] = True
    assert normal_error(normals, target, mask)[0].item() == 0
    assert normal_error(normals, target, mask)[1].isnan()
    mask[0] = True
    assert normal_error(normals, target, mask)[0].item() == pytest.approx(45)


def test_code_use_of_known_choices() -> None:
    indices = [torch.full((6, 1), 3), torch.arange(4).repeat(3, 1), torch.tensor([[0, 0, 0, 1]])]
    counts = code_counts(indices, codebook_size=8)
    assert counts.shape == (3, 8)
    assert counts.sum(1).tolist() == [6, 12, 4]
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    torch.testing.assert_close(perplexity(counts), torch.tensor([1.0, 4.0, math.exp(entropy)]))
    torch.testing.assert_close(usage(counts), torch.tensor([1 / 8, 4 / 8, 2 / 8]))


def test_counts_of_two_workers_add_up() -> None:
    generator = torch.Generator().manual_seed(0)
    scales = [torch.randint(16, (6, n * n), generator=generator) for n in (1, 2, 3)]
    halves = [code_counts([scale[part] for scale in scales], 16) for part in (slice(0, 3), slice(3, 6))]
    assert torch.equal(halves[0] + halves[1], code_counts(scales, 16))
    with pytest.raises(ValueError, match="codebook of 4"):
        code_counts(scales, 4)
