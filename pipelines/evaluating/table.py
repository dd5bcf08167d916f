"""The table of an evaluation: every metric over all objects, the model's value beside those of the baselines."""

import csv
import io
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipelines.evaluating.rows import BASELINES, JUDGE, MAJORITY, WHATS, Part
from pipelines.runtime.mlflow_evaluation import Assessment
from pipelines.runtime.output import Output
from pipelines.runtime.reading import read_rows
from pipelines.runtime.stage import Context
from pipelines.withheld import withheld_objects
from sar3d.data.formats.views import split_of
from sar3d.metrics.captions import majority_caption
from sar3d.metrics.registry import CAPTIONS, GENERATION, OURS, RECONSTRUCTION, CaptionBatch, caption_totals, totals

if TYPE_CHECKING:
    from pipelines.evaluate import EvaluateConfig

FILE = "evaluation.json"
_FIRST, _LAST = ("what", "metric", "ours"), ("objects", "better", "note")
"""Columns before and after those of the baselines."""
_KNOWN = 4096
"""Training objects that the baseline and the known names are taken from, as in the captioner's training."""
_COLUMNS = ["object", "what", "part", "said", "judged", "references", "name", "category", "numbers"]


@dataclass(frozen=True)
class TableLine:
    """One metric of one thing that was judged."""

    what: str
    """`heldout/…` or `training/…`."""
    metric: str
    ours: float | None
    """None where it could not be measured."""
    baselines: dict[str, float] = field(default_factory=dict)
    objects: int = 0
    better: str = ""
    """`higher` or `lower`."""
    note: str = ""
    """Why there is no value."""


def make_table(context: "Context[EvaluateConfig]", output: Output) -> list[TableLine]:
    """All metrics of an output whose manifest is there."""
    rows: dict[tuple[str, Part], list[dict[str, Any]]] = {}
    for row in read_rows(output, _COLUMNS):
        rows.setdefault((row["what"], row["part"]), []).append(row)
    made: list[TableLine] = []
    for what in WHATS:
        for (of, part), members in rows.items():
            if of == what:
                made += _captioned(context, part, members) if what == "captions" else _seen(what, part, members)
    return made


def _seen(what: str, part: Part, rows: list[dict[str, Any]]) -> Iterable[TableLine]:
    metrics = RECONSTRUCTION if what == "reconstruction" else GENERATION
    for total in totals([row["numbers"] for row in rows], metrics):
        baselines = {of: value for of, value in total.values.items() if of in BASELINES}
        name = f"{part}/{what}"
        yield TableLine(name, total.metric, total.values.get(OURS), baselines, total.objects, total.better)


def _captioned(context: "Context[EvaluateConfig]", part: Part, rows: list[dict[str, Any]]) -> Iterable[TableLine]:
    references, names = [row["references"] for row in rows], [row["name"] for row in rows]
    categories = [row["category"] for row in rows]
    majority, known = _training_captions(context)
    ours = caption_totals(CaptionBatch([row["said"] for row in rows], references, names, categories, known), CAPTIONS)
    same = CaptionBatch([majority] * len(rows), references, names, categories, known)
    baseline = caption_totals(same, CAPTIONS)["values"] if majority else {}
    for metric, value in ours["values"].items():
        beside = {MAJORITY: baseline[metric]} if metric in baseline else {}
        yield TableLine(f"{part}/captions", metric, value, beside, len(rows), "higher")
    for metric, reason in ours["absent"].items():
        yield TableLine(f"{part}/captions", metric, None, note=reason)
    yield from _judge_lines(part, rows)


def _judge_lines(part: Part, rows: list[dict[str, Any]]) -> Iterable[TableLine]:
    """The mean of a judge's scores, and how many captions have none."""
    scores = [number for row in rows for number in row["numbers"] if number["entry"] == JUDGE]
    silent = [row["judged"] for row in rows if row["judged"] and not row["numbers"]]
    note = f"{len(silent)} captions without a score, the first: {silent[0]}" if silent else ""
    if scores:
        mean = math.fsum(number["value"][0] for number in scores) / len(scores)
        yield TableLine(f"{part}/captions", scores[0]["metric"], mean, {}, len(scores), "higher", note)
    elif silent:
        yield TableLine(f"{part}/captions", JUDGE, None, note=note)


def judged_captions(output: Output) -> dict[str, list[Assessment]]:
    """Every judged caption, by metric."""
    found: dict[str, list[Assessment]] = {}
    for row in read_rows(output, ["object", "said", "judged", "references", "numbers"]):
        for number in row["numbers"]:
            if number["entry"] == JUDGE:
                about = (row["object"], row["said"], row["references"][0], number["value"][0], row["judged"])
                found.setdefault(number["metric"], []).append(Assessment(*about))
    return found


def _training_captions(context: "Context[EvaluateConfig]") -> tuple[str, list[tuple[str, str]]]:
    """The caption that fits most training objects, and names and categories of these; of the first that have one."""
    shares = context.config.shares("captions")
    captions: list[str] = []
    names: list[tuple[str, str]] = []
    objects = context.rows["objects_of"]
    withheld = withheld_objects(objects)
    for row in read_rows(objects, ["uid", "sha256", "name", "category", "captions"]):
        given = [c for c in row["captions"] or () if c and c.strip()]
        apart = withheld is not None and bool(withheld.contains([row["uid"]])[0])
        if given and not apart and split_of(row["sha256"], *shares) == "train":
            captions.append(given[0])
            names.append((row["name"] or "", row["category"] or ""))
        if len(captions) == _KNOWN:
            break
    majority = majority_caption(captions, [name for name, _ in names]) if captions else ""
    return majority, sorted({pair for pair in names if pair[0]})


def table_csv(table: list[TableLine]) -> bytes:
    """For people: four digits, a column for each baseline that there is, and one for notes if there are any."""
    used = [name for name in BASELINES if any(name in line.baselines for line in table)]
    columns = [*_FIRST, *used, *_LAST] if any(line.note for line in table) else [*_FIRST, *used, *_LAST[:-1]]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.replace("_", " ") for column in columns])
    for line in table:
        cells = _cells(line)
        writer.writerow([_short(v) if isinstance(v := cells[column], float) else v or "" for column in columns])
    return text.getvalue().encode()


def table_json(table: list[TableLine]) -> bytes:
    """For programs (pandas: `orient="split"`): every digit and column; null for what is no finite number."""
    columns = [*_FIRST, *BASELINES, *_LAST]
    data = [[_finite(_cells(line)[column]) for column in columns] for line in table]
    return json.dumps({"columns": columns, "data": data}, indent=1, ensure_ascii=False, allow_nan=False).encode()


def read_table(output: Output) -> list[TableLine]:
    """The table that an output keeps. Raises `FileNotFoundError` where it has none."""
    data = output.store.read(f"artifacts/{FILE}")
    if data is None:
        raise FileNotFoundError(f"{output.url} has no {FILE}: the stage has not finished")
    table = json.loads(data)
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    baselines = [{name: row.pop(name) for name in BASELINES} for row in rows]
    known = [{name: value for name, value in found.items() if value is not None} for found in baselines]
    return [TableLine(**row, baselines=found) for row, found in zip(rows, known, strict=True)]


def _cells(line: TableLine) -> dict[str, Any]:
    return {**{name: getattr(line, name) for name in (*_FIRST, *_LAST)}, **dict.fromkeys(BASELINES), **line.baselines}


def metrics_of(table: list[TableLine]) -> dict[str, float]:
    """As they are logged: `<part>/<what>/<metric>`, and `<part>/<what>/<baseline>/<metric>`."""
    found = {f"{line.what}/{line.metric}": line.ours for line in table}
    found |= {f"{line.what}/{of}/{line.metric}": value for line in table for of, value in line.baselines.items()}
    return {name: value for name, value in found.items() if value is not None}


def lines(table: list[TableLine]) -> Iterable[str]:
    """One sentence for each thing that was judged, with its first metric."""
    first: dict[str, TableLine] = {}
    for line in table:
        if line.ours is not None:
            first.setdefault(line.what, line)
    for line in first.values():
        beside = ", ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in line.baselines.items())
        better = f" ({beside})" if beside else ""
        yield f"{line.what} of {line.objects:,} objects: {line.metric} {_short(line.ours)}{better}"


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _finite(value: Any) -> Any:
    return value if not isinstance(value, float) or math.isfinite(value) else None
