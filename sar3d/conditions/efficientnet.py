"""EfficientNet-Lite0: a small image network whose weights come in a package. Not DINOv2: its features mean other things."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor

from sar3d.conditions.base import ImageConditions, normalize, resize_and_crop
from sar3d.conditions.condition import Condition
from sar3d.errors import UserError

SIDE = 224
GRID = 7
CHANNELS = 1280
_MEAN = (127 / 255,) * 3
_STD = (128 / 255,) * 3


class EfficientNetEncoder(ImageConditions):
    """Tokens (B, 49, 1280): the last feature map at 224², row-major; pooled (B, 1280) their mean.

    Pictures are resized to 224² whole; the Lite networks take (value - 127) / 128.
    """

    shape = (GRID * GRID, CHANNELS)
    width = CHANNELS

    def __init__(self, file: Path, id: str, device: torch.device) -> None:
        """Raises `UserError` for a file that holds other weights."""
        from efficientnet_lite_pytorch import EfficientNet

        self.id = id
        self.model: Any = EfficientNet.from_name("efficientnet-lite0")
        try:
            self.model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True), strict=True)
        except Exception as error:
            # A damaged file breaks the unpickler wherever it stumbles.
            raise UserError(f"{file} holds no weights of EfficientNet-Lite0: install its package again") from error
        self.model = self.model.to(device, torch.float16 if device.type == "cuda" else torch.float32)
        self.model.eval().requires_grad_(False)

    def prepare(self, images: UInt8[np.ndarray, "B H W 3"]) -> UInt8[Tensor, "B h w 3"]:
        """See `ConditionEncoder`."""
        return resize_and_crop(images, SIDE, SIDE)

    @torch.inference_mode()
    def run(self, prepared: UInt8[Tensor, "B h w 3"]) -> Condition:
        """See `ConditionEncoder`."""
        pixels = normalize(prepared, _MEAN, _STD, next(self.model.parameters()))
        tokens = rearrange(self.model.extract_features(pixels), "b c h w -> b (h w) c")
        return Condition(tokens, tokens.float().mean(dim=1).to(tokens.dtype))
