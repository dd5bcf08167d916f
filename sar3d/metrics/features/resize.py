"""How pictures become the input of FID-Inception, 299² in about [-1, 1]. Each way gives other numbers; `clean` is ours.

| way | resize | values | as in |
|---|---|---|---|
| `clean` | Pillow's bicubic filter of float channels, antialiased, not rounded | (x - 128) / 128 | clean-fid |
| `legacy_pytorch` | bilinear, half-pixel centers, no antialiasing | 2x / 255 - 1 | pytorch-fid |
| `legacy_tensorflow` | bilinear, corner-aligned grid of TensorFlow 1, no antialiasing | (x - 128) / 128 | TTUR, torch-fidelity |
| `torchmetrics` | bilinear, antialiased | (x - 128) / 128 | torchmetrics 1.9 |

Parmar et al. 2022, "On Aliased Resizing and Surprising Subtleties in GAN Evaluation".
"""

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

SIDE = 299

Resize = Literal["clean", "legacy_pytorch", "legacy_tensorflow", "torchmetrics"]
RESIZES: tuple[Resize, ...] = get_args(Resize)


def prepare(images: UInt8[np.ndarray, "B H W 3"], resize: Resize = "clean") -> Float[Tensor, "B 3 299 299"]:
    """Pictures as the network takes them, on the CPU.

    Raises:
        ValueError: the pictures are no (B, H, W, 3) of bytes.
    """
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
        raise ValueError(f"pictures are (B, H, W, 3) of bytes, not {images.dtype} of shape {images.shape}")
    return _WAYS[resize](images)


def _clean(images: UInt8[np.ndarray, "B H W 3"]) -> Tensor:
    resized = [_filtered(image[..., channel]) for image in images for channel in range(3)]
    pixels = torch.from_numpy(np.stack(resized)).clamp(0, 255)
    return _centered(rearrange(pixels, "(b c) h w -> b c h w", c=3))


def _filtered(channel: UInt8[np.ndarray, "H W"]) -> Float[np.ndarray, "299 299"]:
    return np.asarray(Image.fromarray(channel.astype(np.float32)).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _legacy_pytorch(images: UInt8[np.ndarray, "B H W 3"]) -> Tensor:
    return 2 * F.interpolate(_planes(images) / 255, (SIDE, SIDE), mode="bilinear", align_corners=False) - 1


def _legacy_tensorflow(images: UInt8[np.ndarray, "B H W 3"]) -> Tensor:
    rows = _mixing(images.shape[1])
    columns = _mixing(images.shape[2])
    return _centered(torch.einsum("ih,bchw,jw->bcij", rows, _planes(images), columns))


def _mixing(side: int) -> Float[Tensor, "299 side"]:
    """Weights of the pixels along one side: output i lies at i · side / 299, as if both grids shared their first corner."""
    place = torch.arange(SIDE) * (side / SIDE)
    low = place.floor().long().clamp(max=side - 1)
    high = (low + 1).clamp(max=side - 1)
    share = place - low
    matrix = torch.zeros(SIDE, side)
    matrix[torch.arange(SIDE), low] += 1 - share
    matrix[torch.arange(SIDE), high] += share
    return matrix


def _torchmetrics(images: UInt8[np.ndarray, "B H W 3"]) -> Tensor:
    size = (SIDE, SIDE)
    return _centered(F.interpolate(_planes(images), size, mode="bilinear", align_corners=False, antialias=True))


def _planes(images: UInt8[np.ndarray, "B H W 3"]) -> Float[Tensor, "B 3 H W"]:
    return rearrange(torch.from_numpy(np.ascontiguousarray(images)).float(), "b h w c -> b c h w").contiguous()


def _centered(pixels: Tensor) -> Tensor:
    return (pixels - 128) / 128


_WAYS: dict[Resize, Callable[[UInt8[np.ndarray, "B H W 3"]], Tensor]] = {
    "clean": _clean,
    "legacy_pytorch": _legacy_pytorch,
    "legacy_tensorflow": _legacy_tensorflow,
    "torchmetrics": _torchmetrics,
}
