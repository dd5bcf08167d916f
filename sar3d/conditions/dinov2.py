"""DINOv2: patch tokens without the class token, which is the pooled vector (published.md, data)."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from sar3d.conditions.base import IMAGENET_MEAN, IMAGENET_STD, ImageConditions, normalize, resize_and_crop
from sar3d.conditions.condition import Condition
from sar3d.conditions.pretrained import load_pretrained

SHORTEST = 256
CROP = 224


class DINOv2Encoder(ImageConditions):
    """`facebook/dinov2-large` and its relatives: tokens (B, 256, C) for patches of 14 pixels, pooled (B, C).

    Pictures are prepared as the stock processor does: shortest side 256 bicubic, center 224, ImageNet statistics.
    """

    def __init__(self, folder: Path, id: str, device: torch.device) -> None:
        """Raises `UserError` for a folder that holds no DINOv2 model."""
        from transformers import Dinov2Model

        self.id = id
        self.model: Any = load_pretrained(Dinov2Model, folder, device)
        config = self.model.config
        self.shape = ((CROP // int(config.patch_size)) ** 2, int(config.hidden_size))
        self.width = int(config.hidden_size)

    def prepare(self, images: UInt8[np.ndarray, "B H W 3"]) -> UInt8[Tensor, "B h w 3"]:
        """See `ConditionEncoder`."""
        return resize_and_crop(images, SHORTEST, CROP)

    @torch.inference_mode()
    def run(self, prepared: UInt8[Tensor, "B h w 3"]) -> Condition:
        """See `ConditionEncoder`."""
        weight = next(self.model.parameters())
        out = self.model(pixel_values=normalize(prepared, IMAGENET_MEAN, IMAGENET_STD, weight))
        return Condition(out.last_hidden_state[:, 1:], out.pooler_output)
