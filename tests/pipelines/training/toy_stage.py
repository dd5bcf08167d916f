"""A training stage that takes seconds: the toy task, which can be slowed down, and made to fail."""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from toy_task import ToyDataset, ToyTask

from pipelines.runtime.cluster import ClusterConfig
from pipelines.runtime.pipeline import Pipeline, pipeline_of
from pipelines.runtime.stage import Context, Log
from pipelines.runtime.tracking import TrackingConfig
from pipelines.runtime.training.stage import TrainingStage, TrainInputs, TrainStageConfig
from sar3d.errors import UserError
from sar3d.training.settings import TrainSettings
from sar3d.training.task import Moment

_OFF = {"identity": False}


@dataclass(frozen=True)
class ToyTrainConfig(TrainStageConfig):
    samples: int = 24
    seconds: float = field(default=0.0, metadata=_OFF)
    """How long each step takes at least."""
    trace: str = field(default="", metadata=_OFF)
    """A folder in which each worker leaves a file when it begins a step."""
    fail: str = field(default="", metadata=_OFF)
    """`user`, `bug` or `crash`: what happens at step 3 on rank 1, or on the only one."""


@dataclass(frozen=True)
class StagedTask(ToyTask):
    seconds: float = 0.0
    trace: str = ""
    fail: str = ""

    def before_step(self, model: nn.Module, moment: Moment) -> dict[str, float]:
        time.sleep(self.seconds)
        if self.trace:
            name = f"{moment.step:04d}.{moment.sync.rank}.{os.getpid()}.{time.monotonic_ns()}"
            Path(self.trace, name).touch()
        if self.fail and moment.step == 3 and moment.sync.rank == min(1, moment.sync.world - 1):
            if self.fail == "user":
                raise UserError("the toy cannot be trained: choose another")
            if self.fail == "bug":
                raise KeyError("a name that is not there")
            os._exit(1)
        return super().before_step(model, moment)


class TrainToyStage(TrainingStage[ToyTrainConfig]):
    name = "train_toy"
    section = ToyTrainConfig
    writes = "toy"
    version = 1
    about = "train a toy"

    def build(self, context: Context[ToyTrainConfig], log: Log) -> TrainInputs:
        config = context.config
        task = StagedTask(seconds=config.seconds, trace=config.trace, fail=config.fail)
        return TrainInputs(task, ToyDataset(config.samples), ToyDataset(4))


_ToyTrainPipeline = pipeline_of([TrainToyStage()], "ToyTrainPipeline")


def toy_pipeline(root: str, section: ToyTrainConfig, **settings: Any) -> Pipeline:
    """A pipeline of the one stage, without tracking unless it is asked for."""
    usual = {"tracking": TrackingConfig(enabled=False), "cluster": ClusterConfig(cpus=4)}
    return _ToyTrainPipeline(root=root, train_toy=section, **{**usual, **settings})


def settings(**values: Any) -> TrainSettings:
    """Tiny ones."""
    return TrainSettings(**{"steps": 6, "batch": 4, "log_every": 1, "checkpoint_every": 2, **values})
