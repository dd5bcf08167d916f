"""Who makes the shards: Ray tasks, or Ray actors for a stage that keeps something open from shard to shard."""

import dataclasses
import tempfile
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.runtime import cluster
from pipelines.runtime.interrupt import unwrapped
from pipelines.runtime.output import Failure, Output, ShardRecord, ShardWriter
from pipelines.runtime.plan import Shard
from pipelines.runtime.presence import ClusterLostError
from pipelines.runtime.stage import Context, Stage
from pipelines.runtime.store import disk_errors
from sar3d.errors import UserError

LOSSES = 20
"""How often a shard may be lost with its worker before the stage stops."""


@dataclass(frozen=True)
class ShardJob:
    """What every worker gets to know."""

    stage: Stage[Any]
    context: Context[Any]
    output: Output
    marker: cluster.Marker


def run_shard(job: ShardJob, shard: Shard, state: Any = None) -> ShardRecord:
    """Make and commit one shard."""
    job.marker.check()
    started = time.monotonic()
    stage, output, context = job.stage, job.output, dataclasses.replace(job.context, state=state)
    scratch = output.scratch()
    with disk_errors(output.url), tempfile.TemporaryDirectory(prefix=f".{shard.name}.", dir=scratch) as folder:
        path = Path(folder, "rows.parquet")
        writer = ShardWriter(path, stage.schema(context))
        keys = {item["uid"]: key for item, key in zip(shard.items, shard.keys, strict=True)}
        failures = []
        for made in stage.process(context, shard.items):
            if isinstance(made, Failure):
                failures.append(dataclasses.replace(made, key=keys[made.uid]))
            else:
                writer.add(made)
        size, digest = writer.close()
        seconds = round(time.monotonic() - started, 3)
        record = ShardRecord(shard.name, "", writer.rows, size, digest, "".join(shard.keys), failures, seconds=seconds)
        return output.commit(path, record)[0]


class WorkerPool(ABC):
    """Workers that turn shards into records, in any order."""

    def __init__(self, ray: Any, job: ShardJob) -> None:
        self.ray, self.job = ray, job
        settings = job.context.config
        self.resources = {"num_cpus": settings.cpus, "num_gpus": settings.gpus, "memory": settings.memory}

    def size(self) -> int:
        """How many workers there may be now; a cluster grows and shrinks."""
        settings = self.job.context.config
        return settings.workers or cluster.slots(self.ray, settings.cpus, settings.gpus)

    @abstractmethod
    def unfinished(self) -> int:
        """Shards that were given and not collected."""

    @abstractmethod
    def room(self) -> int:
        """How many more shards should be given now."""

    @abstractmethod
    def give(self, shard: Shard) -> None:
        """Have a shard made."""

    @abstractmethod
    def collect(self) -> Iterator[ShardRecord]:
        """Wait a moment; records of shards that are committed. Raises what a worker raised."""

    @abstractmethod
    def close(self) -> None:
        """Stop what is still running; nothing that a worker does after this matters."""

    def _result(self, ref: Any) -> Any:
        try:
            with unwrapped():
                return self.ray.get(ref)
        except self.ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise UserError(str(error.cause)) from error
            raise

    def _lost(self, what: str, error: BaseException) -> UserError:
        return UserError(
            f"{self.job.stage.name} {what} was lost more than {LOSSES} times with its worker ({type(error).__name__}): "
            "give its workers more memory, then run the same command again"
        )


@contextmanager
def worker_pool(ray: Any, job: ShardJob) -> Iterator[WorkerPool]:
    """The kind of pool that the stage needs; stopped on the way out, unless the cluster has gone."""
    workers = ActorPool(ray, job) if job.stage.stateful else TaskPool(ray, job)
    try:
        yield workers
    except ClusterLostError:
        raise
    except BaseException:
        workers.close()
        raise
    workers.close()


class TaskPool(WorkerPool):
    """One Ray task per shard; Ray itself repeats a task that is lost with its node."""

    def __init__(self, ray: Any, job: ShardJob) -> None:
        super().__init__(ray, job)
        self._task = ray.remote(**self.resources, max_retries=LOSSES)(run_shard)
        self._job_ref = ray.put(job)
        self._flying: dict[Any, Shard] = {}

    def unfinished(self) -> int:
        return len(self._flying)

    def room(self) -> int:
        return (self.job.context.config.workers or 2 * self.size()) - len(self._flying)

    def give(self, shard: Shard) -> None:
        task = self._task.options(name=f"{self.job.stage.name}:{shard.name}")
        self._flying[task.remote(self._job_ref, shard)] = shard

    def collect(self) -> Iterator[ShardRecord]:
        exceptions = self.ray.exceptions
        with unwrapped():
            done, _ = self.ray.wait(list(self._flying), num_returns=1, timeout=0.5)
        for ref in done:
            shard = self._flying.pop(ref)
            try:
                yield self._result(ref)
            except (exceptions.WorkerCrashedError, exceptions.NodeDiedError, exceptions.OutOfMemoryError) as error:
                raise self._lost(shard.name, error) from error

    def close(self) -> None:
        # Canceling a task at the moment of its completion aborts the driver inside Ray. What is still running when
        # the wait is over ends with the driver, and has committed nothing or a whole shard.
        if self._flying:
            self.ray.wait(list(self._flying), num_returns=len(self._flying), timeout=15)


class ShardWorker:
    """The actor: opens the stage's state once, then makes one shard after the other."""

    def __init__(self, job: ShardJob) -> None:
        self.job = job
        self.state: Any = None

    def open(self) -> None:
        self.job.marker.check()
        self.state = self.job.stage.open(self.job.context)

    def run(self, shard: Shard) -> ShardRecord:
        return run_shard(self.job, shard, self.state)


class ActorPool(WorkerPool):
    """Actors that keep the stage's state. A shard goes only to an actor that has opened it, so one that waits for
    room in the cluster, or for a node that never comes, holds up nothing. A lost actor is replaced, and its shard is
    given to another.
    """

    def __init__(self, ray: Any, job: ShardJob) -> None:
        super().__init__(ray, job)
        self._actor = ray.remote(**self.resources, max_restarts=0)(ShardWorker)
        self._job_ref = ray.put(job)
        self._waiting: deque[Shard] = deque()
        self._opening: dict[Any, Any] = {}
        self._busy: dict[Any, tuple[Any, Shard]] = {}
        self._idle: list[Any] = []
        self._losses: Counter[str] = Counter()

    def unfinished(self) -> int:
        return len(self._waiting) + len(self._busy)

    def room(self) -> int:
        return 2 * self.size() - self.unfinished()

    def give(self, shard: Shard) -> None:
        self._waiting.append(shard)

    def collect(self) -> Iterator[ShardRecord]:
        self._staff()
        with unwrapped():
            done, _ = self.ray.wait([*self._busy, *self._opening], num_returns=1, timeout=0.5)
        for ref in done:
            if ref in self._opening:
                self._opened(ref, self._opening.pop(ref))
                continue
            record = self._finished(ref, *self._busy.pop(ref))
            self._staff()  # before anything else is done with the record: an idle model is the dearest thing here
            if record is not None:
                yield record

    def _staff(self) -> None:
        """Give shards to idle actors; start actors for what is left; release those for which nothing is left."""
        while self._waiting and self._idle:
            actor, shard = self._idle.pop(), self._waiting.popleft()
            self._busy[actor.run.remote(shard)] = (actor, shard)
        while self._idle:
            self.ray.kill(self._idle.pop())
        wanted = min(self.size() - len(self._busy), len(self._waiting))
        while len(self._opening) < wanted:
            actor = self._actor.remote(self._job_ref)
            self._opening[actor.open.remote()] = actor

    def _opened(self, ref: Any, actor: Any) -> None:
        try:
            self._result(ref)
        except self._accidents() as error:
            self._count("worker", error)
            return
        self._losses["worker"] = 0
        self._idle.append(actor)

    def _finished(self, ref: Any, actor: Any, shard: Shard) -> ShardRecord | None:
        try:
            record: ShardRecord = self._result(ref)
        except self._accidents() as error:
            self._count(shard.name, error)
            self._waiting.appendleft(shard)
            return None
        self._idle.append(actor)
        return record

    def _accidents(self) -> tuple[type[Exception], ...]:
        """What happens to a worker, not in it."""
        e = self.ray.exceptions
        return (
            e.RayActorError,
            e.WorkerCrashedError,
            e.NodeDiedError,
            e.OutOfMemoryError,
            e.ObjectLostError,
        )

    def _count(self, what: str, error: BaseException) -> None:
        self._losses[what] += 1
        if self._losses[what] > LOSSES:
            raise self._lost(what, error) from error

    def close(self) -> None:
        for actor in [*self._opening.values(), *self._idle, *(actor for actor, _ in self._busy.values())]:
            self.ray.kill(actor)
