"""The loop that every worker runs, under Ray Train or any other launcher that has set up torch.distributed."""

import resource
import time
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pipelines.runtime.training import checkpoint
from pipelines.runtime.training.state import TrainRun, TrainWork, commit, export, resume, start
from pipelines.runtime.training.sync import Workers
from sar3d.training.feed import feed
from sar3d.training.guard import watching
from sar3d.training.step import due, evaluating, train_step

__all__ = ["Hooks", "Outcome", "TrainWork", "run"]


class Hooks(Protocol):
    """What the loop tells its launcher, on every rank unless said otherwise. Steps are numbers of steps done."""

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Metrics; on rank 0."""
        ...

    def artifact(self, name: str, data: bytes, step: int) -> None:
        """A file; on rank 0."""
        ...

    def committing(self, step: int) -> None:
        """A commit follows, after which no run logs these steps again: return when everything logged is safe."""
        ...

    def committed(self, step: int, name: str) -> None:
        """A checkpoint has been committed."""
        ...

    def should_stop(self) -> bool:
        """Whether to commit a checkpoint and return. Asked before every step; one rank's yes is enough."""
        ...


@dataclass(frozen=True)
class Outcome:
    """How far a call of `run` came."""

    step: int
    """Optimizer steps done."""
    finished: bool
    """Whether these are all, and the model has been exported."""
    checkpoint: str | None
    """Name of the newest committed checkpoint."""


@dataclass
class Pace:
    """Speed of the steps since metrics were last logged, without evaluations and checkpoints."""

    batch: int
    steps: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    """Seconds of them that were spent on waiting for data."""

    def take(self) -> dict[str, float]:
        """Metrics; counting begins anew."""
        values = {
            "step_seconds": self.seconds / self.steps,
            "samples_per_second": self.steps * self.batch / self.seconds,
            "data_wait": self.waited / self.seconds,
        }
        self.steps, self.seconds, self.waited = 0, 0.0, 0.0
        return values


def run(work: TrainWork, hooks: Hooks) -> Outcome:
    """Train from the newest committed checkpoint, or from the start where there is none, to the last step.

    Raises:
        UserError: the batch cannot be shared by these workers, the checkpoint cannot be used, or training diverged; the
            newest checkpoint is then one from before.
    """
    sync = Workers()
    try:
        state = start(work, sync)
        resume(state)
        finished = _train(state, hooks)
        if finished:
            export(state)
        return Outcome(state.step, finished, checkpoint.name_of(state.saved) if state.saved else None)
    finally:
        sync.close()


def _train(state: TrainRun, hooks: Hooks) -> bool:
    """Steps until the last one, or until it is asked to stop; whether it came to the last."""
    settings, sync = state.settings, state.sync
    pace, guard = Pace(settings.batch), watching(state.work.task, settings)
    pin = sync.device.type == "cuda"
    with closing(feed(state.work.task, state.work.train, settings, state.step, sync.rank, sync.world, pin)) as batches:
        while state.step < settings.steps:
            if sync.anyone(hooks.should_stop()):
                if state.step > state.saved and guard.check(sync):
                    _commit(state, hooks)
                return False
            began = time.perf_counter()
            _, host_batches, waited = next(batches)
            moved, metrics = train_step(state, host_batches)
            pace.steps, pace.waited = pace.steps + 1, pace.waited + waited
            pace.seconds += time.perf_counter() - began
            guard.add(metrics)
            if guard.due():
                guard.check(sync)
            if due(settings.log_every, state.step, settings.steps):
                _log(state, hooks, {**moved, **metrics}, pace)
            elif moved and sync.rank == 0:
                hooks.log(state.step, moved)
            _look(state, hooks)
            # Last of all: a run that goes on from the checkpoint has nothing of this step left to do.
            if due(settings.checkpoint_every, state.step, settings.steps) and (
                guard.check(sync) or state.step == settings.steps
            ):
                _commit(state, hooks)
    return True


def _log(state: TrainRun, hooks: Hooks, metrics: dict[str, Tensor | float], pace: Pace) -> None:
    """This step's metrics as means over the workers, and the speed since the last log."""
    names = sorted(metrics)
    values = state.sync.means([float(metrics[name]) for name in names])
    parts = state.sync.gather_objects(pace.take() | {"memory_gib": _memory(state.sync.device)})
    if state.sync.rank == 0:
        speed = {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}
        speed["memory_gib"] = max(part["memory_gib"] for part in parts)
        task, rate = state.work.task, speed["samples_per_second"]
        speed |= task.speed(rate, state.settings, state.sync.device, state.sync.world)
        hooks.log(state.step, dict(zip(names, values, strict=True)) | speed)


def _memory(device: torch.device) -> float:
    """Peak memory in GiB: of the GPU's allocator, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _look(state: TrainRun, hooks: Hooks) -> None:
    """Evaluation and pictures, where they are due."""
    work, settings, done = state.work, state.settings, state.step
    evaluate, draw = (due(every, done, settings.steps) for every in (settings.evaluate_every, settings.draw_every))
    if work.held_out is None or not (evaluate or draw):
        return
    with evaluating(state.model, state.ema, settings, state.sync.device):
        if evaluate:
            values = work.task.evaluate(state.model, work.held_out, state.sync)
            if state.sync.rank == 0:
                hooks.log(done, values)
        if draw:
            pictures = state.sync.first(lambda: work.task.draw(state.model, work.held_out))
            for name, data in pictures.items() if state.sync.rank == 0 else ():
                hooks.artifact(name, data, done)


def _commit(state: TrainRun, hooks: Hooks) -> None:
    hooks.committing(state.step)
    name = commit(state)
    hooks.committed(state.step, name)
