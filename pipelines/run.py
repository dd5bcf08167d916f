"""`sar3d run`: the stages of a configuration, one after the other, and a table of what came of them."""

import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipelines.registry import STAGES
from pipelines.runtime.engine import Options, current, upstream_of
from pipelines.runtime.progress import say
from pipelines.runtime.stage import StageReport
from pipelines.runtime.store import Store
from pipelines.runtime.tracking import place


def run_stages(config: Any, names: tuple[str, ...], options: Options) -> int:
    """Run stages in order; the first error ends the run. Returns the exit code."""
    place(config)  # a remote root without a tracking server is better said now than after an hour
    reports: list[StageReport] = []
    try:
        for name in names:
            stage = STAGES[name]
            if options.dry_run and (missing := _unfinished(stage, config)):
                report = StageReport(name, "-", "planned", f"would run after {missing}", "-", 0, 0, 0, 0.0)
            else:
                report = stage.run(config, options, say)
            reports.append(report)
    finally:
        if reports:
            Console(file=sys.stdout, width=160 if not sys.stdout.isatty() else None).print(_table(reports))
    if not options.dry_run:
        _where(config, reports)
    return 0


def _unfinished(stage: Any, config: Any) -> str | None:
    for upstream in upstream_of(stage, config):
        output = current(upstream, config)
        if output is None or not upstream.finished(output, getattr(config, upstream.name)):
            return upstream.name
    return None


def _table(reports: list[StageReport]) -> Table:
    training = any(r.steps is not None for r in reports)
    titles = ["stage", "state", "fingerprint", "objects", "rows", "failed", *(["steps"] if training else [])]
    table = Table(*titles, "seconds", "why")
    for r in reports:
        steps = [] if not training else [""] if r.steps is None else [f"{r.steps:,}"]
        counts = (f"{r.objects:,}", f"{r.rows:,}", f"{r.failures:,}", *steps, f"{r.seconds:.1f}")
        table.add_row(r.stage, r.state, r.fingerprint, *counts, r.why)
    return table


def _pictures(store: Store) -> list[str]:
    """An output's contact sheet, or what a training drew last."""
    names = [name for name in store.names("artifacts") if name.endswith(".png")]
    drawn = max((name.split("/")[1] for name in names if "/step-" in name), default=None)
    wanted = "artifacts/contact_sheet.png" if drawn is None else f"artifacts/{drawn}/"
    return [store.address(name) for name in names if name.startswith(wanted)]


def _where(config: Any, reports: list[StageReport]) -> None:
    """Say where everything is and how to look at it."""
    store = Store(config.root)
    for r in reports:
        content = "part-*.parquet" if r.steps is None else "model/, checkpoints/"
        say(f"{r.stage}: {r.url}/ (manifest.json, {content})")
        if r.failures:
            say(f"  {r.failures} failures, with reasons: {r.url}/failures.parquet")
        for picture in _pictures(store.at(r.stage, r.fingerprint)):
            say(f"  open it with any picture viewer: {picture}")
    where = place(config)
    if where is None:
        return
    if where.artifacts is None:
        say(f"MLflow: experiment {where.experiment!r} at {where.uri}")
    else:
        mlflow = Path(sys.executable).with_name("mlflow")
        say(f"MLflow: {mlflow} ui --backend-store-uri {where.uri}   then open http://127.0.0.1:5000")


if __name__ == "__main__":
    from pipelines.cli import stage_main

    stage_main("run")
