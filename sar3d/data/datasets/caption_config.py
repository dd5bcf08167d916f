"""How rows of tokens and descriptions become samples: settings only, nothing heavy is imported."""

from dataclasses import dataclass, field
from typing import ClassVar

from sar3d.data.datasets.token_config import TokenDataConfig
from sar3d.data.held_out import HeldOut
from sar3d.errors import UserError


@dataclass(frozen=True)
class CaptionDataConfig:
    """Which view groups of which objects are described."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    held_out: HeldOut = HeldOut()
    """View groups of every object that are never trained on. The first of them that an object has is what `views` is
    measured on. Groups of the published camera layout share the pole, and the last one shares its lower views with others."""
    token_mixup: float = 0.0
    """Share of a sample's tokens that come from another view group of the same object, in training, where its row group
    holds one. The groups are accounts of one object from other sides; their mixtures are many more, which keeps a model
    from learning few objects by their finest codes."""
    val: float = 0.02
    """Share of the objects that validate."""
    test: float = 0.02
    """Share of the objects that test."""
    keep_bytes: int = field(default=512 << 20, metadata={"identity": False})
    """Memory, on each worker, for row groups that may be needed again. A dataset of half this size is shuffled as a
    whole."""
    threads: int = field(default=2, metadata={"identity": False})
    """Threads that make samples on each worker."""

    def __post_init__(self) -> None:
        if not 0 <= self.token_mixup < 1:
            raise UserError(
                f"token_mixup={self.token_mixup:g} is wrong: it is a share of the tokens, from 0 to below 1"
            )
        if self.held_out.views or self.held_out.view_ids:
            raise UserError("tokens are those of whole view groups: set held_out.groups, not single views")

    def tokens(self) -> TokenDataConfig:
        """The part that concerns the tokens."""
        return TokenDataConfig(val=self.val, test=self.test, keep_bytes=self.keep_bytes, threads=self.threads)
