"""`sar3d evaluate`: the stage; by a protocol that measures sets of shapes, the stage over its rows and one table of both."""

import argparse
import sys
from typing import Any

from pipelines.commands import load_here, options_of, work_options
from pipelines.evaluate import EvaluateStage
from pipelines.set_distances import SetDistancesStage
from sar3d.errors import UserError

FILE = "evaluation.json"


def add_command(commands: Any) -> None:
    """Add `evaluate` to the subparsers of the command line."""
    about = EvaluateStage.about
    sub = commands.add_parser(EvaluateStage.name, help=about, description=f"{about[0].upper()}{about[1:]}.")
    sub.add_argument("--paper", action="store_true", help="print the paper's table beside ours")
    work_options(sub)
    sub.set_defaults(call=_call, stage=EvaluateStage.name)


def _call(parsed: argparse.Namespace) -> int:
    from pipelines.run import run_stages

    parsed.overrides = [*parsed.overrides, f"set_distances.measured={EvaluateStage.name}"]
    config = load_here(parsed)
    section = config.section(config.registry[EvaluateStage.name])
    if not section.measured:
        if parsed.paper:
            raise UserError(
                "the paper's table has numbers of sets: evaluate.protocol=published measures such, quick does not"
            )
        return run_stages(config, (EvaluateStage.name,), options_of(parsed))
    if parsed.dry_run:
        return run_stages(config, (EvaluateStage.name,), options_of(parsed))
    from pipelines.commands.merge import merge_summaries

    code = run_stages(config, (EvaluateStage.name, SetDistancesStage.name), options_of(parsed))
    sys.stdout.write(merge_summaries(config, EvaluateStage.name, FILE).text(parsed.paper))
    return code
