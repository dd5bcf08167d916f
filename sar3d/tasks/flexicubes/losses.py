"""What a mesh is trained by (published.md, FlexiCubes). Everything here is computed in float32, whatever autocast says."""

from dataclasses import dataclass

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from sar3d.errors import UserError
from sar3d.metrics.lpips import PerceptualLoss
from sar3d.tasks.flexicubes.config import MeshLossConfig
from sar3d.tasks.flexicubes.pictures import MeshPictures
from sar3d.tasks.vqvae.losses import scale_shift_loss
from sar3d.vqvae.flexi_field import Surfaces


@dataclass(frozen=True)
class PictureTargets:
    """True pictures of B objects in V views."""

    rgb: Float[Tensor, "B V 3 H W"]
    """In [0, 1] on white."""
    alpha: Float[Tensor, "B V H W"]
    depth: Float[Tensor, "B V H W"]
    """z-depth, 0 = background."""
    normal: Float[Tensor, "B V 3 H W"] | None


Weighted = dict[str, tuple[float, Tensor]]
"""Weight and value of each part, by name."""


def mesh_losses(
    made: list[MeshPictures],
    surfaces: Surfaces,
    target: PictureTargets,
    config: MeshLossConfig,
    step: int,
    side: float,
    perceptual: PerceptualLoss | None = None,
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """The weighted sum of all parts but the adversarial one, and each part detached and without its weight.

    Args:
        side: of the cube that the planes cover, the unit of `deviation`.

    Raises:
        UserError: normals have a weight, and the target has none.
        ValueError: the perceptual distance has a weight and was not given.
    """
    with torch.autocast(target.rgb.device.type, enabled=False):
        parts = picture_parts(_stacked(made), target, config, step, perceptual) | regularizers(
            surfaces, config, step, side
        )
        total = target.rgb.new_zeros(())
        for weight, value in parts.values():
            total = total + weight * value
    return total, {name: value.detach() for name, (_, value) in parts.items()}


def _stacked(made: list[MeshPictures]) -> MeshPictures:
    """The pictures of all objects, one after another."""
    names = ("rgb", "mask", "depth", "normal", "whole")
    return MeshPictures(*(torch.cat([getattr(one, name) for one in made]) for name in names))


def picture_parts(
    made: MeshPictures,
    target: PictureTargets,
    config: MeshLossConfig,
    step: int,
    perceptual: PerceptualLoss | None = None,
) -> Weighted:
    """The parts that compare pictures."""
    rgb, alpha, depth = (x.flatten(0, 1).float() for x in (target.rgb, target.alpha, target.depth))
    parts: Weighted = {}
    if config.rgb_l1:
        parts["rgb_l1"] = config.rgb_l1, (made.rgb - rgb).abs().mean()
    if config.lpips and step >= config.lpips_start:
        if perceptual is None:
            raise ValueError("the weight lpips is not 0, but no perceptual distance was given")
        parts[perceptual.key] = config.lpips, perceptual(made.rgb, rgb).mean()
    if config.mask:
        parts["mask"] = config.mask, (made.mask - alpha).abs().mean()
    if config.depth:
        parts["depth"] = config.depth, depth_loss(made, depth, alpha, config)
    if config.normal:
        if target.normal is None:
            raise UserError("the loss normal needs normals, which the data loader was told not to read")
        parts["normal"] = config.normal, normal_loss(made, target.normal.flatten(0, 1).float(), depth, alpha, config)
    return parts


def depth_loss(
    made: MeshPictures, depth: Float[Tensor, "N H W"], alpha: Float[Tensor, "N H W"], config: MeshLossConfig
) -> Float[Tensor, ""]:
    """The depth part under `config`'s rules, without its weight."""
    if config.depth_kind == "ssi":
        value = scale_shift_loss(made.depth, depth, alpha)
    else:
        both = made.whole & (depth > 0)
        value = ((made.depth - depth).abs() * both).sum() / both.sum().clamp_min(1)
    if config.depth_zero_above is None:
        return value
    return torch.where(value > config.depth_zero_above, torch.zeros_like(value), value)


def normal_loss(
    made: MeshPictures,
    normal: Float[Tensor, "N 3 H W"],
    depth: Float[Tensor, "N H W"],
    alpha: Float[Tensor, "N H W"],
    config: MeshLossConfig,
) -> Float[Tensor, ""]:
    """The part of the normals under `config`'s rule, without its weight."""
    if config.normal_kind == "published":
        error = reduce(((made.normal + 1) / 2 - (normal + 1) / 2).square(), "n c h w -> n h w", "mean")
        inside = (alpha > 0.5).to(error.dtype)
        means = [(error * part).sum() / part.sum().clamp_min(1) for part in (inside, 1 - inside)]
        return means[0] + means[1]
    both = (made.whole & (depth > 0)).to(normal.dtype)
    away = 1 - reduce(made.normal * normal, "n c h w -> n h w", "sum")
    return (away * both).sum() / both.sum().clamp_min(1)


def regularizers(surfaces: Surfaces, config: MeshLossConfig, step: int, side: float) -> Weighted:
    """The parts that look at the fields themselves."""
    parts: Weighted = {"missing": (config.missing, surfaces.missing.mean())}
    some = any(mesh.valid for mesh in surfaces.meshes)
    if config.sign and some:
        done = min(1.0, step / max(config.sign_steps, 1))
        weight = config.sign + (config.sign_final - config.sign) * done
        parts["sign"] = weight, surfaces.sign_consistency()
    if config.deviation and some:
        parts["deviation"] = config.deviation, torch.cat([mesh.l_dev for mesh in surfaces.meshes]).mean() / side
    if config.weight and some:
        parts["weight"] = config.weight, surfaces.weights[:, :-1].abs().mean()
    return parts
