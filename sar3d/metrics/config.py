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
