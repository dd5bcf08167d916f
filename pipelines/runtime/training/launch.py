"""Ray Train around the worker loop: workers, restarts, and the driver's part while they train.

The loop's own committed checkpoints are the truth: whatever is lost, every worker starts again from the newest one.
"""

import contextlib
import json
import os
import tempfile
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines import WAITING
from pipelines.runtime import cluster
from pipelines.runtime.interrupt import Interrupted, unwrapped
from pipelines.runtime.lease import Lease
from pipelines.runtime.output import Output
from pipelines.runtime.presence import ClusterLostError
from pipelines.runtime.progress import StepProgress
from pipelines.runtime.stage import Log
from pipelines.runtime.tracking import StageRun
from pipelines.runtime.training.report import EventQueue, Reporter
from sar3d.errors import UserError

if TYPE_CHECKING:
    from pipelines.runtime.training.loop import Outcome, TrainWork
    from pipelines.runtime.training.stage import TrainStageConfig

_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how soon a lost worker is noticed
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}
GRACE = 120.0
"""Seconds that workers have to commit a checkpoint after SIGTERM or a lost lease."""
SILENCE = 30.0
"""Seconds without a word from any worker after which a cluster without room for them is mentioned."""
BUGS = (TypeError, ValueError, LookupError, AttributeError, NameError, AssertionError, ImportError, NotImplementedError)
"""What a worker raises again however often it is restarted."""


@dataclass(frozen=True)
class TrainJob:
    """What is to be trained, with what, and where it goes."""

    name: str
    work: "TrainWork"
    config: "TrainStageConfig"
    output: Output
    root: str
    places: list[str]
    """Local folders, besides the root, that every worker must see."""
    cluster: cluster.ClusterConfig


def train(job: TrainJob, tracked: StageRun, lease: Lease, bar: StepProgress, log: Log) -> "Outcome":
    """Train on the cluster until the loop ends; what rank 0's loop returned.

    Raises:
        UserError: what a person can mend: from a worker, no room, too many lost workers, the lease or the cluster lost.
        Interrupted: after SIGTERM or SIGINT, once the workers have committed a checkpoint.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    ray = cluster.connect(job.cluster, log)
    with cluster.watched(ray, job.cluster):
        return _train_on(ray, job, tracked, lease, bar, log)


def _train_on(ray: Any, job: TrainJob, tracked: StageRun, lease: Lease, bar: StepProgress, log: Log) -> "Outcome":
    config = job.config
    cluster.await_room(ray, config.cpus, config.gpus, job.cluster.patience, log, config.workers)
    wanted = (config.workers * config.cpus, config.workers * config.gpus)
    room = cluster.RoomMonitor(ray, job.name, wanted, job.cluster, log)
    marker = cluster.mark(job.root, job.places)
    events = _beside_driver(ray, EventQueue)
    try:
        cluster.check_nodes(ray, marker)
        with tempfile.TemporaryDirectory(prefix="sar3d-train-", ignore_cleanup_errors=True) as storage:
            fit = Fit(_trainer(job, events, marker, storage))
            fit.start()
            monitor = DriverMonitor(ray, job, events, fit, tracked, lease, bar, room, log)
            try:
                monitor.run()
            except BaseException as error:
                monitor.wind_up(error)
                raise
            return fit.outcome(job.name)
    finally:
        ray.kill(events)
        cluster.unmark(marker)


def _beside_driver(ray: Any, kind: type) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, max_restarts=0, max_concurrency=1000, scheduling_strategy=here)(kind).remote()


def _trainer(job: TrainJob, events: Any, marker: cluster.Marker, storage: str) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
    from ray.train.v2.api.config import LoggingConfig

    class Trainer(TorchTrainer):
        """Without the actor that frees resources after a dead controller: ours dies with the driver, and Ray frees
        what a dead job held. The actor needs a dashboard, which a Ray of our own has not, and complains every second.
        """

        def _create_default_callbacks(self) -> list[Any]:
            made = super()._create_default_callbacks()
            return [callback for callback in made if not isinstance(callback, PlacementGroupCleanerCallback)]

    config = job.config
    resources: dict[str, float] = {"CPU": config.cpus, "GPU": config.gpus, "memory": config.memory or 0}
    return Trainer(
        train_worker,
        train_loop_config={"job": job, "event queue": events, "marker": marker},
        torch_config=TorchConfig(backend="nccl" if config.gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=config.workers,
            use_gpu=config.gpus > 0,
            resources_per_worker={name: amount for name, amount in resources.items() if amount},
        ),
        run_config=RunConfig(
            name=f"{job.name}-{job.output.fingerprint}",
            storage_path=storage,
            failure_config=FailureConfig(max_failures=config.max_failures),
            callbacks=[_watch(job.name, events)],
            worker_runtime_env={"env_vars": _environment(config)},
            logging_config=LoggingConfig(log_level="CRITICAL"),  # the monitor says in one line what happens
        ),
    )


def _environment(config: "TrainStageConfig") -> dict[str, str]:
    """Variables that each worker starts with."""
    threads = str(max(1, int(config.cpus)))
    found = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "MLFLOW_DISABLE_TELEMETRY": "true", **WAITING}
    if not config.gpus:  # also on a machine that has some
        found |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    return found


def recorded_commits(output: Output) -> list[int]:
    """Steps of the checkpoints that are known to have been committed and kept, as the driver noted them."""
    data = output.state.read("committed.json")
    steps: list[int] = json.loads(data) if data is not None else []
    return steps


def train_worker(settings: dict[str, Any]) -> "Outcome":
    """The body of every Ray Train worker."""
    import ray.train
    import torch

    from pipelines.runtime.training.loop import run

    job: TrainJob = settings["job"]
    settings["marker"].check()
    torch.set_num_threads(max(1, int(job.config.cpus)))
    reporter = Reporter(settings["event queue"], job.output, ray.train.get_context().get_world_rank())
    outcome = run(job.work, reporter)
    reporter.close()
    return outcome


def _watch(name: str, events: Any) -> Any:
    from ray.train import UserCallback

    class Watch(UserCallback):
        """Decides on the controller which failures are worth another attempt; what it raises ends the run."""

        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            for error in worker_exceptions.values():
                cause = cause_of(error)
                if isinstance(cause, UserError):
                    raise cause
                if type(cause).__name__ == "OutOfMemoryError" and type(cause).__module__.startswith("torch"):
                    raise UserError(
                        f"{name} has too little GPU memory ({str(cause).splitlines()[0][:200]}): "
                        f"lower {name}.train.micro_batch, or train on more workers"
                    )
                if isinstance(cause, BUGS):
                    raise error
            lost = [str(rank) for rank, error in sorted(worker_exceptions.items()) if cause_of(error) is error]
            if lost:
                events.note.remote(f"lost worker {', '.join(lost)}")
            else:
                events.note.remote(f"worker {min(worker_exceptions)} failed ({_short(cause)})")

    return Watch()


def cause_of(error: BaseException) -> BaseException:
    """What a worker's code raised; the error itself if the worker was lost."""
    cause: BaseException = getattr(error, "_base_exc", error)
    return cause


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


class Fit(threading.Thread):
    """`trainer.fit()` in a thread of its own: the main thread attends to signals, the lease and the metrics."""

    def __init__(self, trainer: Any) -> None:
        super().__init__(name="fit", daemon=True)
        self._trainer = trainer
        self._result: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._result = self._trainer.fit()
        except BaseException as error:
            self._error = error

    def outcome(self, name: str) -> "Outcome":
        """What the loop returned, or its failure as an exception."""
        if self._error is None:
            outcome: Outcome = self._result.return_value
            return outcome
        from ray.train import ControllerError, WorkerGroupError

        if isinstance(self._error, ControllerError):
            failure = self._error.controller_failure
            if isinstance(failure, UserError):
                raise UserError(str(failure)) from self._error
            raise failure
        if isinstance(self._error, WorkerGroupError):
            errors = [cause_of(e) for e in self._error.worker_failures.values()]
            raise UserError(
                f"{name} lost its workers more than {name}.max_failures times (last: {_short(errors[0])}): "
                f"see whether they have enough memory ({name}.memory), then run the same command again"
            ) from self._error
        raise self._error


class DriverMonitor:
    """The driver's part while workers train."""

    def __init__(
        self,
        ray: Any,
        job: TrainJob,
        events: Any,
        fit: Fit,
        tracked: StageRun,
        lease: Lease,
        bar: StepProgress,
        room: cluster.RoomMonitor,
        log: Log,
    ) -> None:
        self.ray, self.job, self.events, self.fit = ray, job, events, fit
        self.tracked, self.lease, self.bar, self.room, self.log = tracked, lease, bar, room, log
        self._taken = 0
        self._warned = False

    def run(self) -> None:
        """Pass on what workers report until they have ended."""
        while self.fit.is_alive():
            silence = self.collect()
            if self.lease.lost.is_set():
                raise UserError(f"another submission took over {self.job.name} {self.job.output.fingerprint}")
            self._mind_room(silence)
            self.room.look()
        self.collect(patience=0.0)

    def wind_up(self, reason: BaseException) -> None:
        """Have the workers commit a checkpoint and stop, if they still can."""
        if isinstance(reason, ClusterLostError):
            return
        if isinstance(reason, Interrupted):
            self.log(f"{self.job.name}: stopping once the workers have committed a checkpoint")
        deadline = time.monotonic() + GRACE
        with contextlib.suppress(self.ray.exceptions.RayError):
            self.ray.get(self.events.stop.remote())
            while self.fit.is_alive() and time.monotonic() < deadline:
                self.collect()

    def collect(self, patience: float = 0.5) -> float:
        """Take what has come, waiting a little for the first of it; seconds since a worker was last heard of."""
        with unwrapped():
            entries, silence = self.ray.get(self.events.collect.remote(self._taken, patience))
        self.tracked.entries([entry for entry in entries if entry["do"] not in ("say", "commit")])
        for entry in entries:
            if entry["do"] == "say":
                at = max(recorded_commits(self.job.output), default=0)
                self.log(f"{self.job.name}: {entry['text']}; starting again at step {at:,}")
            elif entry["do"] == "commit":
                self._note_commit(entry["step"])
            elif entry["do"] == "metrics":
                self.room.over()
                self.bar.update(entry["step"], entry["values"])
        self._taken += len(entries)
        return float(silence)

    def _note_commit(self, step: int) -> None:
        """Remember what a later run must find: to begin anew without a word would throw the training away."""
        known = {s for s in recorded_commits(self.job.output) if s < step} | {step}
        kept = sorted(known)[-self.job.work.settings.keep_checkpoints :]
        self.job.output.state.put("committed.json", json.dumps(kept).encode())

    def _mind_room(self, silence: float) -> None:
        """Say once why nothing happens, and give up after the usual patience if the cluster has become too small."""
        config, patience = self.job.config, self.job.cluster.patience
        if silence < SILENCE:
            self._warned = False
            return
        room = cluster.has_room(self.ray, config.cpus, config.gpus, config.workers)
        if not self._warned:
            why = "they are starting, or the cluster is busy" if room else "the cluster has lost its room for them"
            self.log(f"{self.job.name}: no word from the {config.workers} workers for {silence:.0f} s: {why}; waiting")
            self._warned = True
        if not room and silence > SILENCE + patience:
            raise UserError(
                f"{self.job.name} cannot go on: the cluster has had no room for {config.workers} workers of "
                f"{config.cpus:g} CPUs and {config.gpus:g} GPUs each for {silence:.0f} s; add nodes or lower "
                f"{self.job.name}.workers, then run the same command again"
            )
