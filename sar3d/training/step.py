"""The training step: one for the plain trainer and for the distributed loop, over engines that differ."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sar3d.seeds import generator, seed_everything
from sar3d.training.ema import EMA
from sar3d.training.schedule import factor
from sar3d.training.settings import OptimizerSettings, TrainSettings
from sar3d.training.task import Batch, Losses, Moment, Sync, Task, move


@dataclass
class MeanOf:
    """Means of metrics over micro-batches, kept on the device so that nothing waits for them."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, metrics: dict[str, Tensor]) -> None:
        for name, value in metrics.items():
            value = value.detach().float()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1

    def means(self) -> dict[str, Tensor]:
        return {name: total / self.counts[name] for name, total in self.sums.items()}


Compute = Callable[[nn.Module], Tensor]
"""The main model → () loss of a micro-batch."""


class Engine(Protocol):
    """The main model's gradients and optimizer: in one process, or under DeepSpeed on several workers."""

    def main(self, compute: Compute, last: bool) -> None:
        """Add the gradients of a micro-batch's loss; `last` marks the step's last micro-batch."""
        ...

    def step(self, factor: float) -> Tensor | float:
        """Take the optimizer's step at `factor` times the groups' rates.

        Returns:
            The gradient's norm before clipping: () on the device, which nothing waits for, or a number.
        """
        ...

    def rate(self) -> float:
        """Learning rate of the first group."""
        ...

    def refresh(self) -> None:
        """Take over parameters that were changed in place."""
        ...


class DiscriminatorEngine(Protocol):
    """The discriminator's gradients and optimizer."""

    @property
    def module(self) -> nn.Module:
        """What the main model's pass is judged by."""
        ...

    @property
    def parallel(self) -> nn.Module:
        """What its own pass goes through: the module, wrapped where workers exchange gradients."""
        ...

    def context(self, last: bool) -> AbstractContextManager[None]:
        """Around its passes of a micro-batch."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a micro-batch's loss."""
        ...

    def step(self, factor: float) -> Tensor | float:
        """As `Engine.step`, unclipped."""
        ...


@dataclass
class State:
    """Everything that training changes, on one worker."""

    task: Task
    settings: TrainSettings
    sync: Sync
    device: torch.device
    model: nn.Module
    engine: Engine
    discriminator: DiscriminatorEngine | None
    ema: EMA | None
    accumulation: int
    """Micro-batches of a step on this worker."""
    step: int = 0
    """Steps done."""


def train_step(state: State, batches: Sequence[Batch]) -> tuple[dict[str, float], dict[str, Tensor | float]]:
    """One optimizer step on this worker's micro-batches (CPU tensors). Nothing waits for the device.

    Returns:
        What the task did before the step, if anything; and the step's metrics: () float32 tensors on the device, or
        numbers.
    """
    task, model = state.task, state.model
    now = moment(state.settings, state.step, state.sync, state.device, batches)
    moved = task.before_step(model, now)
    state.engine.refresh()
    metrics, judged = _gradients(state, batches)
    rate = factor(state.settings.schedule, state.step, state.settings.steps)
    metrics["grad_norm"] = state.engine.step(rate)
    if judged and state.discriminator is not None:
        metrics["discriminator_grad_norm"] = state.discriminator.step(rate)
    metrics |= task.after_step(model, now)
    state.engine.refresh()
    if state.ema is not None:
        state.ema.restart(model, now.replaced)
        state.ema.update(model, state.step)
    state.step += 1
    return moved, metrics | {"lr": state.engine.rate()}


def build(task: Task, settings: TrainSettings, device: torch.device) -> tuple[nn.Module, nn.Module | None]:
    """The main model and the discriminator in training mode; their weights depend on the seed alone."""
    seed_everything(settings.seed, "build")
    model, discriminator = task.build(), task.build_discriminator()
    return model.to(device).train(), None if discriminator is None else discriminator.to(device).train()


def optimizer(groups: list[dict[str, Any]], settings: OptimizerSettings) -> torch.optim.AdamW:
    """AdamW in one kernel per group; every group keeps its peak rate in `initial_lr`."""
    groups = [{**group, "initial_lr": group["lr"]} for group in groups]
    return torch.optim.AdamW(groups, betas=settings.betas, eps=settings.eps, fused=True)


def set_rates(optimizer: Any, factor: float) -> None:
    """Every group's learning rate: its peak rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def moment(settings: TrainSettings, step: int, sync: Sync, device: torch.device, batches: Sequence[Batch]) -> Moment:
    """What the task is told before and after a step; the global generators are at the step's beginning, too."""
    seed_everything(settings.seed, "step", step)
    return Moment(step, generator(settings.seed, "moment", step), sync, device, batches)


@contextmanager
def frozen(module: nn.Module | None) -> Iterator[None]:
    """No gradients for the module's parameters, while gradients still flow through it."""
    parameters = [] if module is None else [p for p in module.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _gradients(state: State, batches: Sequence[Batch]) -> tuple[dict[str, Tensor | float], bool]:
    """Gradients of a step's micro-batches, in the main model and in the discriminator.

    Returns:
        Metrics as () float32 means over the micro-batches, and whether the discriminator has gradients.
    """
    task, settings, discriminator = state.task, state.settings, state.discriminator
    metrics, judged = MeanOf(), False
    first = state.sync.rank * state.accumulation
    for index, host_batch in enumerate(batches):
        last = index == len(batches) - 1
        seed_everything(settings.seed, "micro-batch", state.step, first + index)
        batch = move(host_batch, state.device)
        losses = _main_pass(state, batch, last)
        metrics.add(losses.metrics)
        if discriminator is None:
            continue
        with discriminator.context(last):
            with autocast(settings, state.device):
                verdict = task.discriminator_losses(discriminator.parallel, batch, losses, state.step)
            if verdict is not None:
                discriminator.backward(_checked(task, verdict))
                metrics.add(verdict.metrics)
                judged = True
    return dict(metrics.means()), judged


def _main_pass(state: State, batch: Batch, last: bool) -> Losses:
    """The main model's pass over a micro-batch; the discriminator's parameters are frozen meanwhile."""
    made: list[Losses] = []
    judge = None if state.discriminator is None else state.discriminator.module

    def compute(model: nn.Module) -> Tensor:
        with autocast(state.settings, state.device):
            made.append(state.task.losses(model, batch, state.step, judge))
        return _checked(state.task, made[0])

    with frozen(judge):
        state.engine.main(compute, last)
    return made[0]


@contextmanager
def evaluating(model: nn.Module, ema: EMA | None, settings: TrainSettings, device: torch.device) -> Iterator[None]:
    """The model as it is evaluated: weights of `settings.export`, evaluation mode, no gradients, the run's precision."""
    averaged = ema.applied(model) if ema is not None and settings.export == "ema" else nullcontext()
    model.eval()
    try:
        with torch.no_grad(), averaged, autocast(settings, device):
            yield
    finally:
        model.train()


def due(every: int, done: int, steps: int) -> bool:
    """Whether something that happens every so many steps, and at the end, happens after `done` steps."""
    return done == steps or (every > 0 and done % every == 0)


def autocast(settings: TrainSettings, device: torch.device) -> torch.autocast:
    """Forward passes in bf16 where the settings say so; parameters stay fp32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=settings.precision == "bf16")


def _checked(task: Task, losses: Losses) -> Tensor:
    if losses.total.dtype != torch.float32:
        raise TypeError(f"the loss of the task {task.name} is {losses.total.dtype}: compute losses in float32")
    return losses.total
