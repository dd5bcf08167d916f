"""Losses between renderings and targets (published.md, training), computed in float32 under autocast, too."""

import dataclasses
from dataclasses import dataclass

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from sar3d.errors import UserError
from sar3d.metrics.lpips import PerceptualLoss
from sar3d.tasks.vqvae.config import LossConfig

_FLAT = 1e-6
"""Variance of depth, in squared units of the world, that counts as none: it bounds the gradient of the best scale."""


@dataclass(frozen=True)
class Pixels:
    """Pixels of N pictures, rendered or true: patches (N, 3, h, w) or scattered rays (N, 3, M)."""

    rgb: Float[Tensor, "N 3 *pixels"]
    """Color in [0, 1] on white."""
    alpha: Float[Tensor, "N *pixels"]
    """Opacity or coverage in [0, 1]."""
    depth: Float[Tensor, "N *pixels"]
    """Target: z-depth, 0 = background. Rendering: Σ w t, the distance along the ray as it was composited."""
    normal: Float[Tensor, "N 3 *pixels"] | None = None
    """World-frame normals. Target: of unit length on the foreground. Rendering: Σ w n."""
    cosine: Float[Tensor, "N *pixels"] | None = None
    """Rendering: z-depth of a unit of distance along the ray; without it `depth` counts as z-depth already."""


def ray_pixels(
    rgb: Float[Tensor, "N M 3"],
    alpha: Float[Tensor, "N M"],
    depth: Float[Tensor, "N M"],
    normal: Float[Tensor, "N M 3"] | None = None,
    cosine: Float[Tensor, "N M"] | None = None,
    height: int | None = None,
) -> Pixels:
    """`Pixels` of rays with channels last, as the renderer gives them.

    With `height` the rays of each picture are the rows of a patch: (N, 3, M) becomes (N, 3, height, M / height).
    """

    def shaped(x: Tensor) -> Tensor:
        x = rearrange(x, "n r c -> n c r") if x.ndim == 3 else x
        return x if height is None else rearrange(x, "... (h w) -> ... h w", h=height)

    return Pixels(
        rgb=shaped(rgb),
        alpha=shaped(alpha),
        depth=shaped(depth),
        normal=None if normal is None else shaped(normal),
        cosine=None if cosine is None else shaped(cosine),
    )


def reconstruction_losses(
    rendered: Pixels,
    target: Pixels,
    config: LossConfig,
    step: int = 0,
    perceptual: PerceptualLoss | None = None,
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """The weighted sum of the parts that compare pictures, and each part detached and without its weight.

    The keys are rgb_l1, rgb_l2, the perceptual distance's own key, depth, mask and normal. The caller adds the
    quantizer's loss (weight `vq`) and the adversarial one (`adversarial_weight`).

    Raises:
        UserError: a part that compares patches has a weight, and the pixels are scattered rays.
        ValueError: a part has a weight, and what it compares was not given.
    """
    with torch.autocast(rendered.rgb.device.type, enabled=False):
        rendered, target = _float32(rendered), _float32(target)
        weighed: dict[str, tuple[float, Tensor]] = {}
        if config.rgb_l1:
            weighed["rgb_l1"] = config.rgb_l1, (rendered.rgb - target.rgb).abs().mean()
        if config.rgb_l2:
            weighed["rgb_l2"] = config.rgb_l2, (rendered.rgb - target.rgb).square().mean()
        if config.lpips and step >= config.lpips_start:
            if perceptual is None:
                raise ValueError("the weight lpips is not 0, but no perceptual distance was given")
            weighed[perceptual.key] = config.lpips, _perceptual(rendered.rgb, target.rgb, perceptual, config.lpips_crop)
        if config.depth:
            weighed["depth"] = config.depth, depth_loss(rendered, target, config)
        if config.mask:
            weighed["mask"] = config.mask, (rendered.alpha - target.alpha).abs().mean()
        if config.normal:
            weighed["normal"] = config.normal, normal_loss(rendered, target)
        total = rendered.rgb.new_zeros(())
        for name, (weight, value) in weighed.items():
            total = total + weight * (_dropped_above(value, config) if name == "depth" else value)
    return total, {name: value.detach() for name, (_, value) in weighed.items()}


def adversarial_weight(config: LossConfig, step: int) -> float:
    """Weight of the generator's adversarial loss at a step; where it is 0 the discriminator is not needed either."""
    return config.adversarial if step >= config.adversarial_start else 0.0


def depth_loss(rendered: Pixels, target: Pixels, config: LossConfig) -> Float[Tensor, ""]:
    """The depth part under `config`'s rules, without its weight. An `expected` depth counts by the ray's opacity.

    That weight carries no gradient: it bounds the gradient of the division, and gains nothing from transparency.

    Raises:
        UserError: the scale- and shift-invariant kind was asked of scattered rays.
    """
    depth, mask = rendered.depth, target.alpha
    if config.depth_measure == "z" and rendered.cosine is not None:
        depth = depth * rendered.cosine
    area = mask
    if config.depth_mean == "expected":
        area = mask * (target.depth > 0)
        mask = area * rendered.alpha.detach()
        depth = depth / rendered.alpha.clamp_min(1e-4)
    if config.depth_kind == "l1":
        return (mask * (depth - target.depth).abs()).sum() / area.sum().clamp_min(1)
    _require_patches(depth[:, None], "depth with depth_kind=ssi")
    return scale_shift_loss(depth, target.depth, mask, reduce(area, "n h w -> n", "sum"))


def scale_and_shift(
    prediction: Float[Tensor, "N h w"], target: Float[Tensor, "N h w"], mask: Float[Tensor, "N h w"]
) -> tuple[Float[Tensor, "N"], Float[Tensor, "N"]]:
    """Least-squares (scale, shift) of each prediction to its target under the mask (Ranftl et al. 2022, equation 4).

    Both are 0 where the mask is empty. A prediction without variance is only shifted.
    """
    total = reduce(mask, "n h w -> n 1 1", "sum").clamp_min(1e-6)
    mean_p = reduce(mask * prediction, "n h w -> n 1 1", "sum") / total
    mean_t = reduce(mask * target, "n h w -> n 1 1", "sum") / total
    # Taken about the means, the normal equations keep their digits in float32.
    centered = mask * (prediction - mean_p)
    covariance = reduce(centered * (target - mean_t), "n h w -> n 1 1", "sum") / total
    variance = reduce(centered * (prediction - mean_p), "n h w -> n 1 1", "sum") / total
    scale = covariance / (variance + _FLAT)
    return scale.flatten(), (mean_t - scale * mean_p).flatten()


def scale_shift_loss(
    prediction: Float[Tensor, "N h w"],
    target: Float[Tensor, "N h w"],
    mask: Float[Tensor, "N h w"],
    area: Float[Tensor, "N"] | None = None,
    gradient: float = 0.5,
) -> Float[Tensor, ""]:
    """Scale- and shift-invariant error of depth maps with one scale of the gradient term (Ranftl et al. 2022).

    Σ M r² / 2ΣA + gradient · Σ M M' |Mr - M'r'| / ΣA over all images, r the residual after the best scale and shift,
    M' and r' those of the next pixel along a row or column, A the `area` of each image: that of the mask by default.
    """
    scale, shift = scale_and_shift(prediction, target, mask)
    residual = rearrange(scale, "n -> n 1 1") * prediction + rearrange(shift, "n -> n 1 1") - target
    total = (mask if area is None else area).sum().clamp_min(1)
    masked = mask * residual
    rows = (masked[:, 1:] - masked[:, :-1]).abs() * mask[:, 1:] * mask[:, :-1]
    columns = (masked[:, :, 1:] - masked[:, :, :-1]).abs() * mask[:, :, 1:] * mask[:, :, :-1]
    return (masked * residual).sum() / (2 * total) + gradient * (rows.sum() + columns.sum()) / total


def normal_loss(rendered: Pixels, target: Pixels) -> Float[Tensor, ""]:
    """Mean over the foreground of Σ w (1 - n · n*), n* the true normal; opacity gets no gradient from the constant.

    Raises:
        ValueError: one side has no normals.
    """
    if rendered.normal is None or target.normal is None:
        raise ValueError("the weight normal is not 0, but the rendering or the target has no normals")
    mask = target.alpha * (target.depth > 0)
    cosine = reduce(rendered.normal * target.normal, "n c ... -> n ...", "sum")
    return (mask * (rendered.alpha.detach() - cosine)).sum() / mask.sum().clamp_min(1)


def _perceptual(images: Tensor, targets: Tensor, perceptual: PerceptualLoss, crop: int) -> Tensor:
    _require_patches(images, "lpips")
    return perceptual(_central(images, crop), _central(targets, crop)).mean()


def _central(images: Float[Tensor, "N 3 h w"], side: int) -> Float[Tensor, "N 3 s t"]:
    top, left = (max(length - side, 0) // 2 for length in images.shape[-2:])
    return images[..., top : top + side, left : left + side]


def _dropped_above(value: Tensor, config: LossConfig) -> Tensor:
    if config.depth_zero_above is None:
        return value
    return torch.where(value > config.depth_zero_above, torch.zeros_like(value), value)


def _require_patches(images: Tensor, part: str) -> None:
    if images.ndim != 4:
        raise UserError(
            f"the loss {part} compares patches, but scattered rays are rendered: render patches or give it 0"
        )


def _float32(pixels: Pixels) -> Pixels:
    values: dict[str, Tensor | None] = {field.name: getattr(pixels, field.name) for field in dataclasses.fields(pixels)}
    return dataclasses.replace(pixels, **{name: value.float() for name, value in values.items() if value is not None})
