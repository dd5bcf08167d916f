"""SAR3D: 3D generation and understanding by next-scale token prediction.

    from sar3d import Sar3D
    apple = Sar3D.from_pretrained("runs/demo").generate(text="a red apple")[0]
    apple.save("apple")

The science: geometry, meshes, rendering, data formats, models and what trains them. Nothing here knows Ray, DeepSpeed or
MLflow; the programs that do live in `pipelines`. Importing this package loads none of its parts; PyTorch comes with the
first model.

Shape legend of all annotations and docstrings. A capital letter means the same everywhere; small letters and words are
explained where they are used.
    B   batch: objects or samples               B2  rows of decoding: B, or 2·B with guidance, the conditional half first
    V   views of an object                      BV  views of a batch, row v + V·b
    P   planes, always 3 (XY, YZ, ZX)           BP  planes of a batch, row p + 3·b
    G   side of a latent plane                  R   side of a plane of the triplane
    S   scales                                  L   tokens of an object, all scales (L2: a second sequence)
    K   codes in the codebook                   D   channels of a code
    C   channels of features (C2: of the next layer)
    Cc  channels of a condition's tokens        Cp  channels of a condition's pooled vector
    A   attention heads                         E   channels of a head
    T   tokens of a text
    N   points, rays, vertices, pixels or other entries of a list; M a second such number
    F   faces                                   Z   samples along a ray
    X   side of a grid of cells or points over the cube
    H W height and width of an image or feature map (H2 W2: of the next layer; h w: of a part)
    n2  tokens of one scale in one plane (n²)   l   tokens of one scale, all planes
World axes: right-handed, z up. Cameras: OpenCV (x right, y down, z forward), matrices are camera-to-world.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sar3d.generate import Sar3D

__all__ = ["Sar3D", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name != "Sar3D":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module("sar3d.generate").Sar3D
