"""The command line: `sar3d <stage>`, `sar3d run`, and what looks at a root or at single models and objects.

A module with a command of its own adds it (`add_command`); what commands that run stages share is in `pipelines.commands`.
"""

import argparse
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.commands import load_here, options_of, stage_command, work_options
from pipelines.runtime import progress
from pipelines.runtime.interrupt import Interrupted
from sar3d.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 only if all that was asked for is there."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        parsed = _parser().parse_args(arguments)
        code: int = parsed.call(parsed)
    except UserError as error:
        progress.log(f"error: {error}")
        return 2
    except Interrupted as error:
        progress.log(str(error))
        return error.code
    return code


def stage_main(name: str) -> None:
    """`python -m pipelines.<stage>`: the same program as `sar3d <stage>`."""
    sys.exit(main([name, *sys.argv[1:]]))


def entry() -> None:
    sys.exit(main())


OWN = ("generate", "caption", "compare", "evaluate")
"""Stages whose command does more than run the stage."""


def _parser() -> argparse.ArgumentParser:
    from pipelines import convert, report, run, verify, weights
    from pipelines.commands import caption, compare, evaluate, generate, publish, serve
    from pipelines.registry import STAGES

    parser = argparse.ArgumentParser(
        prog="sar3d",
        description="From 3D objects to rendered views to models, stage by stage, on one machine or a Ray cluster.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for stage in STAGES.values():
        if stage.name not in OWN:
            sub = _command(commands, stage.name, stage.about, stage_command)
            work_options(sub)
            sub.set_defaults(stage=stage.name)
    for own in (generate, caption, evaluate, compare, serve, publish):
        own.add_command(commands)
    whole = _command(commands, "run", "run the configuration's stages, in order", _run)
    work_options(whole)
    run.add_options(whole)
    for program in (report, verify, convert, weights):
        program.add_command(commands)
    _add_looks(commands)
    return parser


def _add_looks(commands: Any) -> None:
    """The commands that look at what roots hold."""
    status = _command(
        commands, "status", "what there is under a root: stages, states, counts, failures, times", _status
    )
    status.add_argument("--config", metavar="FILE", help="the root is this configuration's")
    status.add_argument(
        "words", nargs="*", metavar="ROOT | key=value", help="a root (default: all in runs/), or overrides"
    )
    status.add_argument("--json", action="store_true", help="print JSON")
    clean = _command(
        commands, "gc", "list, then delete, what no current output of the given configurations refers to", _gc
    )
    clean.add_argument("--config", action="append", required=True, metavar="FILE", help="may be given several times")
    clean.add_argument("--delete", action="store_true", help="delete what is listed")
    clean.add_argument("overrides", nargs="*", metavar="key=value", help="override a setting")


def _command(commands: Any, name: str, about: str, call: Callable[[Any], int]) -> argparse.ArgumentParser:
    sub: argparse.ArgumentParser = commands.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")
    sub.set_defaults(call=call)
    return sub


def _run(parsed: Any) -> int:
    from pipelines.run import choose, run_stages

    config = load_here(parsed)
    names = choose(config.stages, parsed.first, parsed.last, parsed.only)
    return run_stages(config, names, options_of(parsed), listed=config.stages, page=config.report)


def _status(parsed: Any) -> int:
    from pipelines.runtime.tracking_store import follow_move
    from pipelines.status import status, table

    roots = _roots(parsed)
    for root in roots:
        if moved := follow_move(root):
            progress.log(moved)
    rows = [row for root in roots for row in status(root)]
    sys.stdout.write((json.dumps(rows, indent=1) if parsed.json else table(rows)) + "\n")
    return 0


def _roots(parsed: Any) -> list[str]:
    from pipelines.config import absolute
    from pipelines.registry import load

    overrides = [w for w in parsed.words if "=" in w]
    named = [w for w in parsed.words if "=" not in w] + [w[5:] for w in overrides if w.startswith("root=")]
    if parsed.config:
        return [load(parsed.config, overrides).root]
    if named:
        return [absolute(w, "root") for w in named]
    runs = Path("runs")
    return [str(p.resolve()) for p in sorted(runs.iterdir()) if p.is_dir()] if runs.is_dir() else []


def _gc(parsed: Any) -> int:
    from pipelines.gc import collect
    from pipelines.registry import load

    return collect([load(file, parsed.overrides) for file in parsed.config], delete=parsed.delete)


if __name__ == "__main__":
    entry()
