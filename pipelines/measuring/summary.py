"""From rows of objects and systems to lines with intervals."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from pipelines.measuring.lines import FLOOR, TRUTH, Line, Pair, headline
from pipelines.runtime.output import Output
from pipelines.runtime.reading import read_rows
from sar3d.metrics.numbers import Number, better_of, mean_difference, mean_numbers, picture_numbers
from sar3d.metrics.rows import features_of, set_names_of

COLUMNS = [
    "uid",
    "system",
    "shift",
    "protocol",
    "numbers",
    "absent",
    "seconds",
    "device",
    "distances",
    "features",
    "fast_features",
    "views",
]
"""What lines are made of."""

Rows = Mapping[str, Mapping[str, dict[str, Any]]]
"""By system, then by object."""


def by_system(output: Output, order: Iterable[str] = ()) -> dict[str, dict[str, dict[str, Any]]]:
    """The rows of a finished output, maps as dictionaries; systems in `order`, then as they first stand."""
    found: dict[str, dict[str, dict[str, Any]]] = {system: {} for system in order}
    for row in read_rows(output, COLUMNS, batch=64):
        row |= {name: dict(row[name] or ()) for name in ("numbers", "absent", "seconds")}
        found.setdefault(row["system"], {})[row["uid"]] = row
    return {system: objects for system, objects in found.items() if objects}


def parts(rows: Rows) -> dict[str, Rows]:
    """All rows under the empty name, and those of each shift under its own, where rows have any."""
    shifts = sorted({row["shift"] for objects in rows.values() for row in objects.values() if row["shift"]})

    def only(shift: str) -> Rows:
        return {s: {u: r for u, r in objects.items() if r["shift"] == shift} for s, objects in rows.items()}

    return {"": rows, **{shift: only(shift) for shift in shifts}}


def lines_of(rows: Rows, seed: int = 0) -> list[Line]:
    """All lines of all systems and shifts."""
    return [
        line
        for shift, part in parts(rows).items()
        for system, objects in part.items()
        if objects
        for line in _system_lines(shift, system, objects, part.get(TRUTH, {}), seed)
    ]


def _system_lines(
    shift: str, system: str, objects: Mapping[str, dict[str, Any]], truth: Mapping[str, dict[str, Any]], seed: int
) -> Iterable[Line]:
    members = list(objects.values())
    metrics = list(dict.fromkeys(name for row in members for name in row["numbers"]))
    values = {name: [row["numbers"].get(name, math.nan) for row in members] for name in metrics}
    if system not in (TRUTH, FLOOR):
        yield from _set_lines(shift, system, objects, truth, seed)
    yield from (line_of(number, shift, system) for number in mean_numbers(values, seed))
    yield from _latencies(shift, system, members)
    missing: dict[str, str] = {}
    for row in members:
        missing |= {name: reason for name, reason in row["absent"].items() if name not in values}
    yield from (
        Line(shift, system, name, None, better=better_of(name), note=reason) for name, reason in missing.items()
    )


def _set_lines(
    shift: str, system: str, objects: Mapping[str, dict[str, Any]], truth: Mapping[str, dict[str, Any]], seed: int
) -> Iterable[Line]:
    """Fréchet and kernel distances of the pictures of the objects that both sides have."""
    both = [uid for uid in objects if uid in truth and objects[uid]["views"] and truth[uid]["views"]]
    if not both:
        return
    made, true = ([features_of(side[uid]) for uid in both] for side in (objects, truth))
    numbers = picture_numbers(set_names_of(objects[both[0]]), made, true, seed)
    yield from (line_of(number, shift, system) for number in numbers)


def line_of(number: Number, shift: str, system: str) -> Line:
    """A number as a line."""
    interval = number.interval
    return Line(
        shift,
        system,
        number.metric,
        number.value,
        interval.low if interval else None,
        interval.high if interval else None,
        f"{interval.method}, {interval.resamples} resamples" if interval else "",
        number.better,
        number.objects,
        number.about,
    )


def _latencies(shift: str, system: str, members: Sequence[dict[str, Any]]) -> Iterable[Line]:
    """Median and 95th percentile of each part of the time that an object takes, and of the whole."""
    timed = [row["seconds"] for row in members if row["seconds"]]
    if not timed:
        return
    devices = ", ".join(sorted({row["device"] for row in members if row["device"]}))
    named: dict[str, list[float]] = {}
    for seconds in timed:
        for part, value in {**seconds, "total": sum(seconds.values())}.items():
            named.setdefault(part, []).append(value)
    about = f"seconds, warm, one object at a time, on {devices}"
    for part, values in named.items():
        for name, share in ((f"latency_{part}", 0.5), (f"latency_{part}_p95", 0.95)):
            yield Line(
                shift, system, name, float(np.quantile(values, share)), None, None, "", "lower", len(values), about
            )


def pairs_of(rows: Rows, seed: int = 0) -> list[Pair]:
    """Of every two systems and each of the table's first metrics that are means over objects."""
    return [
        pair
        for shift, part in parts(rows).items()
        for first, second in combinations([s for s in part if s not in (TRUTH, FLOOR)], 2)
        for pair in _paired(shift, first, second, part, seed)
    ]


def _paired(shift: str, first: str, second: str, part: Rows, seed: int) -> Iterable[Pair]:
    both = [uid for uid in part[first] if uid in part[second]]
    numbers = [[part[system][uid]["numbers"] for uid in both] for system in (first, second)]
    metrics = dict.fromkeys(name for of in numbers[0] for name in of if headline(name))
    for metric in metrics:
        known = [(a[metric], b[metric]) for a, b in zip(*numbers, strict=True) if metric in a and metric in b]
        if len(known) < 2:
            continue
        one, other = zip(*known, strict=True)
        found = mean_difference(one, other, seed)
        interval = found.interval
        yield Pair(shift, metric, first, second, interval.value, interval.low, interval.high, found.share, len(known))
