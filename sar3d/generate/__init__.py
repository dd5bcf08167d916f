"""From a sentence or a picture to a 3D object.

    from sar3d.generate import Sar3D
    apple = Sar3D.from_pretrained("runs/demo").generate(text="a red apple")[0]
    apple.save("apple")

PyTorch loads with the first model, not with this package.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sar3d.generate.models import Sar3D
    from sar3d.generate.sample import Sample

__all__ = ["Sample", "Sar3D"]

_HOMES = {"Sar3D": "models", "Sample": "sample"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
