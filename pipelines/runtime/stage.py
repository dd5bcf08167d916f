"""What a stage is, and what a data stage is: a listing of items, and a function from items to rows."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, TypeVar

import pyarrow as pa

from pipelines.runtime.fingerprint import identity
from pipelines.runtime.inputs import shared_folders
from pipelines.runtime.mlflow_evaluation import Assessment
from pipelines.runtime.models import Exported
from pipelines.runtime.output import Failure, Output
from pipelines.runtime.plan import Item

Row = dict[str, Any]
Log = Callable[[str], None]


@dataclass(frozen=True)
class StageConfig:
    """Settings that every data stage has. None but `retry` changes what is computed."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    workers: int | None = field(default=None, metadata={"identity": False})
    """Tasks at once; by default as many as the cluster's CPUs allow."""
    cpus: float = field(default=1.0, metadata={"identity": False})
    """CPUs that one task reserves."""
    gpus: float = field(default=0.0, metadata={"identity": False})
    """GPUs, or a fraction of one, that one task reserves."""
    memory: int | None = field(default=None, metadata={"identity": False})
    """Bytes of memory that one task reserves."""
    shard_objects: int = field(default=64, metadata={"identity": False})
    """Objects in one shard: the unit of work, of commit and of repetition after a crash."""
    retry: int = 0
    """Raise it by one to try the objects again that failed; everything else is referred to, not recomputed."""


C = TypeVar("C")
D = TypeVar("D", bound=StageConfig)


@dataclass(frozen=True)
class Context(Generic[C]):
    """What a stage's methods get to know: its own settings, and its declared inputs. All of it is in its identity."""

    config: C
    """The stage's own section, `auto` values resolved."""
    rows: dict[str, Output] = field(default_factory=dict)
    """Finished outputs whose rows it reads, by the field that declares them."""
    models: dict[str, Exported] = field(default_factory=dict)
    """Models that it uses, by the field that declares them."""
    files: str = ""
    """URL of a folder for what lies beside the stage's outputs, such as transferred files."""
    state: Any = None
    """On a worker: what the stage's `open` returned there."""

    def upstream(self) -> dict[str, Output]:
        """The outputs whose rows it reads, by the name of their stage."""
        return {output.stage: output for output in self.rows.values()}


class StageBase(ABC, Generic[C]):
    """What every kind of stage has, whatever it makes. Instances hold no state."""

    name: ClassVar[str]
    section: ClassVar[type[Any]]
    """The class of its settings."""
    version: ClassVar[int]
    """Raised by hand whenever what comes out changes; never otherwise."""
    writes: ClassVar[str] = ""
    """The schema of its rows, or the kind of its model, by which other stages find it."""
    about: ClassVar[str]
    """One line for `--help`."""

    def writing(self, section: C) -> str:
        """What it writes under these settings, where they decide that; by default `writes`."""
        return self.writes

    def finished(self, output: Output, section: C) -> bool:
        """Whether an output is all that these settings ask for."""
        return output.finished() is not None

    def resolve(self, config: C, log: Log) -> C:
        """Replace `auto` settings by what they mean here. Called once per configuration; the result is remembered."""
        return config

    def check(self, context: Context[C]) -> None:
        """Raise `UserError` for what can be known to be wrong before anything is listed."""

    def identity(self, context: Context[C]) -> dict[str, Any]:
        """What decides the output: the identity fields of the settings, and the digests of the models.

        Rows that are read count through their outputs' fingerprints.
        """
        return {"settings": identity(context.config), "models": {n: m.digest for n, m in context.models.items()}}

    def shared_paths(self, context: Context[C]) -> list[str]:
        """Local folders, besides the root, that every node must be able to see."""
        return list(shared_folders(context.config))


class Stage(StageBase[D]):
    """One kind of data stage. `open` and `process` run on workers, everything else on the driver."""

    stateful: ClassVar[bool] = False
    """Whether `open` makes something that is worth keeping from shard to shard (a model): then actors do the work."""

    def identity(self, context: Context[D]) -> dict[str, Any]:
        """What decides a row's content, given its item."""
        return super().identity(replace(context, config=replace(context.config, retry=0)))

    @abstractmethod
    def items(self, context: Context[D], log: Log) -> Iterable[Item]:
        """List the items, each uid once, always in the same order. An item holds everything its rows are made of."""

    @abstractmethod
    def schema(self, context: Context[D]) -> pa.Schema:
        """The schema of the rows."""

    @abstractmethod
    def process(self, context: Context[D], items: list[Item]) -> Iterator[Row | Failure]:
        """Make the rows of the items, in the order of the items; an object that cannot be used gives one `Failure`."""

    def open(self, context: Context[D]) -> Any:
        """Called once on each worker of a `stateful` stage; `process` finds the result in `context.state`."""
        return None

    def gpus(self, config: D, available: float) -> float:
        """The GPUs that one worker reserves on a cluster that has `available` of them."""
        return config.gpus

    def artifacts(self, context: Context[D], output: Output, log: Log) -> dict[str, bytes]:
        """Pictures and tables of a finished output, by file name."""
        return {}

    def summary(self, context: Context[D], output: Output) -> dict[str, float]:
        """Numbers of a finished output, logged as metrics."""
        return {}

    def assessments(self, context: Context[D], output: Output) -> dict[str, list[Assessment]]:
        """Judged texts of a finished output by metric, for the tracker's evaluation view."""
        return {}


@dataclass(frozen=True)
class StageReport:
    """What one call of a stage came to."""

    stage: str
    fingerprint: str
    state: str
    """`done` (work was done), `reused` (it was all there), `planned` (a dry run)."""
    why: str
    url: str
    rows: int
    objects: int
    failures: int
    seconds: float
    shards_run: int = 0
    shards_reused: int = 0
    steps: int | None = None
    """Optimizer steps that the model has been trained for; None for a data stage."""
    run_id: str | None = None
