"""What a stage is, and what a data stage is: a listing of items, and a function from items to rows."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, TypeVar

import pyarrow as pa

from pipelines.runtime.output import Failure, Output
from pipelines.runtime.plan import Item

Row = dict[str, Any]
Say = Callable[[str], None]


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
    """What a stage's functions get to know: its settings, and where its inputs lie."""

    config: C
    """The stage's own section, `auto` values resolved."""
    inputs: dict[str, Output]
    """Finished outputs of the stages that it reads, by stage name."""
    everything: Any
    """The whole resolved configuration (a `PipelineConfig`)."""
    state: Any = None
    """On a worker: what the stage's `open` returned there."""


class StageBase(ABC, Generic[C]):
    """What every kind of stage has, whatever it makes. Instances hold no state."""

    name: ClassVar[str]
    version: ClassVar[int]
    """Raised by hand whenever what comes out changes; never otherwise."""
    inputs: ClassVar[tuple[str, ...]] = ()
    about: ClassVar[str]
    """One line for `--help`."""

    @abstractmethod
    def run(self, config: Any, options: Any, say: Say) -> "StageReport":
        """Bring the stage's output for a resolved `PipelineConfig` up to date; `options` are the engine's `Options`."""

    def reads(self, section: C) -> tuple[str, ...]:
        """Names of the stages whose outputs it reads under these settings; by default `inputs`."""
        return self.inputs

    def finished(self, output: Output, section: C) -> bool:
        """Whether an output is all that these settings ask for."""
        return output.finished() is not None

    def resolve(self, config: C, say: Say) -> C:
        """Replace `auto` settings by what they mean here. Called once per configuration; the result is remembered."""
        return config

    def check(self, context: Context[C]) -> None:
        """Raise `UserError` for what can be known to be wrong before anything is listed."""

    def identity(self, context: Context[C]) -> Any:
        """The part of the settings that decides what comes out. Default: all identity fields."""
        from pipelines.runtime.fingerprint import identity

        return identity(context.config)

    def places(self, context: Context[C]) -> list[str]:
        """Local folders, besides the root, that every node must be able to see."""
        return []


class Stage(StageBase[D]):
    """One kind of data stage. `open` and `process` run on workers, everything else on the driver."""

    stateful: ClassVar[bool] = False
    """Whether `open` makes something that is worth keeping from shard to shard (a model): then actors do the work."""

    def run(self, config: Any, options: Any, say: Say) -> "StageReport":
        from pipelines.runtime.engine import run_stage

        return run_stage(self, config, options, say)

    def identity(self, context: Context[D]) -> Any:
        """The part of the settings that decides a row's content, given its item. Default: all identity fields."""
        from pipelines.runtime.fingerprint import identity

        return identity(replace(context.config, retry=0))

    @abstractmethod
    def items(self, context: Context[D], say: Say) -> Iterable[Item]:
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

    def artifacts(self, context: Context[D], output: Output, say: Say) -> dict[str, bytes]:
        """Pictures and tables of a finished output, by file name."""
        return {}

    def summary(self, context: Context[D], output: Output) -> dict[str, float]:
        """Numbers of a finished output, logged as metrics."""
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
    """Optimiser steps that the model has been trained for; None for a data stage."""
    run_id: str | None = None
