"""What keeps a field that is learned through its mesh well-behaved."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def sign_consistency(sdf: Float[Tensor, "B N N N"]) -> Float[Tensor, ""]:
    """Pull apart what holds floaters together: the sum of both ends' cross-entropy with the other end's sign, averaged
    over all grid edges whose ends have different signs; 0 if there is none (Munkberg et al. 2022, equation 2).
    """
    ends = []
    for axis in range(1, 4):
        count = sdf.shape[axis] - 1
        ends.append(torch.stack([sdf.narrow(axis, 0, count), sdf.narrow(axis, 1, count)], -1).reshape(-1, 2))
    return edge_sign_consistency(torch.cat(ends))


def edge_sign_consistency(ends: Float[Tensor, "E 2"]) -> Float[Tensor, ""]:
    """`sign_consistency` of grid edges given by the field at their ends; edges without a change of sign do not count."""
    crossed = ends[ends[:, 0].sign() != ends[:, 1].sign()]
    if not len(crossed):
        return ends.sum() * 0
    a, b = crossed.unbind(-1)
    return F.binary_cross_entropy_with_logits(a, (b > 0).to(a)) + F.binary_cross_entropy_with_logits(b, (a > 0).to(b))


def surface_presence(sdf: Float[Tensor, "B N N N"], margin: float) -> Float[Tensor, "B"]:
    """What brings a surface back to objects that have none; 0 for all others.

    Where no inner point is inside, the least inner value is pulled below -`margin`; where all points are inside, the
    greatest value on the border is pulled above `margin`.
    """
    inner = sdf[:, 1:-1, 1:-1, 1:-1].flatten(1)
    on_border = F.pad(torch.zeros_like(sdf[:1, 1:-1, 1:-1, 1:-1], dtype=torch.bool), (1,) * 6, value=True)
    border = sdf.flatten(1)[:, on_border.flatten()]
    empty, full = (inner >= 0).all(1), (sdf < 0).flatten(1).all(1)
    rise, fall = torch.relu(inner.amin(1) + margin), torch.relu(margin - border.amax(1))
    return torch.where(empty, rise, torch.where(full, fall, 0.0))
