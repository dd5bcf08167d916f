"""What the commands that run stages share: their options, and how a configuration is loaded for them."""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from pipelines.config import layers, origins
from pipelines.runtime.cluster import in_job
from pipelines.runtime.engine import Options
from pipelines.runtime.pipeline import Pipeline
from sar3d.processors import available_cpus


def work_options(sub: argparse.ArgumentParser, required: bool = True) -> None:
    """The options of a command that runs stages; `required`: it cannot do without a configuration."""
    sub.add_argument("--config", required=required, metavar="FILE", help="a YAML file, see configs/")
    sub.add_argument(
        "overrides", nargs="*", metavar="key=value", help="override a setting, for example render.views=12"
    )
    sub.add_argument("--dry-run", action="store_true", help="say what would run, and why; change nothing")
    sub.add_argument("--show", action="store_true", help="print every setting with where it comes from, first")
    sub.add_argument("--wait", action="store_true", help="queue behind another submission of the same stage")


def options_of(parsed: Any) -> Options:
    """How the command was called."""
    return Options(dry_run=parsed.dry_run, wait=parsed.wait)


def stage_command(parsed: Any) -> int:
    """Run the stage `parsed.stage` of the configuration; returns the exit code."""
    from pipelines.run import run_stages

    return run_stages(load_here(parsed), (parsed.stage,), options_of(parsed))


def use_available_cpus() -> None:
    """As many threads as this process has processors, where OMP_NUM_THREADS does not say otherwise."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(available_cpus())


def load_here(parsed: Any) -> Pipeline:
    """The configuration of a command that runs stages."""
    from pipelines.registry import PipelineConfig, load

    config = load(parsed.config, parsed.overrides)
    if parsed.show:
        found = layers(Path(parsed.config), parsed.overrides, PipelineConfig)
        for key, value, origin in origins(config, found):
            sys.stdout.write(f"{key} = {json.dumps(value)}  ({origin})\n")
    if in_job():
        # Nodes that share a machine unpack a job's files over each other, and the working directory may vanish.
        # Every path in the configuration is absolute from here on.
        os.chdir(tempfile.gettempdir())
    return config
