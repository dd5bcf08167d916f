"""The configuration of the autoregressive transformer and its presets."""

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any, ClassVar

from sar3d.conditions.kinds import ConditionKind
from sar3d.errors import UserError
from sar3d.values import read_config
from sar3d.vqvae.config import PLANES

DEPTH_OF_FULL_DROP_PATH = 24
"""A model this deep drops a tenth of the last block's branches; others in proportion (published.md, transformer)."""


@dataclass(frozen=True)
class ARSizeConfig:
    """The size of the transformer, whatever it is conditioned on and whichever codes it predicts."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    depth: int = 24
    """Blocks."""
    width: int = 1536
    """C."""
    heads: int = 16
    mlp_ratio: int = 4
    """Hidden width of the feed-forward branches in units of `width`."""
    drop_path: float | None = None
    """Rate at which branches of the last block are dropped in training; it grows linearly from zero at the first. None
    for 0.1 · depth / 24."""
    gate_init: float = 0.0
    """Initial bias of the gates of self-attention and MLP branches. The published models begin with closed gates, with
    which short runs train slowly."""
    sequential_scales: int = 0
    """Number of coarsest scales whose tokens are drawn one after another, each conditioned on those before it, so that they
    agree on one object where the condition does not determine it (`sar3d.ar.sequential`). 0 (published): all tokens of a
    scale are drawn at once."""

    def __post_init__(self) -> None:
        self._check_positive("depth", "width", "heads", "mlp_ratio")
        if self.width % self.heads:
            raise UserError(
                f"the transformer has a width of {self.width}, which {self.heads} heads do not divide: "
                "choose another number"
            )
        if not 0 <= self.drop_path_rate < 1:
            raise UserError(f"the transformer's drop_path is {self.drop_path}: it is a rate from 0 to below 1")

    def _check_positive(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) < 1:
                raise UserError(f"the transformer's {name} is {getattr(self, name)}: choose a positive number")

    @property
    def drop_path_rate(self) -> float:
        """The last block's rate."""
        return 0.1 * self.depth / DEPTH_OF_FULL_DROP_PATH if self.drop_path is None else self.drop_path


@dataclass(frozen=True)
class ARConfig(ARSizeConfig):
    """Next-scale transformer with cross-attention to a condition. The defaults are the published image model."""

    condition: ConditionKind = "image"
    """What the model is conditioned on; it decides the order of a block's branches (published.md, transformer)."""
    codebook_size: int = 16384
    """K, entries of the VQVAE's codebook."""
    code_dim: int = 8
    """D, channels of a code."""
    scales: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    """The VQVAE's scales: side lengths of the token maps, coarse to fine."""
    context_dim: int = 1024
    """Channels of a token of the condition."""
    pooled_dim: int = 1024
    """Channels of the condition's pooled vector."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive("codebook_size", "code_dim", "context_dim", "pooled_dim")
        if not self.scales or min(self.scales) < 1:
            raise UserError(
                f"the transformer cannot have the scales {list(self.scales)}: give side lengths such as 1,2,4"
            )
        if not 0 <= self.sequential_scales <= len(self.scales):
            raise UserError(
                f"the transformer's sequential_scales is {self.sequential_scales}: it is 0 or a number of its "
                f"{len(self.scales)} scales"
            )

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each scale, all planes: 3, 12, 27, ..."""
        return tuple(PLANES * n * n for n in self.scales)

    @property
    def ends(self) -> tuple[int, ...]:
        """Position after the last token of each scale: 3, 15, 42, ..."""
        return tuple(itertools.accumulate(self.lengths))

    @property
    def begins(self) -> tuple[int, ...]:
        """Position of the first token of each scale: 0, 3, 15, ..."""
        return (0, *self.ends[:-1])

    @property
    def tokens(self) -> int:
        """L: tokens of one object, 2040 in the published layout."""
        return self.ends[-1]

    @property
    def sequential_tokens(self) -> int:
        """Tokens that are drawn one after another."""
        return (0, *self.ends)[self.sequential_scales]


_PER_DEPTH = 64
"""Width of a published model in units of its depth."""


def _published(depth: int) -> ARSizeConfig:
    return ARSizeConfig(depth=depth, width=_PER_DEPTH * depth)


PRESETS: dict[str, ARSizeConfig] = {
    "tiny": ARSizeConfig(depth=4, width=192, heads=4),
    "d16": _published(16),
    "d24": _published(24),
    "d30": _published(30),
}
"""Sizes. `tiny` trains on two CPU cores; the published models are d16 (text, 382.80 M parameters) and d24 (image,
1243.27 M)."""


def preset(name: str, condition: ConditionKind, **shapes: Any) -> ARConfig:
    """The configuration of that size.

    Args:
        shapes: of a VQVAE's codes and a condition encoder's widths: codebook_size, code_dim, scales, context_dim and
            pooled_dim of `ARConfig`.

    Raises:
        UserError: there is no such preset.
    """
    if name not in PRESETS:
        raise UserError(f"there is no preset {name} of the transformer: choose one of {', '.join(PRESETS)}")
    return ARConfig(**dataclasses.asdict(PRESETS[name]), condition=condition, **shapes)


def to_dict(config: ARConfig) -> dict[str, Any]:
    """As JSON values."""
    return {"condition": config.condition, **dataclasses.asdict(config)}


def from_dict(values: dict[str, Any]) -> ARConfig:
    """The configuration of a config.json. Raises `UserError` for a key or value that is none."""
    return read_config(ARConfig, values)
