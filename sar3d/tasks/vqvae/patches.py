"""Which pixels a training step renders: patches with a bias to the foreground (published.md, rendering), or scattered rays."""

import random

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from sar3d.errors import ObjectError

FOREGROUND_SHARE = 0.875
"""Of the published patches, those that are forced onto the object's box."""


def bounding_boxes(mask: Float[Tensor, "*V H W"]) -> Int[Tensor, "*V 4"]:
    """First row, first column, last row and last column where `mask` is above 0; the whole image where it nowhere is."""
    height, width = mask.shape[-2:]
    covered = mask > 0
    rows, columns = covered.any(-1), covered.any(-2)
    rows, columns = rows | ~rows.any(-1, keepdim=True), columns | ~columns.any(-1, keepdim=True)

    def ends(line: Bool[Tensor, "*V N"], length: int) -> tuple[Tensor, Tensor]:
        number = line.int()
        return number.argmax(-1), length - 1 - number.flip(-1).argmax(-1)

    (top, bottom), (left, right) = ends(rows, height), ends(columns, width)
    return torch.stack([top, left, bottom, right], dim=-1)


def _fits(side: int, patch: int) -> None:
    if not 0 < patch <= side:
        raise ValueError(f"a patch of {patch} pixels does not lie in an image of {side}")


def patch_boxes(
    boxes: Int[Tensor, "B 4"], side: int, patch: int, generator: torch.Generator, share: float = FOREGROUND_SHARE
) -> Int[Tensor, "B 4"]:
    """Top, left, height and width of one random square patch in each of B square images.

    A share of the patches lies within the object's box, or around it where the box is smaller than the patch. The
    others are spread over the image so that its lower and right borders are hit more often, as published.

    Args:
        boxes: first row, first column, last row, last column of the object (`bounding_boxes`).
        side: of the images, in pixels.
        patch: side of a patch.

    Raises:
        ValueError: the patch is larger than the image.
    """
    _fits(side, patch)
    device = boxes.device
    draw = torch.rand(len(boxes), 3, generator=generator, device=generator.device).to(device)
    lowest, highest = boxes[:, :2] + patch, boxes[:, 2:]
    room = highest >= lowest
    within = lowest + ((highest - lowest + 1) * draw[:, 1:]).floor().long()
    forced = torch.where(room, within, highest.clamp(min=patch))
    anywhere = (patch + ((side + 1) * draw[:, 1:]).floor().long()).clamp(max=side)
    end = torch.where(draw[:, :1] < share, forced, anywhere)
    return torch.cat([end - patch, torch.full_like(end, patch)], dim=1)


def published_patch_boxes(
    boxes: Int[Tensor, "B 4"], side: int, patch: int, source: random.Random
) -> Int[Tensor, "B 4"]:
    """`patch_boxes` from Python's generator, in the published order of calls: whether to force, then row, then column."""
    _fits(side, patch)

    def end(first: int, last: int, forced: bool) -> int:
        if not forced:
            return min(source.randint(patch, side + patch), side)
        return source.randint(first + patch, last) if first + patch <= last else max(last, patch)

    found = []
    for top, left, bottom, right in boxes.tolist():
        forced = source.random() < FOREGROUND_SHARE
        found.append((end(top, bottom, forced) - patch, end(left, right, forced) - patch, patch, patch))
    return torch.tensor(found, dtype=torch.int64, device=boxes.device)


def patch_pixels(boxes: Int[Tensor, "B 4"]) -> Int[Tensor, "B N 2"]:
    """(row, column) of every pixel of patches of one size, in raster order."""
    height, width = (int(size) for size in boxes[0, 2:])
    rows, columns = torch.arange(height, device=boxes.device), torch.arange(width, device=boxes.device)
    return torch.cartesian_prod(rows, columns) + boxes[:, None, :2]


def crop(images: Float[Tensor, "B C H W"], boxes: Int[Tensor, "B 4"]) -> Float[Tensor, "B C h w"]:
    """The patches of images."""
    return torch.stack(
        [image[:, y : y + h, x : x + w] for image, (y, x, h, w) in zip(images, boxes.tolist(), strict=True)]
    )


def dilated(mask: Float[Tensor, "V H W"], pixels: int) -> Bool[Tensor, "V H W"]:
    """Where `mask` is above 0, and all that lies within a square of `pixels` around it."""
    grown = rearrange((mask > 0).float(), "v h w -> v 1 h w")
    size = 2 * pixels + 1
    grown = F.max_pool2d(grown, (1, size), stride=1, padding=(0, pixels))
    grown = F.max_pool2d(grown, (size, 1), stride=1, padding=(pixels, 0))
    return rearrange(grown > 0, "v 1 h w -> v h w")


def foreground_rays(
    mask: Float[Tensor, "V H W"],
    count: int,
    share: float = 0.7,
    dilation: int = 3,
    *,
    generator: torch.Generator,
) -> Int[Tensor, "count 3"]:
    """(view, row, column) of random pixels of V images, with replacement; the first `share` of them on the foreground.

    Foreground is where `mask` is above 0, dilated by `dilation` pixels so that rays see the silhouette from both sides.

    Raises:
        ObjectError: no view shows anything.
    """
    near = dilated(mask, dilation).flatten().nonzero().squeeze(-1)
    if len(near) == 0:
        raise ObjectError("empty_views", "no view of the object shows anything of it")
    wanted = round(count * share)
    draw = torch.rand(count, generator=generator, device=generator.device).to(mask.device)
    # A float below 1 times a count below 2^24 may round up to the count.
    on_object = near[(draw[:wanted] * len(near)).long().clamp(max=len(near) - 1)]
    anywhere = (draw[wanted:] * mask.numel()).long().clamp(max=mask.numel() - 1)
    flat = torch.cat([on_object, anywhere])
    return torch.stack(torch.unravel_index(flat, mask.shape), dim=-1)
