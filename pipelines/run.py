"""`sar3d run`: the stages of a configuration, one after the other, and a table of what came of them."""

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from pipelines.registry import STAGES
from pipelines.runtime.engine import Options, is_finished
from pipelines.runtime.interrupt import Interrupted
from pipelines.runtime.mlflow_run import without_secrets
from pipelines.runtime.pipeline import Pipeline
from pipelines.runtime.progress import log
from pipelines.runtime.runner import run
from pipelines.runtime.stage import StageBase, StageReport
from pipelines.runtime.store import Store
from pipelines.runtime.tracking import place
from pipelines.runtime.tracking_store import follow_move, how_to_open
from sar3d.errors import UserError

PAGE = "report"
"""The last step where the configuration asks for it: the page to look at."""


def run_stages(
    config: Pipeline, names: Sequence[str], options: Options, *, listed: Sequence[str] = (), page: bool = False
) -> int:
    """Run stages in order; the first error ends the run. Returns the exit code.

    Args:
        listed: all stages that the table shows; those that are not in `names` are left out.
        page: write the page of the root when all stages are there. An error in it is one of the run.
    """
    place(config)  # a remote root without a tracking server is better said now than after an hour
    if not options.dry_run and (moved := follow_move(config.root)):
        log(moved)
    steps = [*names, *([PAGE] if page and not options.dry_run else [])]
    made: dict[str, StageReport] = {}
    try:
        for step in steps:
            try:
                made[step] = _page(config) if step == PAGE else _run(step, config, options)
            except BaseException as error:
                known = isinstance(error, UserError | Interrupted)
                why = str(error) if known else f"{type(error).__name__}, see the traceback"
                made[step] = _none(step, "stopped", why)
                raise
    finally:
        rows = [made.get(name) or _not_run(name, name in names, config) for name in listed or names]
        rows += [made[PAGE]] if PAGE in made else []
        if len(rows) > 1 or rows[0].state != "stopped":
            Console(file=sys.stdout, width=160 if not sys.stdout.isatty() else None).print(_table(rows))
    if not options.dry_run:
        _where(config, [made[name] for name in names])
    return 0


def choose(listed: Sequence[str], first: str | None, last: str | None, only: str | None) -> tuple[str, ...]:
    """The stages of a configuration that `--from`, `--to` and `--only` (names with commas between) leave, in its order.

    Raises:
        UserError: a name is no stage or is not listed, or nothing is left.
    """
    if only is not None:
        if first is not None or last is not None:
            raise UserError("--only names the stages that run: leave out --from and --to")
        wanted = [name.strip() for name in only.split(",") if name.strip()]
        if not wanted:
            raise UserError(f"--only names no stage: give one of {', '.join(listed)}, or several with commas between")
        for name in wanted:
            _check(name, "--only", listed)
        return tuple(name for name in listed if name in wanted)
    for edge, flag in ((first, "--from"), (last, "--to")):
        if edge is not None:
            _check(edge, flag, listed)
    start = 0 if first is None else listed.index(first)
    end = len(listed) if last is None else listed.index(last) + 1
    if start >= end:
        raise UserError(
            f"--from {first} comes after --to {last} in the configuration's stages ({', '.join(listed)}): swap them"
        )
    return tuple(listed[start:end])


def _check(name: str, flag: str, listed: Sequence[str]) -> None:
    if name not in STAGES:
        raise UserError(f"{flag} {name} is not a stage; there are: {', '.join(STAGES)}")
    if name not in listed:
        raise UserError(
            f"{flag} {name} is not among the configuration's stages ({', '.join(listed)}): add it to `stages`, "
            f"or run it alone with `sar3d {name}`"
        )


def add_options(sub: argparse.ArgumentParser) -> None:
    """The options that choose among the configuration's stages."""
    sub.add_argument("--from", dest="first", metavar="STAGE", help="begin with this one of the configuration's stages")
    sub.add_argument("--to", dest="last", metavar="STAGE", help="end with this one")
    sub.add_argument("--only", metavar="STAGE[,STAGE…]", help="run these alone, in the configuration's order")


def _run(name: str, config: Pipeline, options: Options) -> StageReport:
    stage = STAGES[name]
    if options.dry_run and (missing := _unfinished(stage, config)):
        return _none(name, "planned", f"would run after {missing}")
    return run(stage, config, options, log)


def _page(config: Pipeline) -> StageReport:
    from pipelines.report import report

    started = time.time()
    where = report(config.root, log, config=config)
    return StageReport(PAGE, "", "done", where, where, 0, 0, 0, time.time() - started)


def _unfinished(stage: StageBase[Any], config: Pipeline) -> str | None:
    return next((other.name for other in config.depends_on(stage) if is_finished(other, config) is None), None)


def _not_run(name: str, chosen: bool, config: Pipeline) -> StageReport:
    """A stage that was not reached, or not asked for."""
    if chosen:
        return _none(name, "not reached", "a stage before it stopped")
    output = is_finished(STAGES[name], config)
    if output is None:
        return _none(name, "left out", "not asked for; it has no finished output")
    return _none(name, "left out", "not asked for; finished before", output.fingerprint)


def _none(name: str, state: str, why: str, fingerprint: str = "") -> StageReport:
    return StageReport(name, fingerprint, state, why, "", 0, 0, 0, 0.0)


def _table(reports: list[StageReport]) -> Table:
    training = any(r.steps is not None for r in reports)
    titles = ["stage", "state", "fingerprint", "objects", "rows", "failed", *(["steps"] if training else [])]
    table = Table(*titles, "seconds", "why")
    for r in reports:
        steps = [] if not training else [""] if r.steps is None else [f"{r.steps:,}"]
        counts = [f"{r.objects:,}", f"{r.rows:,}", f"{r.failures:,}"] if r.fingerprint and r.url else [""] * 3
        seconds = f"{r.seconds:.1f}" if r.url else ""
        table.add_row(r.stage, r.state, r.fingerprint or "-", *counts, *steps, seconds, r.why)
    return table


def _pictures(store: Store) -> list[str]:
    """An output's contact sheet, or what a training drew last."""
    names = [name for name in store.names("artifacts") if name.endswith(".png")]
    drawn = max((name.split("/")[1] for name in names if "/step-" in name), default=None)
    wanted = "artifacts/contact_sheet.png" if drawn is None else f"artifacts/{drawn}/"
    return [store.address(name) for name in names if name.startswith(wanted)]


def _where(config: Pipeline, reports: list[StageReport]) -> None:
    """Say where everything is and how to look at it."""
    store = Store(config.root)
    for r in reports:
        content = "part-*.parquet" if r.steps is None else "model/, checkpoints/"
        log(f"{r.stage}: {r.url}/ (manifest.json, {content})")
        if r.failures:
            log(f"  {r.failures} failures, with reasons: {r.url}/failures.parquet")
        for picture in _pictures(store.at(r.stage, r.fingerprint)):
            log(f"  open it with any picture viewer: {picture}")
    where = place(config)
    if where is None:
        return
    if where.artifacts is None:
        log(f"MLflow: experiment {where.experiment!r} at {without_secrets(where.uri)}")
    else:
        log(f"MLflow: {how_to_open(where.uri)}   then open http://127.0.0.1:5000")


if __name__ == "__main__":
    from pipelines.cli import stage_main

    stage_main("run")
