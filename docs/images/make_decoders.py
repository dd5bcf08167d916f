"""Draws decoders.png of docs/flexicubes.md: the same tokens as a radiance field, by marching cubes over it, and as a mesh.

    python docs/images/make_decoders.py runs/flexicubes

The root is one of `configs/flexicubes.yaml`: built-in objects, in views that no training was given.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pipelines.runtime.output import outputs
from sar3d.contact_sheet import to_bytes
from sar3d.data.datasets.shown import ShownSamples
from sar3d.data.datasets.view_config import ViewDataConfig
from sar3d.data.datasets.view_dataset import ViewDataset, ViewSample
from sar3d.data.held_out import HeldOut
from sar3d.hub import from_pretrained
from sar3d.tasks.flexicubes.evaluate import marched
from sar3d.tasks.flexicubes.evaluate import reconstruct as meshed
from sar3d.tasks.vqvae.evaluate import Reconstruction, reconstruct
from sar3d.vqvae.flexi_model import FlexiVQVAE
from sar3d.vqvae.model import VQVAE

OBJECTS = 5
COLORS = 255
LABELS = (
    "true",
    "radiance field",
    "marching cubes",
    "mesh decoder",
    "true",
    "radiance field",
    "marching cubes",
    "mesh decoder",
)
TOP = 18


def main(root: str) -> None:
    """Write decoders.png beside this file."""
    stages = ("render", "train_vqvae", "train_flexicubes")
    rows, vqvae, mesh = (next(o for o in outputs(root, stage) if o.finished() is not None) for stage in stages)
    models = tuple(from_pretrained(output.store.path("model")) for output in (vqvae, mesh))
    data = ViewDataConfig(unit="object", held_out=HeldOut(views=5), val=0.0, test=0.0)
    samples = ShownSamples(ViewDataset(rows.files(), None, data), "held_out", OBJECTS)
    draw([line_of(samples[i], *models) for i in range(len(samples))])


def draw(lines: list[NDArray[np.uint8]]) -> None:
    """One line for each object, below the names of the columns."""
    picture = Image.fromarray(np.concatenate([header(lines[0].shape[1]), *lines]))
    picture.quantize(COLORS, dither=Image.Dither.NONE).save(Path(__file__).with_name("decoders.png"), optimize=True)


def line_of(sample: ViewSample, vqvae: VQVAE, mesh: FlexiVQVAE) -> NDArray[np.uint8]:
    """One object in one view: colors, then normals."""
    sample = replace(sample, supervision=sample.supervision.first(1))
    true = sample.supervision
    made = [reconstruct(vqvae, sample), marched(vqvae, sample), meshed(mesh, sample)]
    colors = [(true.image[0] + 1) / 2, *(one.rgb[0] for one in made)]
    assert true.normal is not None
    normals = [shaded(true.normal[0], true.mask[0]), *map(shaded_normals, made)]
    return to_bytes(rearrange(torch.stack([*colors, *normals]), "n c h w -> c h (n w)"))


def shaded_normals(made: Reconstruction) -> Float[Tensor, "3 H W"]:
    return shaded(made.normal[0], made.opacity[0])


def shaded(normal: Float[Tensor, "3 H W"], mask: Float[Tensor, "H W"]) -> Float[Tensor, "3 H W"]:
    """Normals as colors, on white."""
    return (normal + 1) / 2 * mask + 1 - mask


def header(width: int) -> NDArray[np.uint8]:
    """The names of the columns."""
    strip = Image.new("RGB", (width, TOP), "white")
    draw, cell = ImageDraw.Draw(strip), width // len(LABELS)
    for i, label in enumerate(LABELS):
        draw.text((i * cell + 4, 2), label, font=ImageFont.load_default(size=12), fill=(80, 80, 80))
    return np.asarray(strip)


if __name__ == "__main__":
    main(*sys.argv[1:])
