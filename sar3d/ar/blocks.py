"""The transformer's block and output layer (published.md, transformer).

What depends on the condition alone (`modulation`, `context`) is apart from what depends on the tokens (`transform`), so
that decoding computes it once.
"""

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sar3d.ar.attention import Attend, full_attention
from sar3d.ar.config import ARConfig

MAX_TEMPERATURE = 100.0
"""Bound of the factor that makes up for unit queries and keys."""

KeysValues = tuple[Float[Tensor, "B H N E"], Float[Tensor, "B H N E"]]


class UnitAttention(nn.Module):
    """What both attentions share: queries and keys of unit length, one learned temperature per head."""

    def __init__(self, config: ARConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.q_bias = nn.Parameter(torch.zeros(config.width))
        self.v_bias = nn.Parameter(torch.zeros(config.width))
        self.log_temperature = nn.Parameter(torch.full((config.heads,), math.log(4.0)))
        self.proj = nn.Linear(config.width, config.width)

    def queries(self, q: Float[Tensor, "B L C"]) -> Float[Tensor, "B H L E"]:
        """Unit queries, times their head's temperature."""
        temperature = self.log_temperature.float().clamp(max=math.log(MAX_TEMPERATURE)).exp()
        return (self._unit(q) * temperature[:, None, None]).to(q.dtype)

    def keys(self, k: Float[Tensor, "B L C"]) -> Float[Tensor, "B H L E"]:
        """Unit keys."""
        return self._unit(k).to(k.dtype)

    def values(self, v: Float[Tensor, "B L C"]) -> Float[Tensor, "B H L E"]:
        return rearrange(v, "b l (h e) -> b h l e", h=self.heads)

    def _unit(self, x: Tensor) -> Tensor:
        x = rearrange(x, "b l (h e) -> b h l e", h=self.heads).float()
        # Faster than F.normalize on the CPU; the summand keeps the gradient of a zero vector finite.
        return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-24)

    def output(self, gathered: Float[Tensor, "B H L E"]) -> Float[Tensor, "B L C"]:
        return self.proj(rearrange(gathered, "b h l e -> b l (h e)"))


class SelfAttention(UnitAttention):
    """Among the tokens; `attend` decides which of them see which."""

    def __init__(self, config: ARConfig) -> None:
        super().__init__(config)
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)

    def forward(self, x: Float[Tensor, "B L C"], attend: Attend) -> Float[Tensor, "B L C"]:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        q, k, v = F.linear(x, self.qkv.weight, bias).chunk(3, dim=-1)
        return self.output(attend(self.queries(q), self.keys(k), self.values(v)))


class CrossAttention(UnitAttention):
    """From the tokens to those of the condition."""

    def __init__(self, config: ARConfig) -> None:
        super().__init__(config)
        self.q = nn.Linear(config.width, config.width, bias=False)
        self.kv = nn.Linear(config.condition_width, 2 * config.width, bias=False)

    def keys_values(self, tokens: Float[Tensor, "B N C2"]) -> KeysValues:
        """Of the condition."""
        bias = torch.cat([torch.zeros_like(self.v_bias), self.v_bias])
        k, v = F.linear(tokens, self.kv.weight, bias).chunk(2, dim=-1)
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


class Modulation(nn.Module):
    """Scales, shifts and gates as functions of the condition (adaptive layer norm), in the parameters' precision
    whatever autocast says: there is one vector per sample, and 1 + scale is coarse in bf16.
    """

    def __init__(self, width: int, vectors: int) -> None:
        super().__init__()
        self.vectors = vectors
        self.linear = nn.Linear(width, vectors * width)

    def forward(self, cond: Float[Tensor, "B C"]) -> Float[Tensor, "B n 1 C"]:
        with torch.autocast(cond.device.type, enabled=False):
            return rearrange(self.linear(F.silu(cond)), "b (n c) -> b n 1 c", n=self.vectors)


def modulated(
    x: Float[Tensor, "B L C"], scale: Float[Tensor, "B 1 C"], shift: Float[Tensor, "B 1 C"]
) -> Float[Tensor, "B L C"]:
    """Layer norm without parameters of its own, then scale and shift."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


class Block(nn.Module):
    """Self-attention and feed-forward, which the condition modulates, and cross-attention to its tokens.

    The image model looks at the condition first, the text model after the self-attention.
    """

    def __init__(self, config: ARConfig) -> None:
        super().__init__()
        self.condition_first = config.condition == "image"
        self.modulation = Modulation(config.width, 6)
        self.self_attention = SelfAttention(config)
        self.cross_norm = RMSNorm(config.width)
        self.cross_attention = CrossAttention(config)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, config.mlp_ratio * config.width),
            nn.GELU(approximate="tanh"),
            nn.Linear(config.mlp_ratio * config.width, config.width),
        )

    def forward(
        self,
        x: Float[Tensor, "B L C"],
        cond: Float[Tensor, "B C"],
        tokens: Float[Tensor, "B N C2"],
        attend: Attend,
        keep: Float[Tensor, "B 3"] | None = None,
    ) -> Float[Tensor, "B L C"]:
        """The stream after the block.

        Args:
            cond: the condition's vector, see `ARTransformer.condition_vector`.
            tokens: the condition's tokens.
            attend: self-attention of queries, keys and values.
            keep: factors of the three branches in their order, for drop path.
        """
        return self.transform(x, self.modulation(cond), self.cross_attention.keys_values(tokens), attend, keep)

    def transform(
        self,
        x: Float[Tensor, "B L C"],
        modulation: Float[Tensor, "B 6 1 C"],
        context: KeysValues,
        attend: Attend,
        keep: Float[Tensor, "B 3"] | None = None,
    ) -> Float[Tensor, "B L C"]:
        """`forward`, given what depends on the condition alone."""
        gate1, gate2, scale1, scale2, shift1, shift2 = modulation.unbind(1)

        def look_around(x: Tensor) -> Tensor:
            return gate1 * self.self_attention(modulated(x, scale1, shift1), attend)

        def look_at_condition(x: Tensor) -> Tensor:
            return self.cross_attention(self.cross_norm(x), context)

        def think(x: Tensor) -> Tensor:
            return gate2 * self.mlp(modulated(x, scale2, shift2))

        looks = (look_at_condition, look_around) if self.condition_first else (look_around, look_at_condition)
        for i, branch in enumerate((*looks, think)):
            x = x + (branch(x) if keep is None else keep[:, i, None, None] * branch(x))
        return x


class Head(nn.Module):
    """From the stream to scores of the codes."""

    def __init__(self, config: ARConfig) -> None:
        super().__init__()
        self.modulation = Modulation(config.width, 2)
        self.linear = nn.Linear(config.width, config.codes)

    def forward(self, x: Float[Tensor, "B L C"], cond: Float[Tensor, "B C"]) -> Float[Tensor, "B L K"]:
        """Logits, float32."""
        return self.transform(x, self.modulation(cond))

    def transform(self, x: Float[Tensor, "B L C"], modulation: Float[Tensor, "B 2 1 C"]) -> Float[Tensor, "B L K"]:
        """`forward`, given what depends on the condition alone."""
        scale, shift = modulation.unbind(1)
        return self.linear(modulated(x, scale, shift)).float()
