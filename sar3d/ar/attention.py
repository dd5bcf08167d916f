"""Attention over a sequence of scales, where a token sees its own scale and all coarser ones.

Three ways that agree in value and gradient: a boolean mask over all pairs (`dense`), FlexAttention with a block mask
(`flex`), and one attention without a mask for every scale over the keys so far (`scales`).
"""

import itertools
from collections.abc import Callable
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from sar3d.errors import UserError

AttentionKind = Literal["dense", "flex", "scales"]

Attend = Callable[[Float[Tensor, "B A L E"], Float[Tensor, "B A L E"], Float[Tensor, "B A L E"]], Tensor]
"""Queries, keys and values of some tokens to their attended values, (B, A, L, E). Training attends over the whole sequence;
decoding attends from one scale to itself and to the cached scales before it."""


def full_attention(
    q: Float[Tensor, "B A L E"], k: Float[Tensor, "B A N E"], v: Float[Tensor, "B A N E"]
) -> Float[Tensor, "B A L E"]:
    """Attention of every query to every key. Queries carry their temperature, so the scores are not scaled."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and torch.is_grad_enabled() and q.requires_grad:
        # The backward pass of PyTorch's fused kernel takes 1.4 to 5 times as long as these products, from 2,040 to 30 keys.
        return torch.softmax(q @ k.mT, -1) @ v
    return F.scaled_dot_product_attention(q, k, v, scale=1.0)


def scale_causal_attention(kind: AttentionKind | None, ends: tuple[int, ...], device: torch.device) -> Attend:
    """Attention, causal over scales, over a sequence whose scales end at `ends` (`ARConfig.ends`, or a prefix of it).

    Args:
        kind: None for the fastest on the device: `flex` on a GPU where it can be compiled, else `scales`. On the CPU
            `flex` runs uncompiled, slowly, and has no backward pass.

    Raises:
        UserError: there is no such kind.
    """
    kind = kind or best_attention(device)
    if kind == "dense":
        return partial(F.scaled_dot_product_attention, attn_mask=scale_causal_mask(ends, device), scale=1.0)
    if kind == "flex":
        return partial(flex_scale_causal_attention, block_mask=scale_causal_block_mask(ends, device))
    if kind == "scales":
        return partial(per_scale_attention, ends=ends)
    raise UserError(f"there is no attention {kind}: choose one of {', '.join(get_args(AttentionKind))}")


def best_attention(device: torch.device) -> AttentionKind:
    """What trains fastest on the device."""
    return "flex" if device.type == "cuda" and find_spec("triton") else "scales"


@lru_cache(maxsize=16)
def scale_causal_mask(ends: tuple[int, ...], device: torch.device) -> Bool[Tensor, "L L"]:
    """Which key (column) each query (row) sees."""
    scale = _scale_of_token(ends, device)
    return scale[:, None] >= scale


@lru_cache(maxsize=16)
def scale_causal_block_mask(ends: tuple[int, ...], device: torch.device) -> BlockMask:
    """The same mask for FlexAttention, which skips blocks that are masked entirely."""
    scale = _scale_of_token(ends, device)

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return scale[query] >= scale[key]

    return create_block_mask(sees, None, None, ends[-1], ends[-1], device=device)


def _scale_of_token(ends: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.bucketize(torch.arange(ends[-1], device=device), torch.tensor(ends, device=device), right=True)


def per_scale_attention(
    q: Float[Tensor, "B A L E"], k: Float[Tensor, "B A L E"], v: Float[Tensor, "B A L E"], ends: tuple[int, ...]
) -> Float[Tensor, "B A L E"]:
    """One attention per scale, over the keys so far: 62 % of the pairs of the published sequence, and no mask."""
    parts = q.split([end - begin for begin, end in itertools.pairwise((0, *ends))], 2)
    return torch.cat(
        [full_attention(part, k[:, :, :end], v[:, :, :end]) for part, end in zip(parts, ends, strict=True)], 2
    )


def flex_scale_causal_attention(q: Tensor, k: Tensor, v: Tensor, block_mask: BlockMask) -> Float[Tensor, "B A L E"]:
    """FlexAttention, compiled on a GPU, by itself or as part of a compiled block.

    Raises:
        UserError: a gradient is needed where there is no backward pass.
    """
    if not q.is_cuda and torch.is_grad_enabled() and q.requires_grad:
        raise UserError(f"flex attention cannot train on the {q.device.type}: choose the attention scales or dense")
    if not q.is_cuda or torch.compiler.is_compiling():
        return flex_attention(q, k, v, block_mask=block_mask, scale=1.0)
    gathered: Tensor = _compiled_flex()(q, k, v, block_mask=block_mask, scale=1.0)
    return gathered


@lru_cache(maxsize=1)
def _compiled_flex() -> Callable[..., Any]:
    return torch.compile(flex_attention, dynamic=False)
