"""The engines of the plain trainer: one process, torch alone."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from sar3d.training.settings import TrainSettings
from sar3d.training.step import Compute, optimizer, set_rates
from sar3d.training.task import Task


class PlainEngine:
    """The main model's gradients, clipping and AdamW."""

    def __init__(self, task: Task, model: nn.Module, settings: TrainSettings, accumulation: int) -> None:
        self.model = model
        self.optimizer: torch.optim.AdamW = optimizer(task.parameter_groups(model), settings.optimizer)
        self._clip, self._accumulation = settings.optimizer.clip, accumulation

    def main(self, compute: Compute, last: bool) -> None:
        (compute(self.model) / self._accumulation).backward()

    def step(self, factor: float) -> Tensor:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for parameter in parameters:
            if parameter.grad is None:  # as DeepSpeed does; it decays what a step does not use
                parameter.grad = torch.zeros_like(parameter)
        norm = nn.utils.clip_grad_norm_(parameters, float("inf") if self._clip is None else self._clip)
        _apply(self.optimizer, factor)
        return norm

    def rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def refresh(self) -> None:
        """Nothing: the optimizer steps from the parameters themselves."""


class PlainDiscriminatorEngine:
    """The discriminator's gradients and AdamW."""

    def __init__(self, task: Task, module: nn.Module, settings: TrainSettings, accumulation: int) -> None:
        self.module = self.parallel = module
        self.optimizer: torch.optim.AdamW = optimizer(task.discriminator_groups(module), settings.optimizer)
        self._accumulation = accumulation

    def context(self, last: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        (loss / self._accumulation).backward()

    def step(self, factor: float) -> Tensor:
        norm = nn.utils.get_total_norm([p.grad for p in self.module.parameters() if p.grad is not None])
        _apply(self.optimizer, factor)
        return norm


def _apply(optimizer: torch.optim.AdamW, factor: float) -> None:
    set_rates(optimizer, factor)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
