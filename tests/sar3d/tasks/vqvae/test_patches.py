"""Patches and rays with a bias to the foreground."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sar3d.errors import ObjectError
from sar3d.tasks.vqvae.patches import (
    bounding_boxes,
    crop,
    dilated,
    foreground_rays,
    patch_boxes,
    patch_pixels,
    published_patch_boxes,
)
from sar3d.vqvae.cameras import rays_of


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_recorded_boxes_and_their_rays(shared: Path) -> None:
    with np.load(shared / "goldens/patch_sampler.npz") as golden:
        boxes = published_patch_boxes(torch.from_numpy(golden["bbox"]).long(), 256, 130, random.Random(0))
        np.testing.assert_array_equal(boxes.numpy(), golden["boxes"])
        rays = rays_of(torch.from_numpy(golden["c"]), 256, 256, patch_pixels(boxes))
        np.testing.assert_allclose(rays.origins[:, ::997].numpy(), golden["ray_o"], atol=1e-6)
        np.testing.assert_allclose(rays.directions[:, ::997].numpy(), golden["ray_d"], atol=1e-6)


def test_the_recorded_object_box_is_found_in_the_mask(shared: Path) -> None:
    with np.load(shared / "goldens/patch_sampler.npz") as golden:
        top, left, bottom, right = golden["bbox"][0].astype(int)
    mask = torch.zeros(2, 256, 256)
    mask[0, top : bottom + 1, left : right + 1] = 0.01
    assert bounding_boxes(mask).tolist() == [[top, left, bottom, right], [0, 0, 255, 255]]


def both_samplers(boxes: Tensor, side: int, patch: int) -> list[Tensor]:
    return [
        patch_boxes(boxes, side, patch, seeded()),
        published_patch_boxes(boxes, side, patch, random.Random(0)),
    ]


def test_forced_patches_lie_within_a_large_box_and_around_a_small_one() -> None:
    large = torch.tensor([[10, 20, 90, 99]]).expand(4000, -1)
    small = torch.tensor([[60, 0, 70, 5]]).expand(4000, -1)
    for boxes in both_samplers(large, 100, 50):
        top, left = boxes[:, 0], boxes[:, 1]
        within = (top >= 10) & (top <= 40) & (left >= 20) & (left <= 49)
        assert 0.85 < within.float().mean() < 0.97  # the forced ones, and some of the others
        assert set(top[within].tolist()) == set(range(10, 41))
    for boxes in both_samplers(small, 100, 50):
        exact = (boxes[:, :2] == torch.tensor([20, 0])).all(1)
        assert 0.86 < exact.float().mean() < 0.90


def test_free_patches_prefer_the_far_borders() -> None:
    boxes = patch_boxes(torch.tensor([[0, 0, 99, 99]]).expand(4000, -1), 100, 50, seeded(), share=0.0)
    assert boxes[:, :2].min() == 0
    assert boxes[:, :2].max() == 50
    assert (boxes[:, 0] == 50).float().mean() == pytest.approx(51 / 101, abs=0.03)


def test_both_samplers_have_the_same_distribution() -> None:
    box = torch.tensor([[30, 5, 95, 60]]).expand(6000, -1)
    ours, published = both_samplers(box, 100, 50)
    for axis in (0, 1):
        counts = [torch.bincount(boxes[:, axis], minlength=51) / 6000 for boxes in (ours, published)]
        assert (counts[0] - counts[1]).abs().max() < 0.02


def test_a_generator_decides_the_patches() -> None:
    boxes = torch.tensor([[10, 20, 90, 99]]).expand(50, -1)
    assert torch.equal(patch_boxes(boxes, 100, 50, seeded(1)), patch_boxes(boxes, 100, 50, seeded(1)))
    assert not torch.equal(patch_boxes(boxes, 100, 50, seeded(1)), patch_boxes(boxes, 100, 50, seeded(2)))


def test_a_patch_larger_than_the_image_is_refused() -> None:
    boxes = torch.tensor([[0, 0, 9, 9]])
    with pytest.raises(ValueError, match="130 pixels does not lie in an image of 64"):
        patch_boxes(boxes, 64, 130, seeded())


def test_pixels_and_crops_of_a_patch_agree() -> None:
    images = torch.arange(2 * 3 * 20 * 30).float().view(2, 3, 20, 30)
    boxes = torch.tensor([[1, 2, 5, 6], [15, 24, 5, 6]])
    cut = crop(images, boxes)
    assert cut.shape == (2, 3, 5, 6)
    for image, pixels, patch in zip(images, patch_pixels(boxes), cut, strict=True):
        assert torch.equal(image[:, pixels[:, 0], pixels[:, 1]].view(3, 5, 6), patch)


def test_dilation_grows_by_whole_pixels_and_stops_at_the_border() -> None:
    mask = torch.zeros(1, 12, 12)
    mask[0, 1, 8] = 0.2
    grown = dilated(mask, 3)
    expected = torch.zeros(1, 12, 12, dtype=torch.bool)
    expected[0, 0:5, 5:12] = True
    assert torch.equal(grown, expected)
    assert torch.equal(dilated(mask, 0), mask > 0)


def test_a_share_of_the_rays_lies_on_the_dilated_foreground() -> None:
    mask = torch.zeros(4, 32, 32)
    mask[1, 10:14, 20:24] = 1.0
    mask[3, 0, 0] = 0.5
    rays = foreground_rays(mask, 1000, 0.7, 3, generator=seeded())
    assert rays.shape == (1000, 3)
    on_object = dilated(mask, 3)[tuple(rays.T)]
    assert on_object[:700].all()
    assert on_object[700:].float().mean() < 0.1
    assert set(rays[:700, 0].tolist()) == {1, 3}
    assert set(rays[700:, 0].tolist()) == {0, 1, 2, 3}
    hit = torch.zeros(4, 32, 32).index_put(tuple(rays[:700].T), torch.ones(700), accumulate=True)
    assert (hit > 0).sum() == dilated(mask, 3).sum()  # every pixel of the foreground can be drawn
    assert torch.equal(rays, foreground_rays(mask, 1000, 0.7, 3, generator=seeded()))


def test_an_object_nobody_sees_is_an_error_of_the_object() -> None:
    with pytest.raises(ObjectError, match="no view of the object") as caught:
        foreground_rays(torch.zeros(2, 8, 8), 10, generator=seeded())
    assert caught.value.kind == "empty_views"
