"""Lines of a table: one metric of one system over objects, with its interval; as JSON, CSV, MLflow metrics and in words."""

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from pipelines.runtime.output import Output

TRUTH, FLOOR = "truth", "noise_floor"
"""Systems that are none: what all others are compared with, and a second sample of it."""


@dataclass(frozen=True)
class Line:
    """One metric of one system."""

    shift: str
    """The part of the objects; empty for all."""
    system: str
    metric: str
    value: float | None
    """None where it could not be measured."""
    low: float | None = None
    high: float | None = None
    """Bounds of the 95 % interval over objects; None where there is none."""
    method: str = ""
    """How the interval was made."""
    better: str = ""
    """`higher`, `lower`, or `half` where 0.5 is best."""
    objects: int = 0
    about: str = ""
    """What else the number depends on."""
    note: str = ""
    """Why there is no value."""


@dataclass(frozen=True)
class Pair:
    """Whether one system is better than another by a metric, over the objects that both have."""

    shift: str
    metric: str
    first: str
    second: str
    difference: float
    """Of the means, the first's less the second's."""
    low: float
    high: float
    share: float
    """Of the resamples of objects in which the first one's mean is higher; a tie counts half."""
    objects: int


@dataclass(frozen=True)
class Summary:
    """All that is said of an output."""

    lines: list[Line]
    pairs: list[Pair]
    identity: dict[str, Any]
    """What the numbers depend on."""


FIRST = (
    "fid",
    "kid",
    "frechet",
    "kernel",
    "musiq",
    "cov",
    "mmd",
    "one_nna",
    "latency",
    "psnr",
    "ssim",
    "lpips",
    "substitute",
    "dinov2",
    "efficientnet",
    "minilm",
    "clip",
    "chamfer",
    "sampled",
    "fscore",
    "normal",
    "signed",
    "volume",
)
"""Beginnings of metrics in the order of a table."""


def rank(metric: str) -> int:
    """Place of a metric in a table."""
    return next((i for i, beginning in enumerate(FIRST) if metric.startswith(beginning)), len(FIRST))


def to_json(summary: Summary) -> bytes:
    """For programs (pandas: `orient="split"`): every digit; null for what is no finite number."""
    names = [f.name for f in fields(Line)]
    body = {
        "columns": names,
        "data": [[_finite(getattr(line, name)) for name in names] for line in summary.lines],
        "pair_columns": [f.name for f in fields(Pair)],
        "pairs": [[_finite(value) for value in asdict(pair).values()] for pair in summary.pairs],
        "identity": summary.identity,
    }
    return json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False).encode()


def from_json(data: bytes) -> Summary:
    """The inverse of `to_json`."""
    body = json.loads(data)
    lines = [Line(**dict(zip(body["columns"], row, strict=True))) for row in body["data"]]
    pairs = [Pair(**dict(zip(body["pair_columns"], row, strict=True))) for row in body["pairs"]]
    return Summary(lines, pairs, body["identity"])


def read_summary(output: Output, file: str) -> Summary:
    """The summary that an output keeps. Raises `FileNotFoundError` where it has none."""
    data = output.store.read(f"artifacts/{file}")
    if data is None:
        raise FileNotFoundError(f"{output.url} has no {file}: the stage has not finished")
    return from_json(data)


def to_csv(lines: Sequence[Line]) -> bytes:
    """For people: a line for each metric, a column for each system, `value [low, high]` in four digits."""
    systems = list(dict.fromkeys(line.system for line in lines))
    cells: dict[tuple[str, str], dict[str, Line]] = {}
    for line in lines:
        cells.setdefault((line.shift, line.metric), {})[line.system] = line
    shifts = list(dict.fromkeys(shift for shift, _ in cells))
    order = sorted(cells, key=lambda key: (shifts.index(key[0]), rank(key[1])))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    parted = len(shifts) > 1
    writer.writerow([*(["shift"] if parted else []), "metric", "better", *systems, "objects", "note"])
    for shift, metric in order:
        of = cells[shift, metric]
        better = next((line.better for line in of.values() if line.better), "")
        counts = sorted({line.objects for line in of.values() if line.value is not None})
        objects = "–".join(dict.fromkeys(map(str, (counts[0], counts[-1])))) if counts else ""
        notes = "; ".join(dict.fromkeys(line.note for line in of.values() if line.note))
        row = [cell(of[system]) if system in of else "" for system in systems]
        writer.writerow([*([shift or "all"] if parted else []), metric, better, *row, objects, notes])
    return text.getvalue().encode()


def cell(line: Line) -> str:
    """A value with its interval."""
    if line.value is None:
        return ""
    interval = "" if line.low is None or line.high is None else f" [{line.low:.4g}, {line.high:.4g}]"
    return f"{line.value:.4g}{interval}"


def metrics_of(lines: Iterable[Line]) -> dict[str, float]:
    """As they are logged: `<system>/<metric>`, of all objects, the table's first metrics with `/low` and `/high`."""
    found: dict[str, float] = {}
    for line in lines:
        if line.value is None or line.shift or not math.isfinite(line.value):
            continue
        name = f"{line.system}/{line.metric}"
        found[name] = line.value
        if line.low is not None and line.high is not None and headline(line.metric):
            found |= {f"{name}/low": line.low, f"{name}/high": line.high}
    return found


def headline(metric: str) -> bool:
    """Whether a metric stands in the first plot: of shape, the plain ones in the unit box."""
    shape = ("chamfer_l1_unit_box", "fscore_0.02_unit_box", "normal_consistency_unit_box", "volume_iou_unit_box")
    return metric in shape or rank(metric) < rank("chamfer")


def sentences(lines: Sequence[Line]) -> Iterable[str]:
    """One sentence for each system, with the first metrics that it has."""
    for system in dict.fromkeys(line.system for line in lines):
        own = [line for line in lines if line.system == system and line.value is not None and not line.shift]
        own.sort(key=lambda line: rank(line.metric))
        if own and system != TRUTH:
            yield f"{system}: " + ", ".join(f"{line.metric} {cell(line)}" for line in own[:3])


def _finite(value: Any) -> Any:
    return value if not isinstance(value, float) or math.isfinite(value) else None
