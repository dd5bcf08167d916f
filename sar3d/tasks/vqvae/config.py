"""How the VQVAE is trained: losses, pixels, learning rates, codebook (published.md, training). No model is imported here."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

from sar3d.errors import UserError
from sar3d.metrics.config import PerceptualConfig
from sar3d.presets import over_preset, settle
from sar3d.vqvae.config import PRESETS, VQVAEConfig

Norm = Literal["group", "batch"]

_FORBID: dict[str, str] = {"extra": "forbid"}


@dataclass(frozen=True)
class LossConfig:
    """Weights and rules of the losses. The defaults are the published ones with their mistakes mended.

    Colors are compared in [0, 1]: the published weight 1 of the L1 loss, which is taken in [-1, 1], is 2 here.
    A part with weight 0 is not computed.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    rgb_l1: float = 2.0
    """Mean absolute error of the colors."""
    rgb_l2: float = 0.0
    """Mean squared error of the colors."""
    lpips: float = 0.8
    """Perceptual distance of patches."""
    lpips_start: int = 100
    """First step with the perceptual distance."""
    lpips_crop: int = 128
    """Side of the central square that is compared where a patch is larger."""
    depth: float = 0.5
    """Depth, on the foreground."""
    depth_kind: Literal["ssi", "l1"] = "ssi"
    """`ssi`: scale- and shift-invariant, with a gradient term, for patches; `l1`: absolute error of metric depth."""
    depth_measure: Literal["z", "ray"] = "z"
    """`z`: the rendering's distance along the ray becomes z-depth, as the target is. `ray`: it does not (published)."""
    depth_mean: Literal["expected", "composited"] = "expected"
    """`expected`: the composited depth is divided by the opacity and compared where the target has a depth.
    `composited`: it is not divided, and is compared under the whole alpha mask (published)."""
    depth_zero_above: float | None = None
    """Drop the depth loss of a step where it exceeds this (published: 0.2); None for never."""
    mask: float = 1.0
    """Mean absolute error of the opacity."""
    normal: float = 0.0
    """One less the cosine between rendered and true normals, on the foreground."""
    vq: float = 1.0
    """The quantizer's loss."""
    adversarial: float = 0.025 * 0.025
    """The generator's adversarial loss."""
    adversarial_start: int = 0
    """First step with the adversarial losses."""
    discriminator: float = 0.025
    """The discriminator's own hinge loss."""


@dataclass(frozen=True)
class SamplingConfig:
    """Which pixels a step renders."""

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID

    kind: Literal["patches", "rays"] = "patches"
    """`patches`: one square of each supervised view; `rays`: scattered pixels, for short runs without LPIPS."""
    patch: int = 128
    """Side of a patch in pixels."""
    patch_foreground: float = 0.875
    """Share of patches that are forced onto the object."""
    rays: int = 256
    """Scattered pixels of one sample, over its supervised views."""
    rays_foreground: float = 0.7
    """Share of scattered pixels that lie on the object."""
    dilation: int = 3
    """Pixels by which the object is grown for that, so that both sides of its silhouette are seen."""
    chunk: int | None = dataclasses.field(default=None, metadata={"identity": False})
    """Rays of a sample that are marched at a time, recomputed in the backward pass; none: all at once."""


@dataclass(frozen=True)
class LRConfig:
    """Peak learning rates of AdamW (published.md, training)."""

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID

    encoder: float = 1e-4
    transformer: float = 8e-5
    """The decoder's transformer."""
    field: float = 1e-4
    """The field's MLP."""
    other: float = 1e-4
    """Quantizer, latent convolutions, upsampler."""
    discriminator: float = 8e-5


@dataclass(frozen=True)
class WeightDecayConfig:
    """Weight decays of AdamW (published.md, training)."""

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID

    transformer: float = 1e-3
    """Of encoder and transformer."""
    other: float = 1e-2
    """Of the rest."""
    codebook: float = 0.0
    """Of the codes; published: 0.01."""


@dataclass(frozen=True)
class CodebookConfig:
    """Initialization of the codebook from data, and resets of dead codes."""

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID

    quantize_start: int = 0
    """First step that quantizes. Until then the latent passes through unquantized; the codebook is then initialized from
    latents by k-means. 0: quantize from the first step with a random codebook (published)."""
    dead_code_reset_every: int = 0
    """Steps between resets of dead codes; 0: never (published)."""
    dead_code_reset_until: int = 0
    """Last step of resets, after which the codebook converges."""
    dead_code_threshold: float = 0.03
    """Hits in a step, over all scales, below which a code counts as dead."""


@dataclass(frozen=True)
class VQVAETaskConfig:
    """What decides a step of training, apart from the data and the optimizer."""

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID

    preset: Literal["tiny", "small", "paper"] = "tiny"
    """Size of the model, see `sar3d.vqvae.config`."""
    model: VQVAEConfig = over_preset(PRESETS)
    """The model; settings that are not given are the preset's."""
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    sampling: SamplingConfig = dataclasses.field(default_factory=SamplingConfig)
    lr: LRConfig = dataclasses.field(default_factory=LRConfig)
    weight_decay: WeightDecayConfig = dataclasses.field(default_factory=WeightDecayConfig)
    codebook: CodebookConfig = dataclasses.field(default_factory=CodebookConfig)
    perceptual: PerceptualConfig = dataclasses.field(default_factory=PerceptualConfig, metadata={"identity": False})
    """Where the weights of LPIPS lie; whether there are any is settled by the stage."""
    discriminator_norm: Norm = "group"
    """`batch` is the published one; its result depends on the number of workers."""
    checkpoint_activations: bool = dataclasses.field(default=False, metadata={"identity": False})
    """Less memory for more time: activations are computed again in the backward pass."""

    def __post_init__(self) -> None:
        settle(self)
        if self.sampling.kind == "rays" and (self.loss.lpips or self.loss.adversarial):
            raise UserError(
                "the losses lpips and adversarial compare patches: set sampling.kind=patches, or both weights to 0"
            )
