"""Condition encoders: captions and pictures to the features that a generator is conditioned on (published.md, data).

Two published encoders (`clip-text`, `dinov2`) and two small ones whose weights come inside packages (`minilm`,
`efficientnet-lite0`), behind one interface. Each is called by its own name and none stands in for another by itself.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sar3d.conditions.registry import ENCODERS, encoder_id, load_encoder

if TYPE_CHECKING:
    from sar3d.conditions.base import ConditionEncoder
    from sar3d.conditions.condition import Condition

__all__ = ["ENCODERS", "Condition", "ConditionEncoder", "encoder_id", "load_encoder"]


_HOMES = {"Condition": "condition", "ConditionEncoder": "base"}


def __getattr__(name: str) -> Any:
    # PyTorch loads with the first encoder, not with the list of their names.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
