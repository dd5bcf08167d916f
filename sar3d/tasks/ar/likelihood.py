"""How likely a model finds the codes of objects: cross-entropy and accuracy, overall and by scale."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from sar3d.ar.config import ARConfig
from sar3d.vqvae.config import PLANES
from sar3d.vqvae.quantizer import MultiScaleQuantizer, unpack


@dataclass(frozen=True)
class Likelihood:
    """Means over all positions of a batch, but for the loss."""

    loss: Float[Tensor, ""]
    """Cross-entropy in nats, with gradient: the mean over positions, or over the scales' means."""
    metrics: dict[str, Tensor]
    """`accuracy`, and by scale `ce/scale_<side>` and `accuracy/scale_<side>`; detached."""


def likelihood(
    logits: Float[Tensor, "B L K"],
    tokens: Int64[Tensor, "B M"],
    scales: Sequence[int],
    by_scale: bool = True,
    weighting: Literal["tokens", "scales"] = "tokens",
) -> Likelihood:
    """Compare logits of the first `scales` with an object's codes, of which there may be more than logits.

    `weighting`: the loss weighs every token, or every scale, alike.
    """
    wanted = tokens[:, : logits.shape[1]]
    entropy = F.cross_entropy(rearrange(logits.float(), "b l k -> (b l) k"), wanted.flatten(), reduction="none")
    with torch.no_grad():
        right = (logits.argmax(-1) == wanted).float()
    metrics = {"accuracy": right.mean()}
    lengths = [PLANES * side * side for side in scales]
    parts = rearrange(entropy, "(b l) -> b l", b=len(wanted)).split(lengths, 1)
    if by_scale:
        for side, ce, hits in zip(scales, parts, right.split(lengths, 1), strict=True):
            metrics |= {f"ce/scale_{side}": ce.detach().mean(), f"accuracy/scale_{side}": hits.mean()}
    loss = entropy.mean() if weighting == "tokens" else torch.stack([part.mean() for part in parts]).mean()
    return Likelihood(loss, metrics)


def sequential_code_vectors(
    quantizer: MultiScaleQuantizer, tokens: Int64[Tensor, "B L"], config: ARConfig
) -> Float[Tensor, "B m D"] | None:
    """Teacher-forcing vectors of the tokens that a transformer draws one after another; None where there are none."""
    if not config.sequential_scales:
        return None
    with torch.no_grad():
        return quantizer.code_vectors(0, tokens[:, : config.sequential_tokens], "generate")


@torch.no_grad()
def next_inputs(
    quantizer: MultiScaleQuantizer, tokens: Int64[Tensor, "B L"], scales: int | None = None
) -> Float[Tensor, "B M D"]:
    """Teacher-forcing inputs of the scales after the first, of the first `scales` only (None: all).

    M is the number of their tokens without the first scale's.

    Raises:
        UserError: the codes are not of this codebook or these scales.
    """
    sides = quantizer.config.scales
    count = len(sides) if scales is None else scales
    indices = unpack(tokens, sides)
    if count == len(sides):
        return quantizer.next_inputs(indices)
    f_hat = tokens.new_zeros(
        (PLANES * len(tokens), quantizer.config.code_dim, sides[-1], sides[-1]), dtype=torch.float32
    )
    inputs = [f_hat.new_zeros(len(tokens), 0, quantizer.config.code_dim)]
    for scale, found in enumerate(indices[: count - 1]):
        f_hat, following = quantizer.step(f_hat, scale, quantizer.code_vectors(scale, found, "generate"))
        assert following is not None
        inputs.append(rearrange(following, "(b p) l d -> b (p l) d", p=PLANES))
    return torch.cat(inputs, 1)
