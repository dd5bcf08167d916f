"""Requests and results of decoding, common to the plain and the fast implementation."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sar3d.ar.config import ARConfig
from sar3d.ar.transformer import ARTransformer
from sar3d.conditions.condition import Condition
from sar3d.errors import UserError
from sar3d.vqvae.quantizer import MultiScaleQuantizer

Precision = Literal["auto", "fp32", "bf16"]
"""Of the transformer's matrix products and cached keys; embeddings, logits, sampling and code vectors are float32."""


@dataclass
class Generated:
    """What was generated for B prompts."""

    tokens: Int[Tensor, "B L"]
    """Scale after scale, in it plane after plane, in it row-major. With `smooth`, which mixes codes, the token of the
    greatest weight at each position."""
    f_hat: Float[Tensor, "BP D G G"]
    """Quantized latent planes, row 3b + p = plane p of sample b: what `VQVAE.decode` takes."""


@dataclass(frozen=True)
class Kept:
    """Tokens that samples begin with, as they are in other objects; the finer ones are drawn given these."""

    tokens: Int[Tensor, "B L"]
    """Of the objects; those of finer scales than the kept ones are not read."""
    scales: Sequence[int]
    """How many of each object's coarsest scales are kept: 0 draws everything, all of them give the object back."""

    def select(self, rows: Sequence[int]) -> "Kept":
        """Those of some samples, in this order."""
        return Kept(self.tokens[list(rows)], [self.scales[i] for i in rows])

    def mask(self, config: ARConfig) -> Bool[Tensor, "B L"]:
        """Which tokens are kept, on the CPU."""
        ends = torch.tensor([0, *config.ends])[torch.tensor(list(self.scales))]
        return torch.arange(config.tokens) < ends[:, None]

    def check(self, config: ARConfig, batch: int) -> None:
        """Raises `UserError` where the tokens are not of `batch` objects of this codebook and these scales."""
        most = len(config.scales)
        for count in self.scales:
            if not 0 <= count <= most:
                raise UserError(f"{count} scales cannot be kept: an object has {most}, so keep 0 to {most}")
        if len(self.scales) != batch or tuple(self.tokens.shape) != (batch, config.tokens):
            raise UserError(
                f"the kept tokens must be {batch} times {config.tokens}, one row a sample, not of shape "
                f"{tuple(self.tokens.shape)}: give all tokens of the objects"
            )
        if self.tokens.numel() and not 0 <= int(self.tokens.min()) <= int(self.tokens.max()) < config.codebook_size:
            raise UserError(
                f"the kept tokens are not of this codebook, which has the codes 0 to {config.codebook_size - 1}"
            )


@dataclass(frozen=True)
class DecodedScale:
    """One scale, just decoded."""

    scale: int
    tokens: Int[Tensor, "B l"]
    f_hat: Float[Tensor, "BP D G G"]
    """All scales so far."""
    logits: Callable[[], Float[Tensor, "B l K"]]
    """Computes the guided logits, float32, of the whole codebook. To be called before the next scale is decoded."""


OnScale = Callable[[DecodedScale], None]
"""Called after every scale."""


_WIDE = 1024
"""Width from which bf16 was found to pay on a CPU: twice as fast at d16."""


def settled(precision: Precision, model: ARTransformer) -> torch.dtype:
    """The type that matrix products run in.

    For `auto` bf16 where the model's device multiplies it much faster than float32: a GPU with bf16, or, for models
    of the published widths, a CPU with matrix tiles for it (AMX). Tokens then differ from those of other machines.

    Raises:
        UserError: there is no such precision, or the GPU cannot compute in it.
    """
    if precision not in get_args(Precision):
        raise UserError(f"there is no precision {precision}: choose one of {', '.join(get_args(Precision))}")
    device = model.start_embed.device
    if precision == "auto":
        fast = _has_tiles() and model.config.width >= _WIDE if device.type == "cpu" else _has_bf16(device)
        return torch.bfloat16 if fast else torch.float32
    if precision == "bf16" and device.type == "cuda" and not _has_bf16(device):
        raise UserError("this GPU cannot compute in bf16: choose precision=fp32")
    return torch.bfloat16 if precision == "bf16" else torch.float32


def _has_bf16(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def _has_tiles() -> bool:
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


def computing_in(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[None]:
    """Matrix products in that type."""
    # No weight is read twice in one context, and a graph must not read weights cast outside it.
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16, cache_enabled=False)


def check_request(
    model: ARTransformer,
    quantizer: MultiScaleQuantizer,
    condition: Condition,
    empty: Condition,
    seeds: Sequence[int],
    kept: Kept | None = None,
) -> None:
    """Raises `UserError` where the parts of a request do not fit each other."""
    config, codebook = model.config, quantizer.config
    made_for = (config.codebook_size, config.code_dim, tuple(config.scales))
    given = (codebook.codebook_size, codebook.code_dim, tuple(codebook.scales))
    if made_for != given:
        raise UserError(
            f"the transformer was made for {made_for[0]} codes of {made_for[1]} channels on scales {made_for[2]}, "
            f"not for a VQVAE of {given[0]} codes of {given[1]} channels on scales {given[2]}: give it its own VQVAE"
        )
    batch = len(condition.tokens)
    if batch < 1:
        raise UserError("there is nothing to generate: give at least one condition")
    if len(seeds) != batch:
        raise UserError(f"{batch} conditions need as many seeds, not {len(seeds)}")
    for seed in seeds:
        if not 0 <= seed < 2**64:
            raise UserError(f"a seed is a whole number from 0 to 2^64 - 1, not {seed}")
    _check_conditions(config, condition, empty)
    if kept is not None:
        kept.check(config, batch)


def _check_conditions(config: ARConfig, condition: Condition, empty: Condition) -> None:
    widths = (config.context_dim, config.pooled_dim)
    for name, one in (("condition", condition), ("empty condition", empty)):
        found = (one.tokens.shape[-1], one.pooled.shape[-1])
        if found != widths:
            raise UserError(
                f"the transformer takes conditions of widths {widths[0]} (tokens) and {widths[1]} (pooled), "
                f"but the {name} has {found[0]} and {found[1]}: use the encoder it was trained with"
            )
    if len(empty.tokens) != 1:
        raise UserError(f"one empty condition serves all samples; {len(empty.tokens)} were given")
    if empty.tokens.shape[1] != condition.tokens.shape[1]:
        raise UserError(
            f"the condition has {condition.tokens.shape[1]} tokens and the empty one {empty.tokens.shape[1]}: "
            "both must come from the same encoder"
        )
