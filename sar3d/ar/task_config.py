"""How the generator is trained: size, rates, dropped conditions, prefixes (published.md, transformer). No model is imported."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from sar3d.ar.config import ARConfig, ConditionKind, from_dict, preset, to_dict
from sar3d.ar.decoding_config import DECODINGS, Decoding
from sar3d.errors import UserError
from sar3d.vqvae.config import VQVAEConfig

_FORBID: dict[str, str] = {"extra": "forbid"}


@dataclass(frozen=True)
class ConditionDropoutConfig:
    """Which samples are trained without their condition, so that the model can be guided. Only in training."""

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID

    share: float = 0.1
    """Share of the samples."""
    kind: Literal["joint", "published"] = "joint"
    """`joint`: the pooled vector and the tokens are replaced together by the empty condition's. `published`: each of
    them on its own, so that both are empty in `share`² of the samples only."""

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise UserError(f"dropout.share={self.share:g} is wrong: it is a share of the samples, from 0 to below 1")


@dataclass(frozen=True)
class PrefixConfig:
    """Train mostly on the coarse scales, which is exact for them and saves most of the time where that is short.

    Attention is causal over scales, so the first scales' predictions do not depend on the others. Of the published 2,040
    tokens the last two scales hold 1,275. The price: these are trained in fewer steps, and within a step the mean
    over positions weighs the coarse scales more than it does over the whole sequence. Large runs need none of this.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID

    scales: int = 0
    """Scales of a short step; 0: every step takes all of them."""
    whole_every: int = 4
    """Every so many steps one takes all scales."""

    def __post_init__(self) -> None:
        if self.scales < 0 or self.whole_every < 1:
            raise UserError(
                f"prefix.scales={self.scales} with prefix.whole_every={self.whole_every} is wrong: scales is 0 or the "
                "number of scales of a short step, whole_every at least 1"
            )


@dataclass(frozen=True)
class ARTaskConfig:
    """What decides a step of training, apart from the data and the optimiser."""

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID

    preset: Literal["tiny", "d16", "d24", "d30"] = "tiny"
    """Size of the model, see `sar3d.ar.config`."""
    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What differs from the preset, for example {depth: 6, width: 256}."""
    rate: float = 1e-4
    """Peak learning rate of AdamW."""
    decay: float = 0.05
    """Weight decay of matrices; biases, gains, scales, start and place embeddings have none (published.md, transformer)."""
    dropout: ConditionDropoutConfig = dataclasses.field(default_factory=ConditionDropoutConfig)
    prefix: PrefixConfig = dataclasses.field(default_factory=PrefixConfig)
    weighting: Literal["tokens", "scales"] = "tokens"
    """What the loss weighs alike: every token, as published, or every scale. What a prompt decides is decided in the few
    tokens of the coarsest scales, which short runs learn sooner when they count for more."""
    pooled_start: Literal["published", "standardised"] = "published"
    """How the layer that reads the condition's pooled vector begins. `published`: drawn for features of mean 0 and about
    1. `standardised`: the same, moved and scaled by what an encoder's features are in the data. A sentence embedding of
    unit length has entries of about 0.05, and the features of pictures share a large mean: a model that starts without
    it takes long to tell conditions apart."""
    attention: Literal["auto", "dense", "flex", "scales"] = dataclasses.field(
        default="auto", metadata={"identity": False}
    )
    """How the causal mask is computed, see `sar3d.ar.attention`; they agree but for rounding."""
    checkpoint_activations: bool = dataclasses.field(default=False, metadata={"identity": False})
    """Less memory for more time: activations of a block are computed again in the backward pass."""
    decoding: Decoding = dataclasses.field(default_factory=lambda: DECODINGS["greedy"], metadata={"identity": False})
    """How evaluation generates."""


def model_config(
    config: ARTaskConfig, condition: ConditionKind, vqvae: VQVAEConfig, condition_width: int, pooled_width: int
) -> ARConfig:
    """The preset with the differences applied, for the codes of a VQVAE and the features of an encoder.

    Raises:
        UserError: a setting that is none, or one that the VQVAE or the encoder decides.
    """
    codes = vqvae.quantizer
    base = preset(
        config.preset,
        condition,
        codes=codes.codes,
        dim=codes.dim,
        scales=codes.scales,
        condition_width=condition_width,
        pooled_width=pooled_width,
    )
    decided = {"condition", "codes", "dim", "scales", "condition_width", "pooled_width"} & config.model.keys()
    if decided:
        raise UserError(f"task.model.{min(decided)} cannot be set: the VQVAE and the cached conditions decide it")
    made = from_dict({**to_dict(base), **config.model})
    if config.prefix.scales > len(codes.scales):
        raise UserError(
            f"prefix.scales={config.prefix.scales} is too many: the VQVAE has {len(codes.scales)} scales; give fewer"
        )
    return made
