"""The configuration of the multi-scale 3D VQVAE: one frozen dataclass per part, and the presets."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from sar3d.errors import UserError
from sar3d.values import read_config

PLANES = 3
"""XY, YZ and ZX, in this order everywhere."""

QuantizerRule = Literal["normalized", "published"]

LatentNorm = Literal["none", "rms"]

EncoderKind = Literal["views", "points"]

_FORBID: dict[str, str] = {"extra": "forbid"}


@dataclass(frozen=True)
class EncoderConfig:
    """From views to latent planes (published.md, encoder)."""

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID

    kind: EncoderKind = "views"
    """`views`: convolutions on the views, whose maps a last one fuses (published). `points`: what the pixels show is laid
    onto the planes where their depth says it lies, and the convolutions run on the planes; see `sar3d.vqvae.points`."""
    channels: int = 160
    """Width of the first level."""
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    """Width of each level in units of `channels`; a stride of 2 lies between levels."""
    blocks: int = 2
    """Residual blocks per level."""
    point_stride: int = 2
    """Side in pixels of the square that gives one point (`points` only)."""
    attention_width: int = 512
    """Width of the transformer over all views, or over all planes."""
    attention_heads: int = 8
    views: int = 6
    """Views that are encoded; the fusion's weights depend on their order, points do not."""
    in_channels: int = 10
    """RGB, Plücker coordinates, depth."""


@dataclass(frozen=True)
class QuantizerConfig:
    """Multi-scale residual quantizer (published.md, quantizer)."""

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID

    codebook_size: int = 16384
    """Entries of the codebook, shared by all scales and planes."""
    code_dim: int = 8
    """Channels of a code and of the latent planes."""
    scales: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    """Side lengths of the token maps, coarse to fine; the last is the side of the latent planes."""
    phi: int = 4
    """Convolutions φ shared among the scales."""
    phi_ratio: float = 0.5
    """Weight of the convolution in φ(h) = (1 - ratio)·h + ratio·conv(h)."""
    beta: float = 0.25
    """Weight of the commitment term."""
    latent_norm: LatentNorm = "none"
    """`rms`: each latent plane is divided by its root mean square, so that it cannot outgrow the unit-norm codes, whenever
    quantization begins. `none`: it is quantized as it is (published)."""
    rule: QuantizerRule = "normalized"
    """`normalized`: unit-norm codes on every path. `published`: raw codes where the released weights were trained so."""


@dataclass(frozen=True)
class DecoderConfig:
    """Token decoder: transformer over 3·side² tokens, then a convolutional upsampler per plane (published.md, decoder)."""

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID

    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: int = 4
    channels: int = 32
    """Width of the upsampler's finest level."""
    multipliers: tuple[int, ...] = (1, 2, 2, 4)
    """Width of each level of the upsampler in units of `channels`, finest first; a factor of 2 lies between levels."""
    blocks: int = 2
    """Residual blocks per level of the upsampler."""
    plane_channels: int = 32
    """Feature channels of one plane of the triplane."""
    tokens_in_stream: bool = False
    """Add the tokens to the transformer's input as well; the published decoder shows them to AdaLN alone, which learns
    slowly from a random start because its gates begin at zero."""


@dataclass(frozen=True)
class FieldConfig:
    """Radiance field read from a triplane (published.md, rendering)."""

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID

    hidden: int = 64
    hidden_layers: int = 3
    side: float = 0.9
    """Side of the cube, centered at the origin, that the planes cover."""
    density_scale: float = 1.0
    """Density = density_scale · softplus(raw + density_shift), per unit length."""
    density_shift: float = -1.0


@dataclass(frozen=True)
class VolumeConfig:
    """How rays are marched; no weight depends on it."""

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID

    coarse: int = 64
    """Stratified samples on a ray."""
    fine: int = 64
    """Samples drawn where the coarse ones found density; 0 for none."""


@dataclass(frozen=True)
class VQVAEConfig:
    """The whole tokenizer. The defaults are the published system."""

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID

    resolution: int = 256
    """Side of the views that go in, in pixels."""
    encoder: EncoderConfig = dataclasses.field(default_factory=EncoderConfig)
    quantizer: QuantizerConfig = dataclasses.field(default_factory=QuantizerConfig)
    decoder: DecoderConfig = dataclasses.field(default_factory=DecoderConfig)
    field: FieldConfig = dataclasses.field(default_factory=FieldConfig)
    volume: VolumeConfig = dataclasses.field(default_factory=VolumeConfig)

    def __post_init__(self) -> None:
        if self.encoder.kind == "points":
            if self.resolution % self.encoder.point_stride:
                raise UserError(
                    f"the VQVAE cannot take views of {self.resolution} pixels: encoder.point_stride="
                    f"{self.encoder.point_stride} does not divide them"
                )
            return
        shrink = self.side * 2 ** (len(self.encoder.multipliers) - 1)
        if self.resolution % shrink:
            raise UserError(
                f"the VQVAE cannot take views of {self.resolution} pixels: with {len(self.encoder.multipliers)} encoder "
                f"levels and latent planes of {self.side} the resolution must be a multiple of {shrink}"
            )

    @property
    def side(self) -> int:
        """Side of a latent plane."""
        return self.quantizer.scales[-1]

    @property
    def stem_stride(self) -> int:
        """Stride of the encoder's first convolution: what the levels leave between resolution and latent side."""
        return self.resolution // (self.side * 2 ** (len(self.encoder.multipliers) - 1))

    @property
    def plane_side(self) -> int:
        """Side of a plane of the triplane."""
        return int(self.side * 2 ** (len(self.decoder.multipliers) - 1))

    @property
    def tokens(self) -> int:
        """L: tokens of one object, 2040 in the published layout."""
        return PLANES * sum(n * n for n in self.quantizer.scales)


PRESETS: dict[str, VQVAEConfig] = {
    "tiny": VQVAEConfig(
        resolution=64,
        encoder=EncoderConfig(channels=32, multipliers=(1,), blocks=1, attention_width=32, attention_heads=1),
        quantizer=QuantizerConfig(codebook_size=1024),
        decoder=DecoderConfig(
            width=96,
            depth=2,
            heads=1,
            multipliers=(1, 1),
            blocks=1,
            plane_channels=16,
            tokens_in_stream=True,
        ),
        field=FieldConfig(hidden=48, hidden_layers=2, density_scale=20.0),
        volume=VolumeConfig(coarse=32, fine=0),
    ),
    "small": VQVAEConfig(
        resolution=128,
        encoder=EncoderConfig(channels=64, multipliers=(1, 2, 2, 4), attention_width=256, attention_heads=4),
        quantizer=QuantizerConfig(codebook_size=4096),
        decoder=DecoderConfig(width=384, depth=6, heads=6, multipliers=(1, 2, 2), tokens_in_stream=True),
        field=FieldConfig(density_scale=20.0),
        volume=VolumeConfig(coarse=48, fine=48),
    ),
    "paper": VQVAEConfig(quantizer=QuantizerConfig(rule="normalized")),
}
"""`tiny` trains on two CPU cores, `small` on one GPU, `paper` is the published size (176.24 M parameters)."""


def to_dict(config: VQVAEConfig) -> dict[str, Any]:
    """As JSON values."""
    return dataclasses.asdict(config)


def from_dict(values: dict[str, Any]) -> VQVAEConfig:
    """The configuration of a config.json. Raises `UserError` for a key or value that is none."""
    return read_config(VQVAEConfig, values)
