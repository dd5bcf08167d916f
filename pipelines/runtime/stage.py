"""What a data stage is: a listing of items, and a function from items to rows."""

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


C = TypeVar("C", bound=StageConfig)


@dataclass(frozen=True)
class Context(Generic[C]):
    """What a stage's functions get to know: its settings, and where its inputs lie."""

    config: C
    """The stage's own section, `auto` values resolved."""
    inputs: dict[str, Output]
    """Finished outputs of the stages that it reads, by stage name."""
    everything: Any
    """The whole resolved configuration (a `PipelineConfig`)."""


class Stage(ABC, Generic[C]):
    """One kind of data stage. Instances hold no state; `process` runs on workers, everything else on the driver."""

    name: ClassVar[str]
    version: ClassVar[int]
    """Raised by hand whenever the rows that come out change; never otherwise."""
    inputs: ClassVar[tuple[str, ...]] = ()
    about: ClassVar[str]
    """One line for `--help`."""

    def resolve(self, config: C, say: Say) -> C:
        """Replace `auto` settings by what they mean here. Called once per configuration; the result is remembered."""
        return config

    def check(self, context: Context[C]) -> None:
        """Raise `UserError` for what can be known to be wrong before anything is listed."""

    def identity(self, context: Context[C]) -> Any:
        """The part of the settings that decides a row's content, given its item. Default: all identity fields."""
        from pipelines.runtime.fingerprint import identity

        return identity(replace(context.config, retry=0))

    @abstractmethod
    def items(self, context: Context[C], say: Say) -> Iterable[Item]:
        """List the items, each uid once, always in the same order. An item holds everything its rows are made of."""

    @abstractmethod
    def schema(self, context: Context[C]) -> pa.Schema:
        """The schema of the rows."""

    @abstractmethod
    def process(self, context: Context[C], items: list[Item]) -> Iterator[Row | Failure]:
        """Make the rows of the items, in the order of the items; an object that cannot be used gives one `Failure`."""

    def places(self, context: Context[C]) -> list[str]:
        """Local folders, besides the root, that every node must be able to see."""
        return []

    def artifacts(self, context: Context[C], output: Output, say: Say) -> dict[str, bytes]:
        """Pictures and tables of a finished output, by file name."""
        return {}

    def summary(self, context: Context[C], output: Output) -> dict[str, float]:
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
    run_id: str | None = None
