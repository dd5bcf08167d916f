"""`sar3d weights`: which pretrained weights are on this machine, and fetching those that are not."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from sar3d.weights import FOLDER, REGISTRY, Listed, fetch, inventory


def add_command(commands: Any) -> None:
    """Add `weights` to the subparsers of the command line."""
    about = "list pretrained weights: what is here, what is missing, license, size; or fetch some"
    sub = commands.add_parser("weights", help=about, description=f"{about[0].upper()}{about[1:]}.")
    sub.add_argument("--json", action="store_true", help="print JSON")
    sub.set_defaults(call=_list)
    actions = sub.add_subparsers(metavar="ACTION")
    help_ = f"download weights into the usual cache, into ${FOLDER}, or into a folder to carry to an offline cluster"
    chosen = actions.add_parser("fetch", help=help_, description=f"{help_[0].upper()}{help_[1:]}.")
    chosen.add_argument("names", nargs="+", metavar="NAME", help=f"one or more of {', '.join(REGISTRY)}")
    chosen.add_argument("--to", metavar="DIR", type=Path, help=f"the folder; set {FOLDER} to it on the cluster")
    chosen.set_defaults(call=_fetch)


def _list(parsed: argparse.Namespace) -> int:
    found = inventory()
    if parsed.json:
        rows = [dataclasses.asdict(one) | {"path": str(one.path) if one.path else None} for one in found]
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
    else:
        sys.stdout.write(table(found))
    return 0


def table(found: list[Listed]) -> str:
    """For people: one line for each entry, columns aligned."""
    heads = ("name", "state", "MB", "license", "what", "where")
    rows = [(one.name, _state(one), f"{one.megabytes:,}", one.license, one.about, _where(one)) for one in found]
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads) - 1)]
    lines = [
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[-1]]) for row in (heads, *rows)
    ]
    return "\n".join(lines) + "\n"


def _state(one: Listed) -> str:
    if one.path is None:
        return "missing"
    return "damaged" if one.damaged else "here"


def _where(one: Listed) -> str:
    return str(one.path) if one.path else one.where


def _fetch(parsed: argparse.Namespace) -> int:
    from pipelines.runtime.progress import log

    for name in parsed.names:
        log(f"{name}: {fetch(name, parsed.to)}")
    return 0
