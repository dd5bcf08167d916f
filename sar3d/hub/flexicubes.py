"""The published VQVAE checkpoints with FlexiCubes (published.md, checkpoints): names, and the configuration they tell."""

import torch
from torch import Tensor

from sar3d.errors import UserError
from sar3d.flexicubes.mesh import WEIGHTS
from sar3d.flexicubes.tables import CORNERS
from sar3d.hub.files import Tensors
from sar3d.hub.names import Table
from sar3d.hub.shapes import Shapes
from sar3d.hub.vqvae import AUTOENCODER_NAMES, HEADS, infer_config, load_published, published_tensors
from sar3d.vqvae.config import PLANES
from sar3d.vqvae.flexi_config import PUBLISHED_DEFORMATION, FlexiConfig, FlexiVQVAEConfig
from sar3d.vqvae.flexi_model import FlexiVQVAE

_SDF = f"{HEADS}.net_sdf"

NAMES: Table = (
    *AUTOENCODER_NAMES,
    (_SDF, "heads.sdf"),
    (f"{HEADS}.net_rgb", "heads.rgb"),
    (f"{HEADS}.net_deformation", "heads.deformation"),
    (f"{HEADS}.net_weight", "heads.weight"),
)
"""Published prefix, our prefix."""


def infer_flexi_config(
    tensors: Tensors,
    source: str,
    *,
    decoder_heads: int | None = None,
    encoder_heads: int | None = None,
    scales: tuple[int, ...] | None = None,
) -> FlexiVQVAEConfig:
    """The configuration of published tensors, from names and shapes; the grid and how far its points move as published.

    Arguments and errors as `sar3d.hub.vqvae.infer_config`.
    """
    heads = {"decoder_heads": decoder_heads, "encoder_heads": encoder_heads}
    vqvae = infer_config(tensors, source, scales=scales, field=_SDF, **heads)
    shapes = Shapes(tensors, source, "published SAR3D VQVAE with FlexiCubes")
    channels = PLANES * vqvae.decoder.plane_channels
    widths = {"net_sdf": (channels, 1), "net_rgb": (channels, 3), "net_deformation": (channels, 3)}
    widths["net_weight"] = len(CORNERS) * channels, WEIGHTS
    layers = vqvae.field.hidden_layers
    for name, (inputs, outputs) in widths.items():
        first, last = shapes(f"{HEADS}.{name}.0.weight", 2), shapes(f"{HEADS}.{name}.{2 * layers}.weight", 2)
        if (first[1], last[0]) != (inputs, outputs):
            raise UserError(
                f"{source} has the head {name} from {first[1]} to {last[0]} channels, not from {inputs} to {outputs}: "
                "it is no published SAR3D VQVAE with FlexiCubes"
            )
    mesh = FlexiConfig(hidden=vqvae.field.hidden, hidden_layers=layers, deformation=PUBLISHED_DEFORMATION)
    return FlexiVQVAEConfig(vqvae=vqvae, mesh=mesh)


def from_published(
    tensors: Tensors,
    source: str,
    *,
    decoder_heads: int | None = None,
    encoder_heads: int | None = None,
    scales: tuple[int, ...] | None = None,
) -> FlexiVQVAE:
    """Our model of published tensors, in evaluation mode; arguments and errors as `sar3d.hub.vqvae.from_published`."""
    config = infer_flexi_config(
        tensors, source, decoder_heads=decoder_heads, encoder_heads=encoder_heads, scales=scales
    )
    with torch.random.fork_rng(devices=[]):
        model = FlexiVQVAE(config)
    load_published(model, tensors, NAMES, source)
    return model.eval()


def to_published(model: FlexiVQVAE) -> dict[str, Tensor]:
    """The model's tensors under the published names, all of them and no others.

    The published format says nothing of the grid: the published code reads it at 128 cubes a side.

    Raises:
        UserError: the model has something the published one has not.
    """
    if model.flexi_config.mesh.deformation != PUBLISHED_DEFORMATION:
        raise UserError(
            f"the model's grid points move by up to {model.flexi_config.mesh.deformation} cubes, which the published "
            "format cannot hold: keep it in ours"
        )
    return published_tensors(model, NAMES)
