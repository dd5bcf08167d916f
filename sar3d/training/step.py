"""Forward and backward passes of one step, shared by the plain trainer and the distributed loop."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sar3d.training.ema import EMA
from sar3d.training.seeds import generator, seed_everything
from sar3d.training.settings import OptimiserSettings, TrainSettings
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


def always(last: bool) -> AbstractContextManager[None]:
    """The adversary's context where nothing is synchronised."""
    return nullcontext()


Compute = Callable[[nn.Module], Tensor]
"""The main model → () loss of a micro-batch."""


class Main(Protocol):
    def __call__(self, compute: Compute, last: bool) -> None: ...


@dataclass(frozen=True)
class Passes:
    """How gradients are made; the plain trainer and DeepSpeed differ in this only."""

    main: Main
    """Adds the gradients of a micro-batch's loss to the main model's; the flag marks the step's last micro-batch."""
    adversary: Callable[[Tensor], None]
    """Adds the gradients of a loss to the adversary's."""
    adversary_context: Callable[[bool], AbstractContextManager[None]] = always
    """Entered around the adversary's passes; synchronises its gradients at the last micro-batch."""


def build(task: Task, settings: TrainSettings, device: torch.device) -> tuple[nn.Module, nn.Module | None]:
    """The main model and the adversary in training mode; their weights depend on the seed alone."""
    seed_everything(settings.seed, "build")
    model, adversary = task.build(), task.build_adversary()
    return model.to(device).train(), None if adversary is None else adversary.to(device).train()


def optimiser(groups: list[dict[str, Any]], settings: OptimiserSettings) -> torch.optim.AdamW:
    """AdamW in one kernel per group; every group keeps its peak rate in `initial_lr`."""
    groups = [{**group, "initial_lr": group["lr"]} for group in groups]
    return torch.optim.AdamW(groups, betas=settings.betas, eps=settings.eps, fused=True)


def set_rates(optimiser: Any, factor: float) -> None:
    """Every group's learning rate: its peak rate times `factor`."""
    for group in optimiser.param_groups:
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


def forward_backward(
    task: Task,
    adversary: nn.Module | None,
    batches: Sequence[Batch],
    step: int,
    first: int,
    settings: TrainSettings,
    device: torch.device,
    passes: Passes,
) -> tuple[dict[str, Tensor], bool]:
    """Gradients of a step's micro-batches, in the main model and in the adversary.

    `first` is the position of the first micro-batch among those of the global batch. `adversary` may be wrapped for
    synchronisation; the main model's pass sees what is inside.

    Returns:
        Metrics as () float32 means over the micro-batches, and whether the adversary has gradients.
    """
    metrics, judged = MeanOf(), False
    inner = getattr(adversary, "module", adversary)
    for index, host_batch in enumerate(batches):
        last = index == len(batches) - 1
        seed_everything(settings.seed, "micro-batch", step, first + index)
        batch = move(host_batch, device)
        losses = _main_pass(task, inner, batch, step, settings, device, partial(passes.main, last=last))
        metrics.add(losses.metrics)
        if adversary is None:
            continue
        with passes.adversary_context(last):
            with autocast(settings, device):
                verdict = task.adversary_losses(adversary, batch, losses, step)
            if verdict is not None:
                passes.adversary(_checked(task, verdict))
                metrics.add(verdict.metrics)
                judged = True
    return metrics.means(), judged


def _main_pass(
    task: Task,
    adversary: nn.Module | None,
    batch: Batch,
    step: int,
    settings: TrainSettings,
    device: torch.device,
    run: Callable[[Compute], None],
) -> Losses:
    made: list[Losses] = []

    def compute(model: nn.Module) -> Tensor:
        with autocast(settings, device):
            made.append(task.losses(model, batch, step, adversary))
        return _checked(task, made[0])

    with frozen(adversary):
        run(compute)
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
