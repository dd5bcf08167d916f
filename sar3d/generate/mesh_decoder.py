"""What decodes the tokens of a VQVAE to meshes."""

from dataclasses import dataclass

import torch

from sar3d import hub
from sar3d.errors import UserError
from sar3d.generate.folders import Folders
from sar3d.vqvae.config import QuantizerConfig
from sar3d.vqvae.flexi_model import FlexiVQVAE


@dataclass(frozen=True)
class MeshDecoder:
    """A loaded mesh decoder."""

    model: FlexiVQVAE
    digest: str


def load_mesh_decoder(
    folders: Folders, vqvae: str, quantizer: QuantizerConfig, device: torch.device | str
) -> MeshDecoder:
    """The mesh decoder of `folders`.

    Args:
        vqvae: digest of the VQVAE whose tokens it is to decode.
        quantizer: of that VQVAE.

    Raises:
        UserError: there is none, or it decodes the tokens of another VQVAE.
    """
    folder = folders.flexicubes
    if folder is None:
        raise UserError(
            f"there is no mesh decoder in {folders.where}: train one (train_flexicubes), give its folder (flexicubes), or "
            "choose the decoder nerf"
        )
    made_for = (hub.describe(folder).get("extra") or {}).get("vqvae")
    model = hub.from_pretrained(folder, device, kind="flexicubes").requires_grad_(False)
    hub.check_tokens(f"the mesh decoder in {folder}", made_for, str(folders.vqvae), vqvae)
    kinds = [(q.codebook_size, q.code_dim, q.scales) for q in (quantizer, model.config.quantizer)]
    if kinds[0] != kinds[1]:  # a converted one does not say which VQVAE it was trained with
        raise UserError(
            f"the mesh decoder in {folder} decodes the tokens of another VQVAE than the one in {folders.vqvae}: give the "
            "one that was trained with it (flexicubes)"
        )
    return MeshDecoder(model, hub.digest(folder))
