"""Condition encoders: captions and pictures to the features that a generator is conditioned on (published.md, data).

Two published encoders (`clip-text`, `dinov2`) and two small ones whose weights come inside packages (`minilm`,
`efficientnet-lite0`), behind one interface. Each is called by its own name and none stands in for another by itself.
"""

from typing import TYPE_CHECKING, Any

from sar3d.conditions.registry import ENCODERS, encoder_id, load_encoder

if TYPE_CHECKING:
    from sar3d.conditions.base import ConditionEncoder, Features

__all__ = ["ENCODERS", "ConditionEncoder", "Features", "encoder_id", "load_encoder"]


def __getattr__(name: str) -> Any:
    # PyTorch loads with the first encoder, not with the list of their names.
    if name not in ("ConditionEncoder", "Features"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sar3d.conditions import base

    return getattr(base, name)
