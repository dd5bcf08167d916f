"""`sar3d status`: what there is under a root."""

import json
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from pipelines.registry import STAGES
from pipelines.runtime.lease import is_held
from pipelines.runtime.output import Output, outputs
from pipelines.runtime.store import Store
from pipelines.runtime.training.drive import trained_steps
from pipelines.runtime.training.stage import TrainingStage

StatusRow = dict[str, Any]


def status(root: str) -> list[StatusRow]:
    """One row per output folder, in the order of the stages, the current ones of each stage last."""
    rows = []
    for name in STAGES:
        pointed = _pointed(root, name)
        found = [_row(output, output.fingerprint in pointed) for output in outputs(root, name)]
        rows += sorted(found, key=lambda r: (r["current"], r["finished"] or 0))
    return rows


def _pointed(root: str, stage: str) -> set[str]:
    store = Store(root).at(stage)
    found = [store.read(n) for n in store.names("_current") if n.endswith(".json") and "/." not in n]
    return {json.loads(data)["fingerprint"] for data in found if data}


def _row(output: Output, is_current: bool) -> StatusRow:
    success, manifest = output.finished(), output.manifest() or {}
    stopped = output.state.read("stopped.json")
    # A finished training may be going on: its steps have been raised.
    training = isinstance(STAGES[output.stage], TrainingStage)
    held = (success is None or training) and is_held(output.state)
    state = "running" if held else "done" if success else "stopped" if stopped else "interrupted"
    row: StatusRow = {
        "stage": output.stage,
        "fingerprint": output.fingerprint,
        "state": state,
        "current": is_current,
        "rows": manifest.get("rows", 0),
        "objects": manifest.get("objects", 0),
        "failures": manifest.get("failures", 0),
        "shards": len(output.record_names()),
        "steps": trained_steps(output) if training else None,
        "started": success["started"] if success else None,
        "finished": success["finished"] if success else None,
        "seconds": success["seconds"] if success else None,
        "reason": json.loads(stopped)["reason"] if stopped and not success else None,
        "url": output.url,
        "run_id": output.run_id(),
    }
    if success is None and not training:
        records = output.records().values()
        row["rows"] = sum(r.rows for r in records)
        row["objects"] = sum(r.items for r in records)
        row["failures"] = sum(len(r.failures) for r in records)
    return row


def table(rows: list[StatusRow]) -> str:
    if not rows:
        return "nothing here yet"
    titles = ["stage", "fingerprint", "state", "current", "objects", "rows", "failed", "finished", "seconds"]
    training = any(r["steps"] is not None for r in rows)
    made = Table(*titles, *(["steps"] if training else []))
    for r in rows:
        finished = datetime.fromtimestamp(r["finished"]).strftime("%Y-%m-%d %H:%M:%S") if r["finished"] else "-"
        counts = (f"{r['objects']:,}", f"{r['rows']:,}", f"{r['failures']:,}")
        seconds = f"{r['seconds']:.1f}" if r["seconds"] is not None else "-"
        steps = [f"{r['steps']:,}" if r["steps"] is not None else ""] if training else []
        mark = "yes" if r["current"] else ""
        made.add_row(r["stage"], r["fingerprint"], r["state"], mark, *counts, finished, seconds, *steps)
    console = Console(width=140)
    with console.capture() as capture:
        console.print(made)
        for r in rows:
            if r["reason"]:
                console.print(f"{r['stage']} {r['fingerprint']}: {r['reason']}", markup=False)
    return capture.get().rstrip()
