"""How SAR3D-LLM is trained: the language model, what of it learns, what it is asked (published.md, language model).

No model is imported.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

from sar3d.errors import UserError
from sar3d.llm.config import CaptionDecoding, LLMConfig, RandomLMConfig, TemplateName
from sar3d.presets import over_preset, settle
from sar3d.vqvae.config import VQVAEConfig

Trained = Literal["projector", "all", "lora"]

_FORBID: dict[str, str] = {"extra": "forbid"}
VICUNA = "lmsys/vicuna-7b-v1.5"
"""The published language model, on the Hugging Face hub."""
DEFAULT_LR: dict[Trained, float] = {"projector": 2e-3, "all": 2e-5, "lora": 2e-4}
"""Learning rates for pretrained language models: the published two stages, and the usual one for adapters."""
RANDOM_LR = 1e-3
"""Learning rate where the language model starts at random."""


@dataclass(frozen=True)
class LoRAConfig:
    """Low-rank adapters, by peft."""

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID

    rank: int = 16
    """Rank of the change of each matrix."""
    alpha: int = 32
    """The change is scaled by alpha / rank."""
    dropout: float = 0.0
    """Share of the adapters' inputs that is dropped in training."""
    targets: tuple[str, ...] = ()
    """Names of the layers that get adapters, such as q_proj; empty: all linear layers but the output."""


@dataclass(frozen=True)
class LLMModelConfig:
    """What the task decides of the model, see `sar3d.llm.config.LLMConfig`. The defaults are the published system."""

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID

    num_scales: int | None = None
    """Scales that the language model reads, from the coarsest on; by default 5 of the preset `tiny`, 8 of `paper`, or as
    many as the VQVAE has, if these are fewer."""
    projector: tuple[int, ...] = LLMConfig.projector
    """Hidden widths of the MLP from code vectors to the language model's inputs."""
    pos_embed: bool = LLMConfig.pos_embed
    """Add a learned position embedding to every 3D token."""
    template: TemplateName = LLMConfig.template
    """How a conversation is written out, see `sar3d.llm.prompt.TEMPLATES`."""

    def __post_init__(self) -> None:
        if self.num_scales is not None and self.num_scales < 1:
            raise UserError(f"num_scales={self.num_scales} is wrong: give a number of scales from 1 on")


PRESETS: dict[str, LLMModelConfig] = {
    "tiny": LLMModelConfig(projector=(128,), pos_embed=True, template="plain"),
    "paper": LLMModelConfig(),
}
_NUM_SCALES = {"tiny": 5, "paper": LLMConfig.num_scales}


@dataclass(frozen=True)
class LLMTaskConfig:
    """What decides a step of training, apart from the data and the optimizer."""

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID

    preset: Literal["tiny", "paper"] = "tiny"
    """`tiny`: 5 scales, a short template, a small language model from a random start. `paper`: the published system."""
    model: LLMModelConfig = over_preset(PRESETS)
    """The model; settings that are not given are the preset's. The VQVAE and the language model decide the rest."""
    lm: str = dataclasses.field(default="", metadata={"identity": "listing", "place": "weights"})
    """Folder, or repository of the Hugging Face hub, of any causal language model; what counts is its content, not its
    place. Empty: one from a random start for `tiny`, Vicuna 7B for `paper`."""
    random: RandomLMConfig = dataclasses.field(default_factory=RandomLMConfig)
    """The language model from a random start."""
    train: Trained = "all"
    """`projector`: the projector and the delimiters, the published first stage. `all`: the language model as well, the
    second one. `lora`: adapters instead of the language model's own weights."""
    lora: LoRAConfig = dataclasses.field(default_factory=LoRAConfig)
    lr: float | None = None
    """Peak learning rate of AdamW; by default that of `DEFAULT_LR`, or `RANDOM_LR` for a random start."""
    weight_decay: float = 0.0
    """Weight decay."""
    instructions: Literal["varied", "published"] = "varied"
    """`varied`: captions, names, categories, colors and parts are asked for in several ways. `published`: one instruction
    that asks for the caption."""
    caption_p: float = 0.5
    """Share of the varied questions that ask for a caption."""
    noise: float = 0.0
    """Share of the 3D tokens that are replaced by random ones in training, against learning few objects by heart."""
    checkpoint_activations: bool = dataclasses.field(default=False, metadata={"identity": False})
    """Less memory for more time: activations of a layer are computed again in the backward pass."""
    decoding: CaptionDecoding = dataclasses.field(default_factory=CaptionDecoding, metadata={"identity": False})
    """How evaluation generates."""

    def __post_init__(self) -> None:
        settle(self)
        if not 0 <= self.caption_p <= 1:
            raise UserError(f"caption_p={self.caption_p:g} is wrong: it is a share of the questions, from 0 to 1")
        if not 0 <= self.noise < 1:
            raise UserError(f"noise={self.noise:g} is wrong: it is a share of the 3D tokens, from 0 to below 1")
        if self.train != "all" and not self.source:
            raise UserError(
                f"train={self.train} needs a trained language model, and this one starts at random: name one with lm, or "
                "set train=all"
            )

    @property
    def source(self) -> str:
        """Where the language model comes from; empty for a random start."""
        return self.lm or (VICUNA if self.preset == "paper" else "")

    @property
    def peak_lr(self) -> float:
        """The learning rate that is meant."""
        if self.lr is not None:
            return self.lr
        return DEFAULT_LR[self.train] if self.source else RANDOM_LR


def model_config(config: LLMTaskConfig, vqvae: VQVAEConfig, width: int) -> LLMConfig:
    """The model for the tokens of a VQVAE and inputs of the language model of `width`.

    Raises:
        UserError: it is to read more scales than the VQVAE has.
    """
    quantizer, model = vqvae.quantizer, config.model
    return LLMConfig(
        codebook_size=quantizer.codebook_size,
        code_dim=quantizer.code_dim,
        scales=quantizer.scales,
        num_scales=model.num_scales or min(_NUM_SCALES[config.preset], len(quantizer.scales)),
        projector=model.projector,
        pos_embed=model.pos_embed,
        width=width,
        template=model.template,
    )
