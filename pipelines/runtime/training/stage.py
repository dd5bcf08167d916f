"""What a training stage is: settings, and a task with its data. Everything else is the same for every model."""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pipelines.runtime.inputs import model
from pipelines.runtime.output import Output
from pipelines.runtime.stage import Context, Log, StageBase
from sar3d.errors import UserError
from sar3d.training.settings import TrainSettings, local_batch

if TYPE_CHECKING:
    from sar3d.training.task import Dataset, Task

_HARDWARE = {"identity": False}


@dataclass(frozen=True)
class TrainStageConfig:
    """Settings that every training stage has."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    train: TrainSettings = field(default_factory=TrainSettings)
    """How it is trained."""
    init_from: str = model("", of="")
    """A finished model of the same kind to start from: a folder, a URL, or a stage that trains one; empty: at random."""
    workers: int = field(default=1, metadata=_HARDWARE)
    """Processes that share each batch: one GPU each, or some CPUs."""
    cpus: float = field(default=1.0, metadata=_HARDWARE)
    """CPUs of each worker."""
    gpus: float = field(default=0.0, metadata=_HARDWARE)
    """GPUs of each worker: 1, or 0 to train on CPUs; a fraction only for a single worker."""
    memory: int | None = field(default=None, metadata=_HARDWARE)
    """Bytes of memory that each worker reserves."""
    max_failures: int = field(default=8, metadata=_HARDWARE)
    """Restarts after lost workers before the stage gives up."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UserError(f"workers={self.workers} cannot train: it is the number of processes, at least 1")
        if self.gpus not in (0.0, 1.0) and not (0 < self.gpus < 1 and self.workers == 1):
            raise UserError(
                f"gpus={self.gpus:g} is wrong for training on {self.workers} workers: each worker has one GPU or none "
                "(a fraction of one only where there is a single worker); raise workers to use more"
            )
        local_batch(self.train, self.workers)


C = TypeVar("C", bound=TrainStageConfig)


@dataclass(frozen=True)
class TrainInputs:
    """What is to be trained, on what."""

    task: "Task"
    train: "Dataset"
    """Samples to train on, picklable."""
    held_out: Any = None
    """What the task evaluates and draws, picklable."""


class TrainingStage(StageBase[C]):
    """One kind of training stage. `build` runs on the driver; the task and the data go to the workers.

    The fingerprint leaves out the number of steps: a larger one continues the training in the same output.
    """

    @abstractmethod
    def build(self, context: Context[C], log: Log) -> TrainInputs:
        """The task and its data for these settings and inputs."""

    def finished(self, output: Output, section: C) -> bool:
        """Whether the output's model has been trained for at least the configured steps."""
        success = output.finished()
        return success is not None and int(success["steps"]) >= section.train.steps
