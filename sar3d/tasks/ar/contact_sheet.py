"""Pictures of what a generator makes: prompts beside the true objects, their reconstructions and what was generated."""

import textwrap

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sar3d.ar.decoding_config import Decoding
from sar3d.ar.transformer import ARTransformer
from sar3d.conditions.condition import Condition
from sar3d.contact_sheet import png
from sar3d.data.datasets.prompted_objects import PromptedObject
from sar3d.spacing import evenly_spaced
from sar3d.tasks.ar.evaluate import FieldRenderer, GenerationSets, Prompts, decoded, make
from sar3d.vqvae.model import VQVAE

VIEWS = 3
"""Views of each object."""
CELL = 128
"""Side of one picture."""
FREE = Decoding(guidance=0.0, top_k=0, top_p=0.95)
"""Decoding of unconditional samples."""
_FREE_OBJECTS = 8
_GAP = 8
_HEADINGS = ("prompt", "true", "reconstructed from its codes", "generated")


@torch.no_grad()
def draw(
    model: ARTransformer, vqvae: VQVAE, empty: Condition, held_out: GenerationSets, prompts: Prompts
) -> dict[str, bytes]:
    """One PNG per set, a row per object (prompt, true views, reconstruction, generated), and one of objects generated
    from the empty condition without guidance.
    """
    pictures: dict[str, bytes] = {}
    with torch.autocast(next(model.parameters()).device.type, enabled=False):
        for name, objects in held_out.sets.items():
            chosen = [objects[i] for i in evenly_spaced(range(len(objects)), held_out.pictures)]
            if not chosen:
                continue
            conditions = Condition.cat([prompts(prompted).select([0]) for prompted in chosen])
            seeds = range(len(chosen))
            made = make(model, vqvae, conditions, empty, held_out.decoding, seeds, held_out.batch)
            rows = [_row(vqvae, prompted, look) for prompted, look in zip(chosen, made, strict=True)]
            pictures[f"generated_{name}.png"] = png(np.concatenate([_headings(rows[0].shape[1]), *rows]))
            if "unconditional.png" not in pictures:
                pictures["unconditional.png"] = _free(model, vqvae, empty, chosen[0])
    return pictures


def _free(model: ARTransformer, vqvae: VQVAE, empty: Condition, prompted: PromptedObject) -> bytes:
    cameras = prompted.target.cameras[evenly_spaced(range(len(prompted.target.cameras)), VIEWS)]
    made = make(model, vqvae, empty.expand(_FREE_OBJECTS), empty, FREE, range(_FREE_OBJECTS))
    cells = [_strip(look(cameras, prompted.target.image.shape[-1])) for look in made]
    half = len(cells) // 2
    return png(np.concatenate([np.concatenate(part, 0) for part in (cells[:half], cells[half:])], 1))


def _row(vqvae: VQVAE, prompted: PromptedObject, generated: FieldRenderer) -> np.ndarray:
    at = evenly_spaced(range(len(prompted.target.cameras)), VIEWS)
    cameras, true = prompted.target.cameras[at], (prompted.target.image[at] + 1) / 2
    side = true.shape[-1]
    reconstructed = FieldRenderer(vqvae, decoded(vqvae, prompted.tokens))(cameras, side)
    prompt = _written(prompted.label) if prompted.pictures is None else _strip(prompted.pictures[:1])
    return np.concatenate([prompt, _strip(true), _strip(reconstructed), _strip(generated(cameras, side))], 1)


def _strip(views: Float[Tensor, "V 3 h w"]) -> np.ndarray:
    """The views side by side, with a gap on all sides."""
    pixels = (rearrange(views.clamp(0, 1).cpu(), "v c h w -> v h w c") * 255).round().byte().numpy()
    cells = [np.asarray(Image.fromarray(p).resize((CELL, CELL), Image.Resampling.BICUBIC)) for p in pixels]
    return _framed(np.concatenate(cells, 1))


def _written(text: str) -> np.ndarray:
    picture = Image.new("RGB", (CELL, CELL), "white")
    lines = "\n".join(textwrap.wrap(text, 17)[:7])
    ImageDraw.Draw(picture).multiline_text((4, 8), lines, fill="black", font=ImageFont.load_default(14))
    return _framed(np.asarray(picture))


def _headings(width: int) -> np.ndarray:
    picture = Image.new("RGB", (width, 24), "white")
    left = _GAP
    for text, cells in zip(_HEADINGS, (1, VIEWS, VIEWS, VIEWS), strict=True):
        ImageDraw.Draw(picture).text((left, 6), text, fill="black", font=ImageFont.load_default(13))
        left += cells * CELL + 2 * _GAP
    return np.asarray(picture)


def _framed(pixels: np.ndarray) -> np.ndarray:
    return np.pad(pixels, ((_GAP, _GAP), (_GAP, _GAP), (0, 0)), constant_values=255)
