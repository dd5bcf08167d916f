"""A training stage that takes seconds: the toy task, which can be slowed down, and made to fail."""

import hashlib
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from toy_task import ToyDataset, ToyTask

from pipelines.runtime.cluster import ClusterConfig
from pipelines.runtime.stage import Context, Say
from pipelines.runtime.tracking import TrackingConfig
from pipelines.runtime.training.stage import Material, TrainingStage, TrainStageConfig
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


@dataclass(frozen=True)
class ToyTrainPipeline:
    root: str
    train_toy: ToyTrainConfig = field(default_factory=ToyTrainConfig)
    tracking: TrackingConfig = field(default_factory=lambda: TrackingConfig(enabled=False))
    cluster: ClusterConfig = field(default_factory=lambda: ClusterConfig(cpus=4))


class TrainToyStage(TrainingStage[ToyTrainConfig]):
    name = "train_toy"
    version = 1
    about = "train a toy"

    def build(self, context: Context[ToyTrainConfig], say: Say) -> Material:
        config = context.config
        task = StagedTask(seconds=config.seconds, trace=config.trace, fail=config.fail)
        return Material(task, ToyDataset(config.samples), ToyDataset(4))

    def digest(self, folder: Path) -> str:
        return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def settings(**values: Any) -> TrainSettings:
    """Tiny ones."""
    return TrainSettings(**{"steps": 6, "batch": 4, "log_every": 1, "checkpoint_every": 2, **values})
