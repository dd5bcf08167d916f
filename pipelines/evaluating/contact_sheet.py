"""Pictures of an evaluation: the truth, what was made of it, and the nearest training object."""

import io
import textwrap
from collections.abc import Sequence

import numpy as np
from einops import rearrange
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pipelines.runtime.output import Output
from pipelines.runtime.reading import read_rows
from sar3d.contact_sheet import png, stacked, to_bytes

VIEWS = 4
OBJECTS = 6
"""Of each kind that are drawn."""
_CELL, _LEFT, _GAP = 96, 150, 8
_LABELS = ("truth", "ours", "nearest training object")
_INK = (90, 90, 90)


def comparison(lines: Sequence[Float[Tensor, "V 3 H W"]]) -> bytes:
    """PNG of a line of views for each of some looks of one object."""
    rows = [rearrange(line[:VIEWS], "v c h w -> c h (v w)") for line in lines]
    return png(np.concatenate([to_bytes(row) for row in rows]))


def sheets(output: Output) -> dict[str, bytes]:
    """One PNG for each thing that was judged by pictures, by file name, of an output whose manifest is there."""
    found: dict[str, list[tuple[str, bytes]]] = {}
    for row in read_rows(output, ["object", "what", "prompt", "comparison"], batch=16):
        drawn = found.setdefault(row["what"], [])
        if row["comparison"] is not None and len(drawn) < OBJECTS:
            drawn.append((row["prompt"] or row["object"], row["comparison"]))
    return {f"{_NAMES[what]}.png": _sheet(drawn) for what, drawn in found.items() if drawn}


_NAMES: dict[str, str] = {"reconstruction": "reconstructed", "text": "from_text", "image": "from_image"}


def _sheet(drawn: Sequence[tuple[str, bytes]]) -> bytes:
    bands = [_band(title, Image.open(io.BytesIO(data)).convert("RGB")) for title, data in drawn]
    return stacked(bands, _GAP)


def _band(title: str, shown: Image.Image) -> Image.Image:
    """One object: what was asked for, and a named line for each look."""
    views = min(VIEWS, max(1, shown.width * len(_LABELS) // max(1, shown.height)))
    count = max(1, round(shown.height * views / shown.width))
    shown = shown.resize((_CELL * views, _CELL * count), Image.Resampling.BICUBIC)
    band = Image.new("RGB", (_LEFT + shown.width, shown.height), "white")
    band.paste(shown, (_LEFT, 0))
    draw, font = ImageDraw.Draw(band), ImageFont.load_default(size=12)
    draw.multiline_text((0, 0), "\n".join(textwrap.wrap(title, 24)[:3]), font=font, fill="black")
    for line in range(count):
        draw.text((0, (line + 1) * _CELL - 18), _LABELS[line], font=font, fill=_INK)
    return band
