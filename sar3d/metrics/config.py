"""Settings of metrics. No model is imported here."""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class PerceptualConfig:
    """Where the weights of the perceptual distance come from."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    vgg16: str = "hub"
    """`hub`: download `repository`; `substitute`: use the Laplacian pyramid; otherwise the path of a .pth or
    .safetensors file with the tensors features.N.weight and features.N.bias."""
    heads: str = "torchmetrics"
    """`torchmetrics`: those inside that package; otherwise the path of a file with the tensors linK.model.1.weight."""
    repository: str = "timm/vgg16.tv_in1k"
    """Hub repository with torchvision's VGG-16."""
    file: str = "model.safetensors"
    """File of `repository`."""


@dataclass(frozen=True)
class ShapeConfig:
    """How a shape is compared with its truth; part of the identity of the numbers."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    points: int = 8192
    """Points drawn on each surface."""
    thresholds: tuple[float, ...] = (0.01, 0.02)
    """Of the F-scores, in parts of the longest side of the box."""
    volume_points: int = 65536
    """Points in the box of both shapes that estimate the volume IoU."""
    seed: int = 0
    """Of all points."""
