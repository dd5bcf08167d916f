"""One table of what two stages say: numbers of objects and of pictures, and those of sets of shapes."""

import io
from dataclasses import dataclass

from rich.console import Console
from rich.table import Column, Table

from pipelines.measuring.lines import FLOOR, TRUTH, Line, Summary, cell, headline, rank, read_summary, to_csv, to_json
from pipelines.measuring.published import published_table
from pipelines.runtime.engine import finished
from pipelines.runtime.pipeline import Pipeline
from pipelines.runtime.store import Store
from pipelines.set_distances import FILE as SETS
from pipelines.set_distances import SetDistancesStage

_FIRST, _EACH = 60, 34
"""Characters of the columns for metrics, and of that for one system: numbers are read line by line, not folded."""


@dataclass(frozen=True)
class Merged:
    """A summary, and where it was written."""

    summary: Summary
    where: str

    def text(self, paper: bool) -> str:
        """The first metrics of all objects, for a terminal; `paper`: the published table below them."""
        written = f"all numbers: {self.where}\n"
        beside = "\n" + published_table(self.summary.lines) if paper else ""
        return as_text(self.summary.lines) + beside + written


def merge_summaries(config: Pipeline, measured: str, file: str) -> Merged:
    """Write the lines of a stage that measured systems, with those of `set_distances` over it, to `file` under the root, and
    a CSV beside it."""
    name = SetDistancesStage.name
    objects = finished(config.registry[measured], config, name)
    sets = finished(config.registry[name], config, name)
    ours, theirs = read_summary(objects, file), read_summary(sets, SETS)
    lines = sorted([*ours.lines, *theirs.lines], key=lambda line: line.shift)
    summary = Summary(lines, ours.pairs, {measured: ours.identity, name: theirs.identity})
    store = Store(config.root)
    store.put(file, to_json(summary))
    store.put(file.replace(".json", ".csv"), to_csv(lines))
    return Merged(summary, store.address(file))


def as_text(lines: list[Line]) -> str:
    """A line for each of the first metrics, a column for each system."""
    shown = [line for line in lines if not line.shift and line.value is not None and headline(line.metric)]
    systems = [s for s in dict.fromkeys(line.system for line in shown) if s != TRUTH]
    table = Table(
        Column("metric", no_wrap=True), "better", *(s.replace("_", " ") if s == FLOOR else s for s in systems)
    )
    for metric in sorted({line.metric for line in shown}, key=lambda name: (rank(name), name)):
        of = {line.system: line for line in shown if line.metric == metric}
        better = next(iter(of.values())).better
        table.add_row(metric, better, *(cell(of[s]) if s in of else "–" for s in systems))
    text = io.StringIO()
    Console(file=text, width=_FIRST + _EACH * len(systems)).print(table)
    return text.getvalue()
