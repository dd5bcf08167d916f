"""How close pictures are: PSNR and SSIM. Colors are in [0, 1], on white; every function gives one number per image."""

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from sar3d.errors import UserError

_WINDOW = 11
_SIGMA = 1.5
_C1, _C2 = 0.01**2, 0.03**2
"""The constants of SSIM for a range of 1 (Wang et al. 2004, section III-C)."""


def psnr(images: Float[Tensor, "N 3 h w"], targets: Float[Tensor, "N 3 h w"]) -> Float[Tensor, "N"]:
    """Peak signal-to-noise ratio over the whole image, background included, in dB; infinite for equal images."""
    error = (images.float() - targets.float()).square()
    return _decibels(reduce(error, "n c h w -> n", "mean"))


def foreground_psnr(
    images: Float[Tensor, "N 3 h w"], targets: Float[Tensor, "N 3 h w"], alpha: Float[Tensor, "N h w"]
) -> Float[Tensor, "N"]:
    """PSNR over the pixels that the object covers by more than half, in dB; NaN where it covers none."""
    inside = (alpha > 0.5).float()
    error = reduce((images.float() - targets.float()).square(), "n c h w -> n h w", "mean")
    return _decibels(reduce(error * inside, "n h w -> n", "sum") / reduce(inside, "n h w -> n", "sum"))


def ssim(images: Float[Tensor, "N 3 h w"], targets: Float[Tensor, "N 3 h w"]) -> Float[Tensor, "N"]:
    """Structural similarity, at most 1: mean over channels and over the windows that lie wholly inside the image.

    Windows are Gaussians of 11 pixels with deviation 1.5, and statistics are the biased ones (Wang et al. 2004).

    Raises:
        UserError: the images are smaller than a window.
    """
    if min(images.shape[-2:]) < _WINDOW:
        raise UserError(f"SSIM needs images of at least {_WINDOW} pixels, not {images.shape[-2]} x {images.shape[-1]}")
    with torch.autocast(images.device.type, enabled=False):
        x, y = (rearrange(image.float(), "n c h w -> (n c) 1 h w") for image in (images, targets))
        moments = _windowed(torch.cat([x, y, x * x, y * y, x * y], dim=1))
    mean_x, mean_y, square_x, square_y, product = moments.unbind(1)
    variances = square_x - mean_x.square() + square_y - mean_y.square()
    covariance = product - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x.square() + mean_y.square() + _C1)
    structure = (2 * covariance + _C2) / (variances + _C2)
    return reduce(luminance * structure, "(n c) h w -> n", "mean", c=images.shape[1])


def _windowed(maps: Float[Tensor, "N m h w"]) -> Float[Tensor, "N m s t"]:
    """Gaussian means, taken along columns and then along rows."""
    places = torch.arange(_WINDOW, device=maps.device, dtype=maps.dtype) - _WINDOW // 2
    weights = torch.exp(-0.5 * (places / _SIGMA).square())
    kernel = (weights / weights.sum()).expand(maps.shape[1], 1, 1, _WINDOW)
    columns = F.conv2d(maps, kernel.mT, groups=maps.shape[1])
    return F.conv2d(columns, kernel, groups=maps.shape[1])


def _decibels(error: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
    return -10 * torch.log10(error)
