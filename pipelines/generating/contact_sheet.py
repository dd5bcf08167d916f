"""A contact sheet of generated objects: the prompt, what it should look like where that is known, what was generated, and
what a captioner says of it.
"""

import io
import json
import textwrap
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipelines.generating.ground_truth import COMPARED
from pipelines.runtime.output import Output
from pipelines.runtime.reading import read_rows
from sar3d.contact_sheet import stacked

ROWS = 12
KEPT = 4
CELL = 128
_WIDTH = 6
"""Cells of a line: the prompt takes one and a half, what is shown the rest."""
_PROMPT = CELL * 3 // 2
_GAP = 8
_COLUMNS = ["uid", "kind", "text", "seed", "settings", "comparison", "png", "prompt", "caption"]
_INK, _FAINT, _SAID = (30, 30, 30), (120, 120, 120), (20, 80, 140)


def kept_objects(output: Output, count: int = KEPT) -> dict[str, bytes]:
    """The meshes of the first `count` objects, as `objects/<id>.glb`, for the tracker."""
    rows = islice(read_rows(output, ["uid", "glb"], batch=count), count)
    return {f"objects/{row['uid']}.glb": row["glb"] for row in rows if row["glb"] is not None}


def contact_sheet(output: Output, rows: int = ROWS) -> bytes | None:
    """PNG of the first `rows` objects of an output whose manifest is there; None if it has none."""
    bands = [_band(row) for row in islice(read_rows(output, _COLUMNS, batch=4), rows)]
    if not bands:
        return None
    return stacked(bands, _GAP, ruled=True)


def _band(row: dict[str, Any]) -> Image.Image:
    """One object: its prompt at the left, and true above generated views, or generated ones alone."""
    shown = _shown(row)
    band = Image.new("RGB", (_PROMPT + _GAP + shown.width, max(shown.height, CELL)), "white")
    draw = ImageDraw.Draw(band)
    band.paste(_prompt(row), (0, 0))
    if row["caption"] is not None:
        _words(draw, CELL, f"described as: {row['caption']}", size=12, ink=_SAID)
    if row["comparison"] is not None:
        font = ImageFont.load_default(size=11)
        labels = ("should look like", "generated", "the same tokens as a field")
        for line, label in enumerate(labels[: shown.height // CELL]):
            draw.text((2, line * CELL + CELL - 14), label, font=font, fill=_FAINT)
    band.paste(shown, (_PROMPT + _GAP, 0))
    return band


def _prompt(row: dict[str, Any]) -> Image.Image:
    cell = Image.new("RGB", (_PROMPT, CELL - 16), "white")
    if row["kind"] == "image" and row["prompt"] is not None:
        cell.paste(_picture(row["prompt"]).resize((CELL - 16, CELL - 16), Image.Resampling.BICUBIC), (0, 0))
        return cell
    prompt = json.loads(row["settings"])["prompt"]
    _words(ImageDraw.Draw(cell), 2, str(prompt.get("text") or row["uid"]), size=14, ink=_INK)
    return cell


def _words(draw: ImageDraw.ImageDraw, top: int, text: str, size: int, ink: tuple[int, int, int]) -> None:
    lines = textwrap.wrap(text, 26)[:6]
    draw.multiline_text((2, top), "\n".join(lines), font=ImageFont.load_default(size=size), fill=ink)


def _shown(row: dict[str, Any]) -> Image.Image:
    """Lines of cells, or the top of the object's own contact sheet."""
    if row["comparison"] is not None:
        picture = _picture(row["comparison"])
        return _scaled(picture, round(picture.height * COMPARED / picture.width) * CELL)
    if row["png"] is not None:
        own = _picture(row["png"])
        return own.resize((CELL * (_WIDTH - 1), max(1, round(own.height * CELL * (_WIDTH - 1) / own.width))))
    return Image.fromarray(np.full((CELL, CELL, 3), 255, np.uint8))


def _scaled(picture: Image.Image, height: int) -> Image.Image:
    return picture.resize((max(1, round(picture.width * height / picture.height)), height), Image.Resampling.BICUBIC)


def _picture(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")
