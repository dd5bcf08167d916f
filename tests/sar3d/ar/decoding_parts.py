"""A small transformer, its quantizer and prompts, for tests of decoding."""

from collections.abc import Sequence

import torch

from sar3d.ar import ARConfig, ARTransformer
from sar3d.conditions.condition import Condition
from sar3d.conditions.kinds import ConditionKind
from sar3d.vqvae.config import QuantizerConfig
from sar3d.vqvae.quantizer import MultiScaleQuantizer

CODES, DIM, WIDTHS, PROMPT = 96, 8, (12, 10), 5
SHORT = (1, 2, 3, 5)
FULL = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)


def transformer(
    condition: ConditionKind = "image",
    scales: Sequence[int] = SHORT,
    depth: int = 2,
    width: int = 32,
    heads: int = 2,
    sequential: int = 0,
) -> ARTransformer:
    """With weights that all matter, so that codes depend on prompt, place and what came before."""
    torch.manual_seed(0)
    config = ARConfig(
        condition=condition,
        depth=depth,
        width=width,
        heads=heads,
        codebook_size=CODES,
        code_dim=DIM,
        scales=tuple(scales),
        context_dim=WIDTHS[0],
        pooled_dim=WIDTHS[1],
        sequential_scales=sequential,
    )
    model = ARTransformer(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "log_temperature" not in name:
                parameter.normal_(std=0.4 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5)
        model.pos_embed.normal_(std=2)
        model.token_in.weight.normal_()
        if model.sequential is not None:
            model.sequential.pos_embed.normal_(std=2)
            model.sequential.token_in.weight.normal_()
            model.sequential.output.weight.mul_(3)
    return model.requires_grad_(False)


def quantizer(scales: Sequence[int] = SHORT) -> MultiScaleQuantizer:
    torch.manual_seed(1)
    return MultiScaleQuantizer(QuantizerConfig(codebook_size=CODES, code_dim=DIM, scales=tuple(scales))).requires_grad_(
        False
    )


def prompts(count: int, seed: int = 2) -> Condition:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(count, PROMPT, WIDTHS[0], generator=generator)
    return Condition(tokens, torch.randn(count, WIDTHS[1], generator=generator))


def empty() -> Condition:
    return prompts(1, seed=3)
