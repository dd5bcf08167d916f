"""The main model under DeepSpeed with fp32 parameters; its weights and its optimizer's state by name.

`Engine` is ZeRO 0, 1 and 2; `pipelines.runtime.training.split` has ZeRO 3, which splits the parameters too.
"""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.runtime.training.checkpoint import Target, Targets
from sar3d.training.settings import TrainSettings
from sar3d.training.step import Compute, optimizer, set_rates
from sar3d.training.task import Task

MOMENTS = ("exp_avg", "exp_avg_sq")
_BUCKET = 50_000_000  # elements (200 MB) that are reduced at once


class _Program(nn.Module):
    """The model with a forward pass that is whatever the caller computes.

    DeepSpeed prepares each backward pass in hooks on what its module's forward returns, so the loss must come from one;
    tasks may call any part of their model.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, compute: Compute) -> Tensor:
        return compute(self.model)


class Engine:
    """A model, its AdamW and the exchange of gradients."""

    def __init__(self, task: Task, model: nn.Module, settings: TrainSettings, accumulation: int, micro: int) -> None:
        self.model, self.zero = model, settings.zero
        self._clip = settings.optimizer.clip
        self._names = {parameter: name for name, parameter in model.named_parameters()}
        device = next(model.parameters()).device
        deepspeed = _import_deepspeed(device)
        config: dict[str, Any] = {
            "train_micro_batch_size_per_gpu": micro,
            "gradient_accumulation_steps": accumulation,
            "steps_per_print": sys.maxsize,
            # The other stages clip here; ZeRO 0 is plain data parallelism, and its norm is wanted for the log.
            "gradient_clipping": 0.0 if self.zero == 0 or self._clip is None else self._clip,
            "zero_optimization": self._zero_config(device),
        }
        self._deepspeed, *_ = deepspeed.initialize(
            model=_Program(model),
            optimizer=optimizer(task.parameter_groups(model), settings.optimizer),
            config=config,
        )
        self._places = self._moment_targets()

    def _zero_config(self, device: torch.device) -> dict[str, Any]:
        return {
            "stage": self.zero,
            "reduce_bucket_size": _BUCKET,
            "allgather_bucket_size": _BUCKET,
            "overlap_comm": device.type == "cuda",
        }

    def main(self, compute: Compute, last: bool) -> None:
        """Forward and backward pass of one micro-batch; workers exchange gradients at the last one (ZeRO 2: at each)."""
        self._deepspeed.set_gradient_accumulation_boundary(last)
        self._deepspeed.backward(self._deepspeed(compute))

    def step(self, factor: float) -> Tensor | float:
        """Take the optimizer's step at `factor` times the groups' rates; the gradient's norm before clipping."""
        set_rates(self._deepspeed.optimizer, factor)
        if self.zero:
            self._deepspeed.step()
            norm: Tensor | float = self._deepspeed.get_global_grad_norm()
            return norm
        parameters = [p for group in self._deepspeed.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, float("inf") if self._clip is None else self._clip)
        self._deepspeed.step()
        return norm

    def rate(self) -> float:
        """Learning rate of the first group."""
        return float(self._deepspeed.optimizer.param_groups[0]["lr"])

    def refresh(self) -> None:
        """Take over parameters that were changed in place: ZeRO 1 and 2 step from copies of their own."""
        if self.zero:
            self._deepspeed.optimizer.refresh_fp32_params()

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Whole parameters and buffers by name. All workers must go through it together."""
        yield from named_state(self.model).items()

    def weight_targets(self) -> Targets:
        """Where loaded weights go, under the names that `weights` gives; call `refresh` afterwards."""
        return places(named_state(self.model))

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Whole tensors of the optimizer's state, `<parameter>/<moment>`. All workers must go through it together."""
        if self.zero == 0:
            yield from moments(self._deepspeed.optimizer, self.model)
            return
        from deepspeed.utils import safe_get_full_optimizer_state

        for flat, parameters in self._partitions():
            for parameter in parameters:
                yield f"{self._names[parameter]}/step", self._inner.state[flat]["step"]
                for key in MOMENTS:
                    yield f"{self._names[parameter]}/{key}", safe_get_full_optimizer_state(parameter, key)

    def targets(self) -> Targets:
        """Where a loaded state goes, under the names that `state` gives; call `refresh` afterwards."""
        return self._places

    def _moment_targets(self) -> Targets:
        """Where the moments go, which are created here."""
        if self.zero == 0:
            return moment_targets(self._deepspeed.optimizer, self.model)
        from deepspeed.utils import safe_set_full_optimizer_state

        partitions = list(self._partitions())
        for flat, _ in partitions:
            self._inner.state[flat] = empty_state(flat)
        self._deepspeed.optimizer._lazy_init_hp_params_optimizer_state()
        found: Targets = {}
        for flat, parameters in partitions:
            for parameter in parameters:
                name = self._names[parameter]
                found[f"{name}/step"] = Target(torch.Size(()), self._inner.state[flat]["step"].copy_)
                for key in MOMENTS:
                    put = partial(safe_set_full_optimizer_state, parameter, optim_state_key=key)
                    found[f"{name}/{key}"] = Target(parameter.shape, put)
        return found

    @property
    def _inner(self) -> torch.optim.Optimizer:
        inner: torch.optim.Optimizer = self._deepspeed.optimizer.optimizer
        return inner

    def _partitions(self) -> Iterator[tuple[Tensor, list[nn.Parameter]]]:
        """This worker's flat part of each parameter group, and the group's parameters."""
        zero = self._deepspeed.optimizer
        return zip(zero.single_partition_of_fp32_groups, zero.bit16_groups, strict=True)


def named_state(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers, each once."""
    seen: dict[int, str] = {}
    state: dict[str, Tensor] = module.state_dict(keep_vars=True)
    return {name: value for name, value in state.items() if seen.setdefault(id(value), name) == name}


def places(tensors: dict[str, Tensor]) -> Targets:
    """Targets that copy into these tensors."""
    return {name: Target(tensor.shape, tensor.detach().copy_) for name, tensor in tensors.items()}


def moments(optimizer: torch.optim.Optimizer, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """An AdamW's state as `<parameter>/<moment>`."""
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            yield f"{name}/{key}", value


def moment_targets(optimizer: torch.optim.Optimizer, model: nn.Module) -> Targets:
    """Where a loaded AdamW state goes. It is created here, at zero, so that a checkpoint before the first step has it."""
    mine = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    found: Targets = {}
    for name, parameter in model.named_parameters():
        if parameter in mine:
            state = optimizer.state[parameter] = empty_state(parameter)
            found |= {f"{name}/{key}": Target(value.shape, value.copy_) for key, value in state.items()}
    return found


def empty_state(parameter: Tensor) -> dict[str, Tensor]:
    """The state of AdamW before its first step."""
    step = torch.zeros((), dtype=torch.float32, device=parameter.device)
    return {"step": step} | {key: torch.zeros_like(parameter, requires_grad=False) for key in MOMENTS}


def _import_deepspeed(device: torch.device) -> Any:
    """DeepSpeed, told which kind of device to use, without its log and without its compiled CPU communication.

    That operator serves inference only, yet it would be compiled at every worker's first start (a minute), and a
    machine without a compiler could not train.
    """
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("LOCAL_RANK", "0")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    # DeepSpeed calls what newer torch names otherwise.
    warnings.filterwarnings("ignore", message="`torch.distributed.*is deprecated", category=FutureWarning)
    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # type: ignore[attr-defined]
    return deepspeed
