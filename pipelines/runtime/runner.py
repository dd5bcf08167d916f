"""Run any stage of a pipeline: data stages by the engine, training stages by Ray Train."""

from typing import Any

from pipelines.runtime import progress
from pipelines.runtime.engine import DEFAULTS, Options, run_stage
from pipelines.runtime.pipeline import Pipeline
from pipelines.runtime.stage import Log, Stage, StageBase, StageReport
from pipelines.runtime.training.drive import run_training
from pipelines.runtime.training.stage import TrainingStage


def run(stage: StageBase[Any], config: Pipeline, options: Options = DEFAULTS, log: Log = progress.log) -> StageReport:
    """Bring a stage's output for this configuration up to date.

    Raises:
        UserError: what a person can mend; what was done until then is committed.
        Interrupted: after SIGTERM or SIGINT.
    """
    if isinstance(stage, TrainingStage):
        return run_training(stage, config, options, log)
    assert isinstance(stage, Stage)
    return run_stage(stage, config, options, log)
