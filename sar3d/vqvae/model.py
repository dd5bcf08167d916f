"""The multi-scale 3D VQVAE: views to tokens, tokens to a radiance field (SAR3D, section 3.1)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sar3d.errors import UserError
from sar3d.vqvae.config import PLANES, VQVAEConfig
from sar3d.vqvae.decoder import TriplaneDecoder
from sar3d.vqvae.encoder import Encoder
from sar3d.vqvae.field import FieldMLP, TriplaneField
from sar3d.vqvae.layers import conv3
from sar3d.vqvae.points import PointEncoder
from sar3d.vqvae.quantizer import MultiScaleQuantizer, Quantized, pack, unpack

_LEAST_SQUARE = 1e-8
"""Added to the mean square of a plane before it is divided by its root."""


class Autoencoder(nn.Module):
    """Six views of an object to a latent triplane, its multi-scale codes, and back to a triplane of features.

    Args:
        config: see `sar3d.vqvae.config.PRESETS`.

    Raises:
        UserError: widths and heads of the configuration do not fit.
    """

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.quantizer.code_dim
        self.encoder: nn.Module = (
            PointEncoder(config.encoder, dim, config.side, config.field.side)
            if config.encoder.kind == "points"
            else Encoder(config.encoder, dim, config.stem_stride)
        )
        self.quant_conv = conv3(dim, dim)
        self.quantizer = MultiScaleQuantizer(config.quantizer)
        self.decoder = TriplaneDecoder(config.decoder, dim, config.side)
        self.checkpoint_activations = False
        """Compute the activations of the encoder's levels and the decoder's blocks twice instead of keeping them."""

    def latent(self, views: Float[Tensor, "B V C H W"]) -> Float[Tensor, "BP D G G"]:
        """The latent planes f before quantization, row 3b + p = plane p of object b, in the parameters' precision
        whatever autocast says.

        Args:
            views: encoder input, see `sar3d.data.loading.view_tensors.encoder_input`.

        Raises:
            UserError: the views have another number, channels or resolution than the configuration's.
        """
        expected = (self.config.encoder.views, self.config.encoder.in_channels, *2 * (self.config.resolution,))
        if views.ndim != 5 or tuple(views.shape[1:]) != expected:
            given = _views(views.shape[1:]) if views.ndim == 5 else f"a tensor of shape {tuple(views.shape)}"
            raise UserError(
                f"the VQVAE takes {_views(expected)} per object, not {given}: "
                "render or resize the views accordingly, or choose a VQVAE made for them"
            )
        f = self.quant_conv(self.encoder(views, recompute=self.checkpoint_activations))
        f = f.to(self.quant_conv.weight.dtype)
        return unit_rms(f) if self.config.quantizer.latent_norm == "rms" else f

    def decode(self, f_hat: Float[Tensor, "BP D G G"]) -> Float[Tensor, "B P C R R"]:
        """The triplane's features of quantized latent planes, in the parameters' precision whatever autocast says."""
        return self.decoder(f_hat, recompute=self.checkpoint_activations).to(self.decoder.pos_embed.dtype)

    @torch.no_grad()
    def tokens(self, views: Float[Tensor, "B V C H W"]) -> Int[Tensor, "B L"]:
        """The codes of the views' objects: scale after scale, plane after plane, row-major.

        Raises `UserError` as `latent` does.
        """
        return pack(self.quantizer.encode(self.latent(views)))

    def decode_tokens(self, tokens: Int[Tensor, "B L"]) -> Float[Tensor, "B P C R R"]:
        """The triplane's features of codes, by the generation path (published.md, quantizer).

        Raises:
            UserError: another number of tokens than the configuration's, or a code that the codebook has not.
        """
        return self.decode(self.quantizer.f_hat(unpack(tokens, self.config.quantizer.scales)))


class VQVAE(Autoencoder):
    """The tokenizer: what the triplane's features mean is a radiance field.

    The weights are drawn from torch's global generator: seed it for the same start.
    """

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__(config)
        self.field_mlp = FieldMLP(PLANES * config.decoder.plane_channels, config.field)

    def forward(
        self, views: Float[Tensor, "B V C H W"], quantize: bool = True
    ) -> tuple[Float[Tensor, "B P C2 R R"], Quantized]:
        """The triplane's features and the quantized latent, with gradients.

        Args:
            views: encoder input, see `sar3d.data.loading.view_tensors.encoder_input`.
            quantize: False hands the latent to the decoder as it is; loss 0, no indices.

        Raises `UserError` as `latent` does.
        """
        f = self.latent(views)
        quantized = self.quantizer(f) if quantize else Quantized(f_hat=f, loss=f.new_zeros(()), tokens=[])
        return self.decode(quantized.f_hat), quantized

    def field(self, planes: Float[Tensor, "B P C R R"]) -> TriplaneField:
        """The radiance field of a triplane."""
        return TriplaneField(planes, self.field_mlp, self.config.field)


def unit_rms(planes: Float[Tensor, "R D G G"]) -> Float[Tensor, "R D G G"]:
    """Each plane divided by its root mean square over channels and pixels; a plane of zeros stays one."""
    return planes * (planes.square().mean((1, 2, 3), keepdim=True) + _LEAST_SQUARE).rsqrt()


def _views(shape: Sequence[int]) -> str:
    views, channels, height, width = shape
    return f"{views} views of {channels} channels and {height}×{width} pixels"
