"""The main model under ZeRO 3: every worker holds a part of each parameter, and modules gather theirs when they run."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines.runtime.training.checkpoint import Target, Targets
from pipelines.runtime.training.engine import MOMENTS, Engine, empty_state, named_state, places
from sar3d.errors import UserError
from sar3d.training.settings import TrainSettings
from sar3d.training.task import Task


class SplitEngine(Engine):
    """An `Engine` whose workers each hold a part of the parameters, of their gradients and of their moments.

    A parameter is whole in the forward pass of the module that owns it, and empty elsewhere.

    Raises:
        UserError: the task reads or changes its parameters elsewhere.
    """

    def __init__(self, task: Task, model: nn.Module, settings: TrainSettings, accumulation: int, micro: int) -> None:
        if not task.split_parameters:
            raise UserError(
                f"{task.name} cannot be trained with ZeRO 3, which splits the parameters: choose zero=0, 1 or 2"
            )
        if settings.ema is not None:
            raise UserError(
                f"{task.name} cannot be trained with ZeRO 3 and a moving average of the weights, which are split: set "
                "ema=null, or choose zero=0, 1 or 2"
            )
        self._changed = False
        super().__init__(task, model, settings, accumulation, micro)

    def _zero_config(self, device: torch.device) -> dict[str, Any]:
        on_gpu = device.type == "cuda"
        return {
            "stage": 3,
            "overlap_comm": on_gpu,
            "contiguous_gradients": True,
            "stage3_module_granularity_threshold": 0,
        }

    def refresh(self) -> None:
        """Take over loaded weights. A task with split parameters changes none in place."""
        if self._changed:
            self._deepspeed.optimizer.refresh_fp32_params()
            self._changed = False

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        from deepspeed.runtime.zero.partition_parameters import GatheredParameters

        for name, tensor in named_state(self.model).items():
            if isinstance(tensor, nn.Parameter):
                with GatheredParameters([tensor]):
                    yield name, tensor.detach()
            else:
                yield name, tensor

    def weight_targets(self) -> Targets:
        found: Targets = {}
        for name, tensor in named_state(self.model).items():
            if isinstance(tensor, nn.Parameter):
                found[name] = Target(_shape(tensor), partial(self._put, tensor))
            else:
                found |= places({name: tensor})
        return found

    def state(self) -> Iterator[tuple[str, Tensor]]:
        from deepspeed.utils import safe_get_full_optimizer_state

        step = self._steps()[0]
        for parameter, name in self._names.items():
            if parameter.requires_grad:
                yield f"{name}/step", step
                for key in MOMENTS:
                    yield f"{name}/{key}", safe_get_full_optimizer_state(parameter, key)

    def _moment_targets(self) -> Targets:
        for flat in self._deepspeed.optimizer.fp32_partitioned_groups_flat:
            self._inner.state[flat] = empty_state(flat)
        found: Targets = {}
        for parameter, name in self._names.items():
            if parameter.requires_grad:
                found[f"{name}/step"] = Target(torch.Size(()), self._put_step)
                for key in MOMENTS:
                    found[f"{name}/{key}"] = Target(_shape(parameter), partial(self._put_moment, parameter, key))
        return found

    def _steps(self) -> list[Tensor]:
        """The counts of steps; all are equal."""
        return [self._inner.state[flat]["step"] for flat in self._deepspeed.optimizer.fp32_partitioned_groups_flat]

    def _put(self, parameter: Any, value: Tensor) -> None:
        if parameter.ds_status.name == "AVAILABLE":  # small parameters stay whole once they have been gathered
            parameter.partition()
        parameter.ds_tensor.data.copy_(_own_part(parameter, value))
        self._changed = True

    def _put_step(self, value: Tensor) -> None:
        for step in self._steps():
            step.copy_(value)

    def _put_moment(self, parameter: Any, key: str, value: Tensor) -> None:
        from deepspeed.utils import safe_set_local_optimizer_state

        safe_set_local_optimizer_state(parameter, _own_part(parameter, value), key)


def _shape(parameter: Any) -> torch.Size:
    return torch.Size(parameter.ds_shape)


def _own_part(parameter: Any, value: Tensor) -> Tensor:
    """This worker's part of a whole tensor: equal runs of its numbers, the last ones filled up with zeros."""
    part = parameter.ds_tensor.numel()
    world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    flat = value.to(parameter.ds_tensor.device, parameter.ds_tensor.dtype).flatten()
    return F.pad(flat, (0, part * world - flat.numel())).narrow(0, part * rank, part)
