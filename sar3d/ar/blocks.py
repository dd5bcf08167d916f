"""The transformer's block and output layer (published.md, transformer).

`modulations` and `keys_values` depend on the condition alone, `transform` on the tokens, so that decoding computes the
former once.
"""

import math
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sar3d.ar.attention import Attend, full_attention
from sar3d.ar.config import ARConfig

MAX_TEMPERATURE = 100.0
"""Bound of the factor on the cosines of queries and keys."""

KeysValues = tuple[Float[Tensor, "B A N E"], Float[Tensor, "B A N E"]]


class Modulation(NamedTuple):
    """Adaptive layer norm of one residual branch: x + gate · branch(norm(x) · (1 + scale) + shift)."""

    shift: Float[Tensor, "B 1 C"]
    scale: Float[Tensor, "B 1 C"]
    gate: Float[Tensor, "B 1 C"]


class CosineAttention(nn.Module):
    """What both attentions share: queries and keys of unit length, one learned temperature per head."""

    def __init__(self, config: ARConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.q_bias = nn.Parameter(torch.zeros(config.width))
        self.v_bias = nn.Parameter(torch.zeros(config.width))
        self.log_temperature = nn.Parameter(torch.full((config.heads,), math.log(4.0)))
        self.proj = nn.Linear(config.width, config.width)

    def queries(self, q: Float[Tensor, "B L C"]) -> Float[Tensor, "B A L E"]:
        """Unit queries, times their head's temperature."""
        temperature = self.log_temperature.float().clamp(max=math.log(MAX_TEMPERATURE)).exp()
        return (self._unit(q) * temperature[:, None, None]).to(q.dtype)

    def keys(self, k: Float[Tensor, "B L C"]) -> Float[Tensor, "B A L E"]:
        """Unit keys."""
        return self._unit(k).to(k.dtype)

    def values(self, v: Float[Tensor, "B L C"]) -> Float[Tensor, "B A L E"]:
        return rearrange(v, "b l (h e) -> b h l e", h=self.heads)

    def _unit(self, x: Tensor) -> Tensor:
        x = rearrange(x, "b l (h e) -> b h l e", h=self.heads).float()
        # Faster than F.normalize on the CPU; the summand keeps the gradient of a zero vector finite.
        return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-24)

    def output(self, attended: Float[Tensor, "B A L E"]) -> Float[Tensor, "B L C"]:
        return self.proj(rearrange(attended, "b h l e -> b l (h e)"))


class SelfAttention(CosineAttention):
    """Among the tokens; `attend` decides which of them see which."""

    def __init__(self, config: ARConfig) -> None:
        super().__init__(config)
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)

    def forward(self, x: Float[Tensor, "B L C"], attend: Attend) -> Float[Tensor, "B L C"]:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        q, k, v = F.linear(x, self.qkv.weight, bias).chunk(3, dim=-1)
        return self.output(attend(self.queries(q), self.keys(k), self.values(v)))


class CrossAttention(CosineAttention):
    """From the tokens to those of the condition."""

    def __init__(self, config: ARConfig) -> None:
        super().__init__(config)
        self.q = nn.Linear(config.width, config.width, bias=False)
        self.kv = nn.Linear(config.context_dim, 2 * config.width, bias=False)

    def keys_values(self, context: Float[Tensor, "B N Cc"]) -> KeysValues:
        """Of the condition's tokens."""
        bias = torch.cat([torch.zeros_like(self.v_bias), self.v_bias])
        k, v = F.linear(context, self.kv.weight, bias).chunk(2, dim=-1)
        return self.keys(k), self.values(v)

    def forward(self, x: Float[Tensor, "B L C"], context: KeysValues) -> Float[Tensor, "B L C"]:
        q = F.linear(x, self.q.weight, self.q_bias)
        return self.output(full_attention(self.queries(q), *context))


class RMSNorm(nn.Module):
    """x / max(rms(x), 1e-5) · g, in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "B L C"]) -> Float[Tensor, "B L C"]:
        wide = x.float()
        inverse = wide.square().mean(-1, keepdim=True).clamp(min=1e-10).rsqrt()
        return (wide * inverse * self.gain).to(x.dtype)


class AdaLN(nn.Module):
    """Shifts, scales and gates as functions of the condition (adaptive layer norm), in the parameters' precision under
    autocast, too: there is one vector per sample, and 1 + scale is coarse in bf16.
    """

    def __init__(self, width: int, vectors: int) -> None:
        super().__init__()
        self.vectors = vectors
        self.linear = nn.Linear(width, vectors * width)

    def forward(self, cond: Float[Tensor, "B C"]) -> tuple[Float[Tensor, "B 1 C"], ...]:
        with torch.autocast(cond.device.type, enabled=False):
            return rearrange(self.linear(F.silu(cond)), "b (n c) -> b n 1 c", n=self.vectors).unbind(1)


def modulate(
    x: Float[Tensor, "B L C"], shift: Float[Tensor, "B 1 C"], scale: Float[Tensor, "B 1 C"]
) -> Float[Tensor, "B L C"]:
    """Layer norm without parameters of its own, then scale and shift."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


def drop_path(branch: Float[Tensor, "B L C"], keep: Float[Tensor, "B 3"] | None, index: int) -> Float[Tensor, "B L C"]:
    """A residual branch times its factor in `keep`: 0 drops it, None keeps it as it is."""
    return branch if keep is None else keep[:, index, None, None] * branch


class Block(nn.Module):
    """Self-attention, cross-attention to the condition's tokens, and an MLP; the condition modulates first and last.

    The image model attends to the condition before, the text model after the self-attention.
    """

    def __init__(self, config: ARConfig) -> None:
        super().__init__()
        self.cross_attn_first = config.condition == "image"
        self.modulation = AdaLN(config.width, 6)
        self.self_attn = SelfAttention(config)
        self.cross_norm = RMSNorm(config.width)
        self.cross_attn = CrossAttention(config)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, config.mlp_ratio * config.width),
            nn.GELU(approximate="tanh"),
            nn.Linear(config.mlp_ratio * config.width, config.width),
        )

    def forward(
        self,
        x: Float[Tensor, "B L C"],
        cond: Float[Tensor, "B C"],
        context: Float[Tensor, "B N Cc"],
        attend: Attend,
        keep: Float[Tensor, "B 3"] | None = None,
    ) -> Float[Tensor, "B L C"]:
        """The residual stream after the block.

        Args:
            cond: the condition's vector, see `ARTransformer.condition_vector`.
            context: the condition's tokens.
            attend: self-attention of queries, keys and values.
            keep: factors of the three branches in the order in which they run, for drop path; None for ones.
        """
        return self.transform(x, self.modulations(cond), self.cross_attn.keys_values(context), attend, keep)

    def modulations(self, cond: Float[Tensor, "B C"]) -> tuple[Modulation, Modulation]:
        """Of the self-attention and of the MLP."""
        gate1, gate2, scale1, scale2, shift1, shift2 = self.modulation(cond)
        return Modulation(shift1, scale1, gate1), Modulation(shift2, scale2, gate2)

    def transform(
        self,
        x: Float[Tensor, "B L C"],
        modulations: tuple[Modulation, Modulation],
        context: KeysValues,
        attend: Attend,
        keep: Float[Tensor, "B 3"] | None = None,
    ) -> Float[Tensor, "B L C"]:
        """`forward`, given what depends on the condition alone."""
        attn, mlp = modulations
        if self.cross_attn_first:
            x = x + drop_path(self.cross_attn(self.cross_norm(x), context), keep, 0)
            x = x + drop_path(attn.gate * self.self_attn(modulate(x, attn.shift, attn.scale), attend), keep, 1)
        else:
            x = x + drop_path(attn.gate * self.self_attn(modulate(x, attn.shift, attn.scale), attend), keep, 0)
            x = x + drop_path(self.cross_attn(self.cross_norm(x), context), keep, 1)
        return x + drop_path(mlp.gate * self.mlp(modulate(x, mlp.shift, mlp.scale)), keep, 2)


class Head(nn.Module):
    """From the residual stream to logits over the codebook."""

    def __init__(self, config: ARConfig) -> None:
        super().__init__()
        self.modulation = AdaLN(config.width, 2)
        self.linear = nn.Linear(config.width, config.codebook_size)

    def forward(self, x: Float[Tensor, "B L C"], cond: Float[Tensor, "B C"]) -> Float[Tensor, "B L K"]:
        """Logits, float32."""
        scale, shift = self.modulation(cond)
        return self.linear(modulate(x, shift, scale)).float()
