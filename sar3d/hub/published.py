"""The published SAR3D checkpoints: which one a file is, and its conversion."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from sar3d.errors import UserError
from sar3d.hub import vqvae
from sar3d.hub.files import read_tensors
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
) -> VQVAE:
    """Our model of a published checkpoint, its configuration inferred from tensor names and shapes.

    Args:
        path: .pt, .pth or .safetensors.
        decoder_heads, encoder_heads, scales: what shapes do not tell, see `sar3d.hub.vqvae.infer_config`.

    Raises:
        UserError: the file cannot be read safely, or is no checkpoint that can be converted; nothing is loaded.
    """
    path = Path(path)
    tensors = read_tensors(path)
    mark = next((m for m in MARKS if m in tensors), None)
    if mark is None:
        raise UserError(f"{path} is no published SAR3D checkpoint: it has none of the tensors {', '.join(MARKS)}")
    if MARKS[mark] != "VQVAE":
        raise UserError(
            f"{path} is a SAR3D {MARKS[mark]} (it has the tensor {mark}), which cannot be converted yet: "
            "give the VQVAE with the radiance field"
        )
    return vqvae.from_published(
        tensors, str(path), decoder_heads=decoder_heads, encoder_heads=encoder_heads, scales=scales
    )


def to_published(model: VQVAE) -> dict[str, Tensor]:
    """The model's tensors as a published checkpoint has them, see `sar3d.hub.vqvae.to_published`."""
    return vqvae.to_published(model)
