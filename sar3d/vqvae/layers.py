"""What encoder and decoder share: residual blocks, attention, activation checkpointing."""

import math
from collections.abc import Callable

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from sar3d.errors import UserError


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm of 32 groups, or as many as divide a width that 32 does not."""
    return nn.GroupNorm(math.gcd(32, channels), channels, eps=1e-6)


def conv3(inputs: int, outputs: int) -> nn.Conv2d:
    """3×3 convolution that keeps the size."""
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class ResBlock(nn.Module):
    """Two normalized 3×3 convolutions beside a shortcut (Stable Diffusion's, without time embedding)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1 = group_norm(inputs)
        self.conv1 = conv3(inputs, outputs)
        self.norm2 = group_norm(outputs)
        self.conv2 = conv3(outputs, outputs)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C2 H W"]:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return self.shortcut(x) + h


def attention(
    q: Float[Tensor, "B L C"], k: Float[Tensor, "B L2 C"], v: Float[Tensor, "B L2 C"], heads: int
) -> Float[Tensor, "B L C"]:
    """Scaled dot-product attention of `heads` equal slices of the width."""
    q, k, v = (rearrange(t, "b l (h d) -> b h l d", h=heads) for t in (q, k, v))
    return rearrange(F.scaled_dot_product_attention(q, k, v), "b h l d -> b l (h d)")


def check_heads(part: str, width: int, heads: int) -> None:
    """Raises `UserError` where `heads` do not divide the width."""
    if heads < 1 or width % heads:
        raise UserError(f"the {part} has a width of {width}, which {heads} heads do not divide: choose another number")


def run(function: Callable[..., Tensor], *inputs: Tensor, recompute: bool) -> Tensor:
    """function(*inputs); with `recompute`, its activations are dropped and computed again in the backward pass."""
    if not recompute:
        return function(*inputs)
    # Nothing in these models draws random numbers, so there is no generator state to restore.
    result: Tensor = checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
    return result
