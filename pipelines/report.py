"""`sar3d report`: one self-contained HTML file about a root, to look at in any browser."""

import argparse
from pathlib import Path
from typing import Any

from pipelines.runtime.stage import Log
from pipelines.runtime.store import Store
from pipelines.runtime.tracking_store import follow_move
from sar3d.errors import UserError

NAME = "report.html"


def report(root: str, log: Log, *, config: Any = None, out: str | None = None, objects: int | None = None) -> str:
    """Write the page of a root; returns where it is.

    Args:
        root: a local folder or a URL.
        config: a `PipelineConfig`: then the page shows its outputs, else the newest ones.
        out: a local file; by default `report.html` under the root.
        objects: generated objects to embed; by default 24.

    Raises:
        UserError: there is nothing under the root, or the file cannot be written.
    """
    from pipelines.reporting.collect import collect
    from pipelines.reporting.content import PageLimits
    from pipelines.reporting.page import render

    if moved := follow_move(root):
        log(moved)
    limits = PageLimits() if objects is None else PageLimits(objects=objects)
    collected = collect(root, config, limits)
    data = render(collected).encode()
    store, name = (Store(root), NAME) if out is None else (Store(str(Path(out).absolute().parent)), Path(out).name)
    store.put(name, data)
    for note in collected.notes:
        log(f"report: {note}")
    where = store.address(name)
    log(f"report: open it in a browser: {where} ({len(data) / 1e6:.1f} MB)")
    return where


def add_command(commands: Any) -> None:
    """Add `report` to the subparsers of the command line."""
    about = "write one HTML file about a root: stages, failures, views, training, generated objects, captions"
    sub = commands.add_parser("report", help=about, description=f"{about[0].upper()}{about[1:]}.")
    sub.add_argument("--config", metavar="FILE", help="show this configuration's outputs; the root is its root")
    sub.add_argument("--out", metavar="FILE", help=f"the file to write (default: {NAME} under the root)")
    sub.add_argument("--objects", type=int, metavar="N", help="generated objects to embed (default 24)")
    sub.add_argument("words", nargs="*", metavar="ROOT | key=value", help="a root, or overrides of the configuration")
    sub.set_defaults(call=_call)


def _call(parsed: argparse.Namespace) -> int:
    from pipelines.config import absolute
    from pipelines.registry import load
    from pipelines.runtime.progress import log

    if parsed.objects is not None and parsed.objects < 0:
        raise UserError(f"--objects {parsed.objects} is wrong: it is a number of objects from 0 on")
    overrides = [word for word in parsed.words if "=" in word]
    roots = [word for word in parsed.words if "=" not in word]
    if parsed.config and not roots:
        config = load(parsed.config, overrides)
        report(config.root, log, config=config, out=parsed.out, objects=parsed.objects)
        return 0
    if parsed.config or overrides or len(roots) != 1:
        raise UserError("sar3d report takes one root, or --config with overrides: for example `sar3d report runs/demo`")
    report(absolute(roots[0], "root"), log, out=parsed.out, objects=parsed.objects)
    return 0
