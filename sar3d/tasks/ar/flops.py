"""How much arithmetic the transformer takes, and how much a GPU could do: model FLOPs utilization."""

from typing import Literal

from sar3d.ar.config import ARConfig

TRAINING = 3
"""A forward and a backward pass cost this many forward passes; recomputed activations do not count as useful."""

_PEAKS: tuple[tuple[str, float, float], ...] = (
    ("H100 PCIe", 756e12, 51.2e12),
    ("H100 NVL", 835e12, 60.0e12),
    ("H100", 989e12, 66.9e12),
    ("H200 NVL", 835e12, 60.0e12),
    ("H200", 989e12, 66.9e12),
    ("A100", 312e12, 19.5e12),
    ("L40S", 362e12, 91.6e12),
)
"""Part of a name as torch.cuda gives it, dense bf16 and float32 (without TF32) operations per second by the vendor's
data sheets; the first one that fits decides."""


def pairs(config: ARConfig) -> int:
    """Queries times the keys they see, in one sample's self-attention."""
    return sum(length * end for length, end in zip(config.lengths, config.ends, strict=True))


def forward_flops(config: ARConfig, condition_tokens: int) -> float:
    """Floating-point operations of one sample's forward pass: two per multiplication and addition of the matrix products
    that the model needs, whatever way it attends.

    Args:
        config: of the transformer.
        condition_tokens: N, length of the condition.
    """
    width, tokens = config.width, config.tokens
    # Self-attention: qkv and output; cross-attention: queries and output; feed-forward: in and out.
    per_token = (4 + 2 + 2 * config.mlp_ratio) * width * width
    per_block = (
        tokens * per_token
        + 2 * width * (pairs(config) + tokens * condition_tokens)
        + condition_tokens * config.context_dim * 2 * width
        + 6 * width * width
    )
    outside = (
        (tokens - config.lengths[0]) * config.code_dim * width
        + config.pooled_dim * width
        + 2 * width * width
        + tokens * width * config.codebook_size
    )
    if config.sequential_scales:
        count = config.sequential_tokens
        outside += count * (config.code_dim + (5 + 2 * config.mlp_ratio) * width) * width + width * count * (count + 1)
    return 2.0 * (config.depth * per_block + outside)


def training_flops(config: ARConfig, condition_tokens: int) -> float:
    """Of one sample's forward and backward pass."""
    return TRAINING * forward_flops(config, condition_tokens)


def peak_flops(device_name: str, precision: Literal["fp32", "bf16"] = "bf16") -> float | None:
    """Operations per second that a GPU reaches at best; None for one that is not in the table.

    Args:
        device_name: as `torch.cuda.get_device_name` gives it.
        precision: of the matrix products.
    """
    found = next((peaks for name, *peaks in _PEAKS if name.lower() in device_name.lower()), None)
    if found is None:
        return None
    return found[0] if precision == "bf16" else found[1]
