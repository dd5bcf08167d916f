"""What was recorded of a small published image model, and this model through the converter, for the tests of parity."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sar3d.ar import ARTransformer
from sar3d.hub import convert_published


def recorded(shared: Path) -> dict[str, Tensor]:
    with np.load(shared / "goldens" / "ar_image.npz") as arrays:
        found = {key: torch.from_numpy(arrays[key]) for key in arrays}
    return {key: a.float() if a.is_floating_point() else a.long() for key, a in found.items()}


def converted(shared: Path) -> ARTransformer:
    found = convert_published(shared / "goldens" / "tiny_ar_image.safetensors")
    assert isinstance(found, ARTransformer)
    return found.requires_grad_(False)
