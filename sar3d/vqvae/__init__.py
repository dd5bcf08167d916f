"""The multi-scale 3D VQVAE: views of an object to tokens, tokens to a radiance field.

Heavy names load when they are first used, so that `sar3d.vqvae.config` costs no more than itself.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sar3d.vqvae.config import PLANES, PRESETS, VQVAEConfig

if TYPE_CHECKING:
    from sar3d.vqvae.field import Field, TriplaneField
    from sar3d.vqvae.model import VQVAE
    from sar3d.vqvae.quantizer import MultiScaleQuantizer, Quantized

__all__ = ["PLANES", "PRESETS", "VQVAE", "Field", "MultiScaleQuantizer", "Quantized", "TriplaneField", "VQVAEConfig"]

_HOMES = {
    "VQVAE": "model",
    "Field": "field",
    "TriplaneField": "field",
    "MultiScaleQuantizer": "quantizer",
    "Quantized": "quantizer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
