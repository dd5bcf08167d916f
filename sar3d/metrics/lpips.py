"""Perceptual distance: LPIPS on VGG-16 (Zhang et al. 2018), and a named substitute where there are no weights for it."""

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sar3d.errors import UserError
from sar3d.metrics.config import PerceptualConfig
from sar3d.weights import HubFile, MissingWeightsError, locate, locate_source, read_tensors

logger = logging.getLogger(__name__)

_LAYERS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Convolutions of the VGG-16 trunk between its poolings; the last ReLU of each group is compared."""

_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
"""The ImageNet mean and deviation, for colors in [-1, 1] (LPIPS 0.1)."""

_FIRST_KERNEL = (-0.5537, 0.1427, 0.5290, -0.5831, 0.3566, 0.7657, -0.6902, -0.0480, 0.4841)
_FIRST_BIASES = (0.4034, 0.3778, 0.4644, -0.3228, 0.3940, -0.3953, 0.3951, -0.5496)
"""The beginning of the ImageNet VGG-16 that LPIPS was fitted to: any other file is not called LPIPS-VGG."""

_HEAD_SUMS = (6.92599, 8.85833, 17.51501, 51.52132, 47.03485)
"""Sum of each linear head of LPIPS 0.1 for VGG-16."""


class PerceptualLoss(nn.Module):
    """A frozen distance between pictures. `name` says which one it is, `key` is its name in metrics."""

    name: str
    key: str

    def forward(self, images: Float[Tensor, "N 3 h w"], targets: Float[Tensor, "N 3 h w"]) -> Float[Tensor, "N"]:
        """Distance of each image, with colors in [0, 1], from its target; computed in float32, 0 for equal pictures.

        Raises:
            UserError: the pictures are too small for the distance.
        """
        with torch.autocast(images.device.type, enabled=False):
            return self.distance(images.float(), targets.float())

    def distance(self, images: Float[Tensor, "N 3 h w"], targets: Float[Tensor, "N 3 h w"]) -> Float[Tensor, "N"]:
        """The distance itself, of float32 pictures."""
        raise NotImplementedError


class Lpips(PerceptualLoss):
    """LPIPS 0.1: weighted squared differences of unit-normalized VGG-16 features (Zhang et al. 2018, equation 1)."""

    def __init__(self, vgg16: Mapping[str, Tensor], heads: Mapping[str, Tensor]) -> None:
        """From the trunk's features.N.weight and features.N.bias and the heads' linK.model.1.weight (1, C, 1, 1).

        Raises:
            UserError: a tensor is missing or has another shape.
        """
        super().__init__()
        self.features = nn.Sequential(*_trunk())
        wanted = self.features.state_dict(prefix="features.")
        self.load_state_dict({name: _tensor(vgg16, name, value.shape) for name, value in wanted.items()})
        self.register_buffer("shift", torch.tensor(_SHIFT).view(3, 1, 1))
        self.register_buffer("scale", torch.tensor(_SCALE).view(3, 1, 1))
        for k, group in enumerate(_LAYERS):
            name = f"lin{k}.model.1.weight"
            self.register_buffer(f"head{k}", _tensor(heads, name, torch.Size((1, group[-1], 1, 1))).float().clone())
        self.requires_grad_(False).eval()
        real = _is_imagenet_vgg16(vgg16) and _are_published_heads(heads)
        self.name = "LPIPS-VGG" if real else "VGG-16 distance with other weights than LPIPS"
        self.key = "lpips_vgg" if real else "vgg_other_weights"

    def distance(self, images: Float[Tensor, "N 3 h w"], targets: Float[Tensor, "N 3 h w"]) -> Float[Tensor, "N"]:
        if min(images.shape[-2:]) < 16:
            raise UserError(
                f"{self.name} needs pictures of at least 16 pixels, not {images.shape[-2]} x {images.shape[-1]}: "
                "render larger patches or set the weight lpips to 0"
            )
        total = images.new_zeros(len(images))
        for k, (a, b) in enumerate(zip(self._stages(images), self._stages(targets), strict=True)):
            difference = F.conv2d((_unit(a) - _unit(b)).square(), self.get_buffer(f"head{k}"))
            total = total + reduce(difference, "n 1 h w -> n", "mean")
        return total

    def _stages(self, images: Tensor) -> Iterator[Tensor]:
        """Features after the last ReLU of each group."""
        x = (images * 2 - 1 - self.get_buffer("shift")) / self.get_buffer("scale")
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                yield x
            x = layer(x)
        yield x


class LaplacianPyramid(PerceptualLoss):
    """L1 distance of Laplacian pyramids (Bojanowski et al. 2018, "Optimizing the Latent Space", equation 4).

    It has no learned weights. Every level counts by its mean, so that coarse levels weigh as much as fine ones.
    """

    name = "Laplacian pyramid distance, a substitute for LPIPS-VGG"
    key = "substitute_laplacian"

    def __init__(self, levels: int = 5) -> None:
        super().__init__()
        self.levels = levels
        row = torch.tensor((1.0, 4.0, 6.0, 4.0, 1.0)) / 16
        self.register_buffer("kernel", torch.outer(row, row).expand(3, 1, 5, 5).contiguous())

    def distance(self, images: Float[Tensor, "N 3 h w"], targets: Float[Tensor, "N 3 h w"]) -> Float[Tensor, "N"]:
        # The pyramid is linear, so the pyramid of the difference is the difference of the pyramids.
        x = images - targets
        total = x.new_zeros(len(x))
        for _ in range(self.levels - 1):
            if min(x.shape[-2:]) < 4:
                break
            low = self._blur(x)
            total = total + reduce((x - low).abs(), "n c h w -> n", "mean")
            x = low[:, :, ::2, ::2]
        return total + reduce(x.abs(), "n c h w -> n", "mean")

    def _blur(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), self.get_buffer("kernel"), groups=3)


def resolve_weights(config: PerceptualConfig) -> PerceptualConfig:
    """`config` with `vgg16` settled: the path of a file, downloaded if need be, or `substitute`.

    A program with many workers calls this once and gives them the result, so that all of them use the same distance.
    Where there are no weights, one warning in the log says so.

    Raises:
        UserError: the path that was named is no file, or the hub's name is malformed.
    """
    if config.vgg16 == "substitute":
        _warn("the configuration asks for it")
        return config
    if config.vgg16 != "hub":
        if not Path(config.vgg16).is_file():
            raise UserError(
                f"there is no file {config.vgg16} with the VGG-16 weights of LPIPS: name another, or set vgg16=hub"
            )
        return config
    try:
        found = locate_source("vgg16", HubFile(config.repository, config.file))
    except MissingWeightsError as error:
        _warn(str(error))
        return dataclasses.replace(config, vgg16="substitute")
    return dataclasses.replace(config, vgg16=str(found))


def perceptual_loss(config: PerceptualConfig | None = None) -> PerceptualLoss:
    """LPIPS with the weights that `config` names, or the substitute, which says so in its name and in the log.

    Raises:
        UserError: a file that was named is missing, unreadable or of another layout.
    """
    resolved = resolve_weights(config or PerceptualConfig())
    if resolved.vgg16 == "substitute":
        return LaplacianPyramid()
    heads = locate("lpips-heads", "" if resolved.heads == "torchmetrics" else resolved.heads, "heads")
    loss = Lpips(read_tensors(Path(resolved.vgg16)), read_tensors(heads))
    if loss.key != "lpips_vgg":
        files = f"{resolved.vgg16} and {heads}"
        logger.warning("%s do not hold the weights of LPIPS 0.1; metrics call the distance %s", files, loss.key)
    return loss


def _warn(reason: str) -> None:
    logger.warning(
        "no LPIPS-VGG: %s; the %s is used and metrics are called %s. To provide the weights, set vgg16 to the path of "
        "torchvision's vgg16 checkpoint (.pth or .safetensors)",
        reason,
        LaplacianPyramid.name.partition(",")[0],
        LaplacianPyramid.key,
    )


def _trunk() -> Iterator[nn.Module]:
    """Modules in torchvision's order, so that their positions are the N of features.N; ends after the 13th ReLU."""
    width = 3
    for k, group in enumerate(_LAYERS):
        if k:
            yield nn.MaxPool2d(2)
        for channels in group:
            yield nn.Conv2d(width, channels, 3, padding=1)
            yield nn.ReLU()
            width = channels


def _tensor(tensors: Mapping[str, Tensor], name: str, shape: torch.Size) -> Tensor:
    value = tensors.get(name)
    if value is None or value.shape != shape:
        found = "missing" if value is None else f"of shape {tuple(value.shape)}"
        raise UserError(
            f"the weights are not LPIPS-VGG's: {name} is {found}, not of shape {tuple(shape)}; "
            "give torchvision's vgg16 state dict and the linear heads for VGG"
        )
    return value


def _is_imagenet_vgg16(vgg16: Mapping[str, Tensor]) -> bool:
    kernel = vgg16["features.0.weight"][0, 0].flatten().float()
    biases = vgg16["features.0.bias"][: len(_FIRST_BIASES)].float()
    same = torch.allclose(kernel, torch.tensor(_FIRST_KERNEL), atol=1e-3)
    return same and torch.allclose(biases, torch.tensor(_FIRST_BIASES), atol=1e-3)


def _are_published_heads(heads: Mapping[str, Tensor]) -> bool:
    sums = torch.stack([heads[f"lin{k}.model.1.weight"].float().sum() for k in range(len(_LAYERS))])
    return torch.allclose(sums, torch.tensor(_HEAD_SUMS), rtol=1e-3)


def _unit(features: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C h w"]:
    # Inside the root, so that pixels without any feature have a finite gradient.
    return features * torch.rsqrt(reduce(features.square(), "n c h w -> n 1 h w", "sum") + 1e-8)
