"""The discriminator beside the main model's engine: plain data parallelism, its own AdamW."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipelines.runtime.training.checkpoint import Targets
from pipelines.runtime.training.engine import moment_targets, moments
from sar3d.training.settings import TrainSettings
from sar3d.training.step import optimizer, set_rates
from sar3d.training.task import Task


class DiscriminatorEngine:
    """A discriminator whose gradients are averaged over the workers at a step's last micro-batch.

    It stays outside DeepSpeed, of which two engines in one process do not get on under ZeRO 2.
    """

    def __init__(self, task: Task, module: nn.Module, settings: TrainSettings, accumulation: int) -> None:
        self.module = module
        self.optimizer: torch.optim.AdamW = optimizer(task.discriminator_groups(module), settings.optimizer)
        self.targets: Targets = moment_targets(self.optimizer, module)
        """Where a loaded state of the optimizer goes."""
        device = next(module.parameters()).device
        self.parallel = DistributedDataParallel(module, device_ids=[device] if device.type == "cuda" else None)
        self._accumulation = accumulation

    def context(self, last: bool) -> AbstractContextManager[None]:
        """Around the passes of a micro-batch."""
        return nullcontext() if last else self.parallel.no_sync()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of one micro-batch's loss."""
        (loss / self._accumulation).backward()

    def step(self, factor: float) -> Tensor:
        """Take the optimizer's step at `factor` times the groups' rates; the gradient's norm."""
        norm = nn.utils.get_total_norm([p.grad for p in self.module.parameters() if p.grad is not None])
        set_rates(self.optimizer, factor)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """The optimizer's state, `<parameter>/<moment>`; the same on all workers."""
        return moments(self.optimizer, self.module)
