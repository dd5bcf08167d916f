"""What differs between the scales of the quantizer: their convolution φ, and the resampling to and from their maps."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_STANDARD_PHI = (0, 0, 1, 1, 1, 2, 2, 3, 3, 3)
"""φ of each of ten scales. Two entries are ties of the rule in `phi_of_scale`, which rounding would decide."""


def phi_of_scale(scales: int, convolutions: int) -> tuple[int, ...]:
    """Which φ serves each scale: the one whose tick lies nearest to the scale's place in [0, 1] (published.md, quantizer)."""
    if (scales, convolutions) == (len(_STANDARD_PHI), 4):
        return _STANDARD_PHI
    margin = 1 / (3 * convolutions)
    ticks = np.linspace(margin, 1 - margin, convolutions)
    places = np.arange(scales) / max(1, scales - 1)
    return tuple(np.abs(ticks - places[:, None]).argmin(1).tolist())


def resampling(source: int, target: int, mode: str) -> Float[Tensor, "source2 target2"]:
    """(source², target²) matrix of a linear resampling of square maps.

    One matrix product is faster than the library's resampling here and, unlike it, has a deterministic gradient on
    a GPU.
    """
    basis = torch.eye(source * source).view(source * source, 1, source, source)
    return F.interpolate(basis, (target, target), mode=mode).flatten(1)
