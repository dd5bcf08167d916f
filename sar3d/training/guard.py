"""Divergence: what a training watches of itself, and when it stops."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor

from sar3d.errors import UserError
from sar3d.training.settings import GuardSettings, TrainSettings
from sar3d.training.task import Sync, Task

GRADIENT = "grad_norm"
LOSS = "loss"
FINITE = ("discriminator_grad_norm",)
"""Metrics that may grow as they like while they are finite: of a discriminator, which gets better at its game."""


@dataclass
class Guard:
    """Compares a training with its own recent past; every worker comes to the same verdict.

    Loss and gradient norm are judged by their own past. Any other part (a quantizer's loss) counts as diverged only where
    it also exceeds the past loss: a part that starts from nothing grows many times without harm.
    """

    settings: GuardSettings
    names: Sequence[str]
    """Metrics that are watched; a step need not have all of them."""
    _new: list[dict[str, Tensor | float]] = field(default_factory=list)
    """Metrics since the last look, left on their device."""
    _seen: dict[str, deque[float]] = field(default_factory=dict)
    """Means over the workers, oldest first."""

    def add(self, metrics: Mapping[str, Tensor | float]) -> None:
        """Take in one step's metrics of this worker; nothing waits for the device."""
        self._new.append({name: metrics[name] for name in (*self.names, *FINITE) if name in metrics})

    def due(self) -> bool:
        """Whether enough steps have been taken in for a look; the same on every worker."""
        return len(self._new) >= self.settings.recent

    def check(self, sync: Sync) -> bool:
        """Look at what was taken in. All workers must call.

        Returns:
            Whether the newest step alone lies within the limits: a checkpoint that is made while it does not might be
            one of a training that is found to have diverged some steps later.

        Raises:
            UserError: the training has diverged; the same on every worker.
        """
        for step in _means(self._new, sync):
            for name, value in step.items():
                kept = self.settings.window + self.settings.recent
                self._seen.setdefault(name, deque(maxlen=kept)).append(value)
        self._new.clear()
        sound = [self._sound(name, list(values)) for name, values in self._seen.items()]
        return all(sound)

    def _sound(self, name: str, values: list[float]) -> bool:
        """Whether the newest value of a metric lies within its limit; raises where the median of the recent ones does not."""
        recent, multiple = self.settings.recent, self.settings.multiple
        before, now = values[:-recent], values[-recent:]
        if not all(map(math.isfinite, now)):
            raise UserError(f"the training diverged: its {name} is not finite; lower the learning rates and run again")
        if multiple is None or name in FINITE or len(before) < self.settings.window:
            return True
        usual, newest = median(before), median(now)
        limit = usual * multiple
        if name not in (LOSS, GRADIENT) and LOSS in self._seen:
            limit = max(limit, median(list(self._seen[LOSS])[:-recent]))
        if usual <= 0:
            return True
        if newest > limit:
            raise UserError(
                f"the training diverged: its {name} rose from {usual:.3g} (median of {len(before)} steps) to {newest:.3g} "
                f"(of the {recent} after them), more than guard.multiple={multiple:g} times; lower the learning rates, or "
                "change what began at these steps, and run again from the newest checkpoint, which is older"
            )
        return now[-1] <= limit


def watching(task: Task, settings: TrainSettings) -> Guard:
    """The guard of a run that begins or goes on now."""
    return Guard(settings.guard, (LOSS, GRADIENT, *task.watched))


def _means(steps: Sequence[Mapping[str, Tensor | float]], sync: Sync) -> list[dict[str, float]]:
    """The steps' metrics as means over the workers, summed in one order everywhere; one wait for the device."""
    own = [{name: torch.as_tensor(value, dtype=torch.float32) for name, value in step.items()} for step in steps]
    flat = [value.detach().reshape(()) for step in own for value in step.values()]
    host = iter(torch.stack([value.to(flat[-1].device) for value in flat]).tolist() if flat else [])
    read = [{name: next(host) for name in step} for step in own]
    parts = sync.gather_objects(read)
    return [
        {name: sum(part[i][name] for part in parts) / len(parts) for name in step} for i, step in enumerate(parts[0])
    ]
