"""How rows of tokens and conditions become samples: settings only, nothing heavy is imported."""

from dataclasses import dataclass, field
from typing import ClassVar

from sar3d.conditions.kinds import ConditionKind


@dataclass(frozen=True)
class TokenDataConfig:
    """How rows of tokens and conditions become samples."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    condition: ConditionKind | None = None
    """Kind of condition that goes with the codes; none for codes alone."""
    encoder: str | None = None
    """Id of the encoder that made the conditions; none where they are all of one."""
    val: float = 0.02
    """Share of the objects that validate."""
    test: float = 0.02
    """Share of the objects that test."""
    keep_bytes: int = field(default=512 << 20, metadata={"identity": False})
    """Memory, on each worker, for row groups that may be needed again. A dataset of half this size is shuffled as a
    whole."""
    threads: int = field(default=2, metadata={"identity": False})
    """Threads that make samples on each worker."""
