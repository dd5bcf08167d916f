"""The autoregressive transformer: conditions to tokens, scale by scale.

Heavy names load when they are first used, so that `sar3d.ar.config` costs no more than itself.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sar3d.ar.config import PRESETS, ARConfig, preset

if TYPE_CHECKING:
    from sar3d.ar.attention import AttentionKind
    from sar3d.ar.transformer import ARTransformer

__all__ = ["PRESETS", "ARConfig", "ARTransformer", "AttentionKind", "preset"]

_HOMES = {"ARTransformer": "transformer", "AttentionKind": "attention"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
