"""What every condition encoder is, and the preparation of pictures."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sar3d.conditions.condition import Condition
from sar3d.conditions.kinds import ConditionKind

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
EMPTY_SIDE = 128
"""Side of the white picture that stands for no picture (published.md, data)."""


class ConditionEncoder(Protocol):
    """What every encoder has. `run(prepare(x))` are the features of x; `encode` does both."""

    @property
    def id(self) -> str:
        """Name and digest of the weights: features of equal ids may be mixed."""

    @property
    def kind(self) -> ConditionKind:
        """What it encodes."""

    @property
    def shape(self) -> tuple[int, int]:
        """N, C of the tokens."""

    @property
    def width(self) -> int:
        """C' of the pooled vector."""

    def prepare(self, inputs: Any) -> Tensor:
        """(B, ...) integers on the CPU, the part of the work that needs no model: token ids of captions, cut at the
        longest that the encoder takes, or pictures resized and cut as the encoder's own processor does.
        """

    def run(self, prepared: Tensor) -> Condition:
        """The features of prepared inputs, on the encoder's device."""

    def encode(self, inputs: Any) -> Condition:
        """The features of B captions (for `text`), or of B pictures (B, H, W, 3) of bytes on white (for `image`)."""

    def empty(self) -> Condition:
        """The features (B = 1) of the empty condition, for classifier-free guidance: the caption "", or white."""


def white() -> UInt8[np.ndarray, "1 H W 3"]:
    """The empty picture."""
    return np.full((1, EMPTY_SIDE, EMPTY_SIDE, 3), 255, np.uint8)


def resize_and_crop(images: UInt8[np.ndarray, "B H W 3"], shortest: int, crop: int) -> UInt8[Tensor, "B crop crop 3"]:
    """Resize the shortest side, bicubic as Pillow does it, then cut out the center.

    Raises:
        ValueError: the pictures are no (B, H, W, 3) of bytes, or `crop` exceeds `shortest`.
    """
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or crop > shortest:
        raise ValueError(f"pictures are (B, H, W, 3) of bytes, not {images.dtype} of shape {images.shape}")
    height, width = images.shape[1:3]
    scale = shortest / min(height, width)
    # The stock processors cut the longer side off, not round it.
    size = (int(width * scale) if width > height else shortest, int(height * scale) if height > width else shortest)
    left, top = (size[0] - crop) // 2, (size[1] - crop) // 2
    cut = [_resized(image, size)[top : top + crop, left : left + crop] for image in images]
    return torch.from_numpy(np.stack(cut))


def _resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    if size == (image.shape[1], image.shape[0]):
        return image
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def normalize(
    images: UInt8[Tensor, "B H W 3"], mean: tuple[float, float, float], std: tuple[float, float, float], like: Tensor
) -> Float[Tensor, "B 3 H W"]:
    """(image / 255 - mean) / std, on the device and in the precision of `like`."""
    scaled = rearrange(images.to(like.device, non_blocking=True), "b h w c -> b c h w").float() / 255
    center, spread = (torch.tensor(v, device=like.device)[:, None, None] for v in (mean, std))
    return ((scaled - center) / spread).to(like.dtype)


class TextConditions(ABC):
    """What encoders of captions share."""

    kind: ConditionKind = "text"

    @abstractmethod
    def prepare(self, captions: Sequence[str]) -> Int[Tensor, "B N"]:
        """See `ConditionEncoder`."""

    @abstractmethod
    def run(self, prepared: Int[Tensor, "B N"]) -> Condition:
        """See `ConditionEncoder`."""

    def encode(self, captions: Sequence[str]) -> Condition:
        """See `ConditionEncoder`."""
        return self.run(self.prepare(captions))

    def empty(self) -> Condition:
        """The features of the caption ""."""
        return self.encode([""])


class ImageConditions(ABC):
    """What encoders of pictures share."""

    kind: ConditionKind = "image"

    @abstractmethod
    def prepare(self, images: UInt8[np.ndarray, "B H W 3"]) -> UInt8[Tensor, "B h w 3"]:
        """See `ConditionEncoder`."""

    @abstractmethod
    def run(self, prepared: UInt8[Tensor, "B h w 3"]) -> Condition:
        """See `ConditionEncoder`."""

    def encode(self, images: UInt8[np.ndarray, "B H W 3"]) -> Condition:
        """See `ConditionEncoder`."""
        return self.run(self.prepare(images))

    def empty(self) -> Condition:
        """The features of a white picture."""
        return self.encode(white())
