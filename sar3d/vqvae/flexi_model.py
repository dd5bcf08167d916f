"""The tokenizer whose triplanes are read as meshes (SAR3D, section 3.1, FlexiCubes)."""

from jaxtyping import Float
from torch import Tensor

from sar3d.vqvae.config import PLANES
from sar3d.vqvae.flexi_config import FlexiVQVAEConfig
from sar3d.vqvae.flexi_field import FlexiField
from sar3d.vqvae.flexi_heads import MeshHeads
from sar3d.vqvae.model import Autoencoder


class FlexiVQVAE(Autoencoder):
    """Encoder, quantizer and decoder of a VQVAE, and heads that read meshes from its triplanes.

    The weights are drawn from torch's global generator; those of a trained VQVAE fit (`load_state_dict` without its
    `field_mlp`, which `MeshHeads.start_from` takes over).
    """

    def __init__(self, config: FlexiVQVAEConfig) -> None:
        super().__init__(config.vqvae)
        self.flexi_config = config
        self.heads = MeshHeads(PLANES * config.vqvae.decoder.plane_channels, config.mesh)

    def forward(self, views: Float[Tensor, "B V C H W"]) -> Float[Tensor, "B P C2 R R"]:
        """The triplane's features of the views' tokens, with gradients for the decoder. Raises `UserError` as `latent`."""
        return self.decode_tokens(self.tokens(views))

    def field(self, planes: Float[Tensor, "B P C R R"]) -> FlexiField:
        """The meshes of a triplane."""
        return FlexiField(planes, self.heads, self.flexi_config.mesh, self.config.field.side)
