"""What a stage that measured systems leaves beside its rows: the summary, a table, a plot, and pictures of some objects."""

import csv
import io
from collections import Counter
from collections.abc import Iterable
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from pipelines.measuring.lines import TRUTH, Summary, sentences, to_csv, to_json
from pipelines.measuring.plots import interval_plot
from pipelines.measuring.summary import by_system, lines_of, pairs_of
from pipelines.runtime.output import Output
from pipelines.runtime.reading import read_rows
from pipelines.runtime.stage import Log
from sar3d.contact_sheet import stacked

OBJECTS = 6
"""That are drawn."""
_LEFT, _GAP = 190, 8
_WARNINGS = 200
"""Sentences that are listed; all are in the rows."""


def summarized(
    output: Output, name: str, identity: dict[str, Any], seed: int, log: Log, order: Iterable[str] = ()
) -> dict[str, bytes]:
    """Artifacts by file name, of an output of systems' rows whose manifest is there; systems stand in `order`."""
    rows = by_system(output, order)
    protocols = sorted({row["protocol"] for objects in rows.values() for row in objects.values()})
    summary = Summary(lines_of(rows, seed), pairs_of(rows, seed), {**identity, "protocols": protocols})
    for sentence in sentences(summary.lines):
        log(f"{output.stage}: {sentence}")
    made = {f"{name}.csv": to_csv(summary.lines), f"{name}.json": to_json(summary)}
    made |= {f"{name}_warnings.csv": warnings} if (warnings := _warnings(output)) else {}
    return made | drawings(summary, output, name)


def drawings(summary: Summary, output: Output, name: str) -> dict[str, bytes]:
    """A plot of intervals and a sheet of pictures, where there are any."""
    plot, sheet = interval_plot(summary.lines), _sheet(output)
    found = {f"{name}_intervals.png": plot, f"{name}_objects.png": sheet}
    return {file: data for file, data in found.items() if data is not None}


def _warnings(output: Output) -> bytes | None:
    """What is to be known of single rows, counted by system and sentence."""
    counts = Counter(
        (row["system"], said) for row in read_rows(output, ["system", "warnings"]) for said in row["warnings"] or ()
    )
    if not counts:
        return None
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["system", "warning", "objects"])
    writer.writerows([*key, count] for key, count in counts.most_common(_WARNINGS))
    return text.getvalue().encode()


def _sheet(output: Output) -> bytes | None:
    """The first objects: a line for the truth, and one for each system."""
    drawn: dict[str, list[tuple[str, bytes]]] = {}
    for row in read_rows(output, ["uid", "system", "picture"], batch=64):
        if row["picture"] is not None and (row["uid"] in drawn or len(drawn) < OBJECTS):
            drawn.setdefault(row["uid"], []).append((row["system"], row["picture"]))
    bands = [_band(uid, lines) for uid, lines in drawn.items()]
    return stacked(bands, _GAP, ruled=True) if bands else None


def _band(uid: str, lines: list[tuple[str, bytes]]) -> Image.Image:
    pictures = [Image.open(io.BytesIO(data)).convert("RGB") for _, data in lines]
    width = max(picture.width for picture in pictures)
    band = Image.new("RGB", (_LEFT + width, sum(picture.height for picture in pictures)), "white")
    draw, font = ImageDraw.Draw(band), ImageFont.load_default(size=12)
    top = 0
    for (system, _), picture in zip(lines, pictures, strict=True):
        band.paste(picture, (_LEFT, top))
        draw.text((0, top + picture.height // 2 - 8), system[:30], font=font, fill="black")
        if system == TRUTH:
            draw.text((0, top + 2), uid[:30], font=font, fill=(90, 90, 90))
        top += picture.height
    return band
