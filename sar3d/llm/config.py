"""The configuration of SAR3D-LLM, as it is saved with a model. Nothing heavy is imported."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from sar3d.errors import UserError
from sar3d.values import read_config

PLANES = 3
PATCH, START, END = "<point_patch>", "<point_start>", "<point_end>"
"""What stands for one 3D token, before the first and after the last of them."""
SPECIAL = (PATCH, START, END)
"""In the order in which they are added to a vocabulary (published.md, language model)."""

TemplateName = Literal["vicuna_v1_1", "plain"]

_FORBID: dict[str, str] = {"extra": "forbid"}


@dataclass(frozen=True)
class LLMConfig:
    """What a SAR3D-LLM is besides its language model. The defaults are the published system."""

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID

    codebook_size: int = 16384
    """K: entries of the VQVAE's codebook."""
    code_dim: int = 8
    """D: channels of a code."""
    scales: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    """Side lengths of the VQVAE's token maps, coarse to fine."""
    num_scales: int = 8
    """Scales that the language model reads, from the coarsest on: 8 of the published 10, 765 of 2,040 tokens."""
    projector: tuple[int, ...] = (1024, 2048)
    """Hidden widths of the MLP from code vectors to the language model's inputs."""
    pos_embed: bool = False
    """Add a learned position embedding to every 3D token. The published system has none; small language models that are
    trained from scratch learn far sooner with it."""
    width: int = 4096
    """Width of the language model's inputs."""
    template: TemplateName = "vicuna_v1_1"
    """How a conversation is written out, see `sar3d.llm.prompt.TEMPLATES`."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_scales <= len(self.scales):
            raise UserError(
                f"num_scales={self.num_scales} is wrong: the VQVAE has {len(self.scales)} scales, give a number from 1 to that"
            )

    @property
    def tokens(self) -> int:
        """L: tokens of one object."""
        return PLANES * sum(n * n for n in self.scales)

    @property
    def num_tokens(self) -> int:
        """N: tokens that the language model reads of them."""
        return PLANES * sum(n * n for n in self.scales[: self.num_scales])


@dataclass(frozen=True)
class RandomLMConfig:
    """A language model from a random start, whose tokenizer is trained on the captions."""

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID

    architecture: Literal["llama", "qwen2"] = "llama"
    width: int = 128
    layers: int = 4
    heads: int = 4
    mlp_ratio: float = 4.0
    """Width of the gated MLP in units of `width`."""
    vocabulary: int = 1024
    """Tokens at most, byte-level BPE; the special tokens come on top."""
    length: int = 2048
    """Positions at most, the 3D tokens included."""
    tied: bool = True
    """Whether input and output embeddings are one matrix."""

    def __post_init__(self) -> None:
        if min(self.width, self.layers, self.heads) < 1 or self.width % (2 * self.heads):
            raise UserError(
                f"a language model of width {self.width}, {self.layers} layers and {self.heads} heads cannot be built: "
                "the width must be a multiple of twice the heads, and there must be at least one layer"
            )
        if self.vocabulary < 300:
            raise UserError(
                f"vocabulary={self.vocabulary} is too small: it holds the 256 bytes and words, give 300 or more"
            )


@dataclass(frozen=True)
class CaptionDecoding:
    """How answers are generated. The default is greedy: the most probable word each time."""

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID

    max_new_tokens: int = 64
    """Tokens of an answer at most."""
    temperature: float = 0.0
    """0: greedy; above, words are drawn, the more evenly the higher it is."""
    top_p: float = 1.0
    """Share of the probability that words are drawn from."""
    seed: int = 0
    """Fixes what is drawn for a batch."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or not 0 <= self.temperature < float("inf") or not 0 < self.top_p <= 1:
            raise UserError(
                f"answers cannot be generated with max_new_tokens={self.max_new_tokens}, temperature={self.temperature:g} and "
                f"top_p={self.top_p:g}: max_new_tokens is at least 1, temperature at least 0, top_p above 0 and at most 1"
            )


def to_dict(config: LLMConfig) -> dict[str, Any]:
    """As JSON values."""
    return dataclasses.asdict(config)


def from_dict(values: dict[str, Any]) -> LLMConfig:
    """The configuration of a config.json. Raises `UserError` for a key or value that is none."""
    return read_config(LLMConfig, values)
