"""`sar3d compare`: measure what other systems wrote against a folder of true objects; or the stage `compare`."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from pipelines.commands import load_here, options_of, stage_command, work_options
from pipelines.compare import FILE, CompareStage
from pipelines.set_distances import SetDistancesStage
from sar3d.errors import UserError

SETTINGS = Path(__file__).with_suffix(".yaml")
"""The configuration of a comparison of folders."""


def add_command(commands: Any) -> None:
    """Add `compare` to the subparsers of the command line: folders, or the stage."""
    sub = commands.add_parser(
        "compare",
        help=CompareStage.about,
        description="Measure what systems wrote against the true objects, all by the same code: shapes, pictures, sets, with "
        "intervals. With --config alone: the stage, for a configuration's dataset.",
    )
    sub.add_argument(
        "--system",
        dest="systems",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="an importer (docs/compare.md) and the folder that the system wrote; `anything:importer=DIR` names a second one",
    )
    sub.add_argument(
        "--truth", metavar="DIR", help="the true objects: a folder of 3D files, with or without a manifest"
    )
    sub.add_argument("--out", metavar="DIR", help="where rows, tables and the page go; the same again resumes")
    sub.add_argument(
        "--align", choices=("declared", "yaw"), help="turn objects about the vertical axis to fit the truth"
    )
    sub.add_argument("--paper", action="store_true", help="print the paper's table beside ours")
    work_options(sub, required=False)
    sub.set_defaults(call=_call, stage=CompareStage.name)


def _call(parsed: argparse.Namespace) -> int:
    if not parsed.systems and not parsed.truth:
        if parsed.config is None:
            raise UserError(
                "what is to be compared? Give --system NAME=DIR, --truth DIR and --out DIR, or --config for the stage of a "
                "configuration"
            )
        return stage_command(parsed)
    if not (parsed.systems and parsed.truth and parsed.out):
        raise UserError("a comparison of folders needs --system NAME=DIR, --truth DIR and --out DIR, all three")
    return _compare(parsed)


def _compare(parsed: argparse.Namespace) -> int:
    from pipelines.commands.merge import merge_summaries
    from pipelines.run import run_stages

    folders = _folders(parsed.systems)
    words = [f"root={parsed.out}", f"download.directory.path={parsed.truth}"]
    words += [f"compare.systems={json.dumps(folders)}", *([f"compare.align={parsed.align}"] if parsed.align else [])]
    parsed.config = parsed.config or str(SETTINGS)
    parsed.overrides = [*words, *parsed.overrides]
    config = load_here(parsed)
    # Of what has not been made, the first stage alone can be foreseen.
    stages = ("download",) if parsed.dry_run else ("download", CompareStage.name, SetDistancesStage.name)
    code = run_stages(config, stages, options_of(parsed), page=config.report)
    if not parsed.dry_run:
        sys.stdout.write(merge_summaries(config, CompareStage.name, FILE).text(parsed.paper))
    return code


def _folders(words: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not (name and equals and folder):
            raise UserError(
                f"--system {word} is wrong: give an importer and a folder, as --system trellis=/data/trellis"
            )
        if name in found:
            raise UserError(
                f"--system {name} is given twice: call the second one by another name, as --system b:{name}=DIR"
            )
        found[name] = folder
    return found
