"""How the generator is trained: size, optimization, condition dropout, short steps (published.md, transformer).

No model is imported.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

from sar3d.ar.config import PRESETS, ARConfig, ARSizeConfig
from sar3d.ar.decoding_config import DECODINGS, Decoding
from sar3d.conditions.kinds import ConditionKind
from sar3d.errors import UserError
from sar3d.presets import over_preset, settle
from sar3d.vqvae.config import VQVAEConfig

_FORBID: dict[str, str] = {"extra": "forbid"}


@dataclass(frozen=True)
class ConditionDropoutConfig:
    """Which samples are trained without their condition, so that the model can be guided. Only in training."""

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID

    p: float = 0.1
    """Share of the samples."""
    kind: Literal["joint", "published"] = "joint"
    """`joint`: the pooled vector and the tokens are replaced together by the empty condition's. `published`: each of
    them on its own, so that both are empty in `p`² of the samples only."""

    def __post_init__(self) -> None:
        if not 0 <= self.p < 1:
            raise UserError(f"dropout.p={self.p:g} is wrong: it is a share of the samples, from 0 to below 1")


@dataclass(frozen=True)
class ProgressiveConfig:
    """Train mostly on the coarse scales, which is exact for them and saves most of the time where that is short.

    Attention is causal over scales, so the first scales' predictions do not depend on the others. Of the published 2,040
    tokens the last two scales hold 1,275. The price: these are trained in fewer steps, and within a step the mean
    over positions weighs the coarse scales more than it does over the whole sequence. Large runs need none of this.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID

    scales: int = 0
    """Scales of a short step; 0: every step takes all of them."""
    full_every: int = 4
    """Every so many steps one takes all scales."""

    def __post_init__(self) -> None:
        if self.scales < 0 or self.full_every < 1:
            raise UserError(
                f"progressive.scales={self.scales} with progressive.full_every={self.full_every} is wrong: scales is 0 or the "
                "number of scales of a short step, full_every at least 1"
            )


@dataclass(frozen=True)
class ARTaskConfig:
    """What decides a step of training, apart from the data and the optimizer."""

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID

    preset: Literal["tiny", "d16", "d24", "d30"] = "tiny"
    """Size of the model, see `sar3d.ar.config`."""
    model: ARSizeConfig = over_preset(PRESETS)
    """The model; settings that are not given are the preset's. The VQVAE and the cached conditions decide the rest."""
    lr: float = 1e-4
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.05
    """Weight decay of matrices; biases, gains, temperatures, start, position and scale embeddings have none (published.md,
    transformer)."""
    dropout: ConditionDropoutConfig = dataclasses.field(default_factory=ConditionDropoutConfig)
    progressive: ProgressiveConfig = dataclasses.field(default_factory=ProgressiveConfig)
    weighting: Literal["tokens", "scales"] = "tokens"
    """Whether every token has the same weight in the loss (published), or every scale. The prompt mostly determines the few
    tokens of the coarsest scales, which short runs learn sooner when they weigh more."""
    pooled_start: Literal["published", "standardized"] = "published"
    """Initialization of the layer that reads the condition's pooled vector. `published`: for features of mean 0 and about 1.
    `standardized`: shifted and scaled by mean and deviation of the features in the data. The entries of a sentence embedding
    of unit length are about 0.05, and features of pictures share a large mean; without standardization a model takes long
    to tell conditions apart."""
    attention: Literal["auto", "dense", "flex", "scales"] = dataclasses.field(
        default="auto", metadata={"identity": False}
    )
    """How the causal mask is computed, see `sar3d.ar.attention`; they agree but for rounding."""
    checkpoint_activations: bool = dataclasses.field(default=False, metadata={"identity": False})
    """Less memory for more time: activations of a block are computed again in the backward pass."""
    decoding: Decoding = dataclasses.field(default_factory=lambda: DECODINGS["greedy"], metadata={"identity": False})
    """How evaluation generates."""

    def __post_init__(self) -> None:
        settle(self)


def model_config(
    config: ARTaskConfig, condition: ConditionKind, vqvae: VQVAEConfig, context_dim: int, pooled_dim: int
) -> ARConfig:
    """The model for the tokens of a VQVAE and the features of an encoder.

    Raises:
        UserError: it has more sequential scales, or trains progressively on more, than the VQVAE has.
    """
    quantizer = vqvae.quantizer
    if config.progressive.scales > len(quantizer.scales):
        raise UserError(
            f"progressive.scales={config.progressive.scales} is too many: the VQVAE has {len(quantizer.scales)} scales; "
            "give fewer"
        )
    return ARConfig(
        **dataclasses.asdict(config.model),
        condition=condition,
        codebook_size=quantizer.codebook_size,
        code_dim=quantizer.code_dim,
        scales=quantizer.scales,
        context_dim=context_dim,
        pooled_dim=pooled_dim,
    )
