"""The published SAR3D checkpoints: which one a file is, and its conversion."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from sar3d.ar.transformer import ARTransformer
from sar3d.conditions.kinds import ConditionKind
from sar3d.errors import UserError
from sar3d.hub import ar, flexicubes, vqvae
from sar3d.hub.files import read_tensors
from sar3d.vqvae.flexi_model import FlexiVQVAE
from sar3d.vqvae.model import VQVAE

MARKS: Mapping[str, str] = {
    "decoder.triplane_decoder.decoder.net_sdf.0.weight": "VQVAE with FlexiCubes",
    "pos_1LC": "transformer",
    "decoder.superresolution.quantize.embedding.weight": "VQVAE",
}
"""A tensor that tells each published checkpoint, the first one found decides."""


def convert_published(
    path: str | Path,
    *,
    decoder_heads: int | None = None,
    encoder_heads: int | None = None,
    scales: tuple[int, ...] | None = None,
    condition: ConditionKind | None = None,
) -> VQVAE | FlexiVQVAE | ARTransformer:
    """Our model of a published checkpoint, its configuration inferred from tensor names and shapes.

    Args:
        path: .pt, .pth or .safetensors.
        decoder_heads, encoder_heads: what the shapes of a VQVAE do not tell, see `sar3d.hub.vqvae.infer_config`.
        scales: of both, if not the published ones.
        condition: what the shapes of a transformer may not tell, see `sar3d.hub.ar.infer_config`.

    Raises:
        UserError: the file cannot be read safely, or is no checkpoint that can be converted, or an argument is given
            that does not concern it; nothing is loaded.
    """
    path = Path(path)
    tensors = read_tensors(path)
    mark = next((m for m in MARKS if m in tensors), None)
    if mark is None:
        raise UserError(f"{path} is no published SAR3D checkpoint: it has none of the tensors {', '.join(MARKS)}")
    if MARKS[mark] == "transformer":
        if decoder_heads or encoder_heads:
            raise UserError(f"{path} is a SAR3D transformer, whose tensors tell its heads: give no number of heads")
        return ar.from_published(tensors, str(path), condition=condition, scales=scales)
    if condition:
        raise UserError(f"{path} is a SAR3D {MARKS[mark]}, which knows no condition: give none")
    convert = vqvae.from_published if MARKS[mark] == "VQVAE" else flexicubes.from_published
    return convert(tensors, str(path), decoder_heads=decoder_heads, encoder_heads=encoder_heads, scales=scales)


def to_published(model: VQVAE | FlexiVQVAE | ARTransformer) -> dict[str, Tensor]:
    """The model's tensors as a published checkpoint has them, see `to_published` of its kind's module."""
    if isinstance(model, FlexiVQVAE):
        return flexicubes.to_published(model)
    return ar.to_published(model) if isinstance(model, ARTransformer) else vqvae.to_published(model)
