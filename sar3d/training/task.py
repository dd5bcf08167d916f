"""What a training loop asks of a model: the task, the data and what they exchange."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sar3d.data.loading.order import Order
from sar3d.seeds import SampleKey
from sar3d.training.settings import TrainSettings

Batch = Any
"""What `Task.collate` returns: tensors in dataclasses, dicts, lists or tuples, on the CPU; see `move`."""


@dataclass
class Losses:
    """What one forward pass gives."""

    total: Tensor
    """() float32: what is minimized."""
    metrics: dict[str, Tensor]
    """Name → () detached; logged as the mean over the global batch."""
    extras: Any = None
    """What the discriminator needs of the main model's pass (renderings, detached)."""


class Dataset(Protocol):
    """Training data, picklable."""

    @property
    def sizes(self) -> Sequence[int] | NDArray[np.int64]:
        """Samples in each block (row group); they fix the order, see `sar3d.data.loading.order.Order`."""
        ...

    def batches(
        self, order: Order, start: int, rank: int, world: int, prefetch: int
    ) -> Iterator[tuple[int, list[tuple[SampleKey, Any]]]]:
        """From step `start` on, endlessly: the step and this rank's equal, contiguous part of its global batch."""
        ...


class Sync(Protocol):
    """What a task may ask of the other workers. All must call, in the same order."""

    @property
    def rank(self) -> int: ...

    @property
    def world(self) -> int: ...

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all workers, by rank; shapes must agree."""
        ...

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        """`tensor` in place as worker `source` has it."""
        ...

    def average(self, tensor: Tensor) -> Tensor:
        """`tensor` in place as the mean over workers."""
        ...

    def gather_objects(self, value: Any) -> list[Any]:
        """Any picklable value of all workers, by rank."""
        ...


@dataclass(frozen=True)
class Alone:
    """`Sync` of a single process."""

    rank: int = 0
    world: int = 1

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        return [tensor]

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        return tensor

    def average(self, tensor: Tensor) -> Tensor:
        return tensor

    def gather_objects(self, value: Any) -> list[Any]:
        return [value]


@dataclass(frozen=True)
class Moment:
    """Where training stands when a task is called before or after a step."""

    step: int
    """The step that is about to run, or has just run."""
    generator: torch.Generator
    """CPU generator of (seed, step): the same on every worker."""
    sync: Sync
    device: torch.device
    host_batches: Sequence[Batch] = field(repr=False, default=())
    replaced: list[nn.Parameter] = field(repr=False, default_factory=list)
    """Parameters that the task has given new values, which have nothing to do with their old ones (new codes). Add them
    here: their moving averages begin anew."""

    def batches(self) -> Iterator[Batch]:
        """This worker's micro-batches of the step, one at a time, on the device.

        The workers' batches one after another, by rank, are the global batch in its order.
        """
        return (move(batch, self.device) for batch in self.host_batches)


class Task(Protocol):
    """A model and how to train it; picklable. Subclass it and override what the model needs.

    Randomness comes from the sample keys and the moments only, so that a run does not depend on the number of workers.
    """

    name: str
    split_parameters: bool = False
    """Whether its weights are read in the forward passes of their own modules only, so that ZeRO 3 may split them."""
    watched: tuple[str, ...] = ()
    """Metrics beside the loss and the gradient's norm whose rise shows that training has diverged."""
    own_start: bool = False
    """Whether `build` already gives the weights of the model that training starts from (`init_from`)."""

    def build(self) -> nn.Module:
        """The main model with fp32 parameters; the loop seeds the global generator before."""
        ...

    def build_discriminator(self) -> nn.Module | None:
        """A discriminator, if there is one. It should hold no batch statistics, which differ with the micro-batch."""
        return None

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """AdamW groups: `params`, `lr`, `weight_decay`, optionally `betas` and `eps`."""
        ...

    def discriminator_groups(self, discriminator: nn.Module) -> list[dict[str, Any]]:
        """The same for the discriminator."""
        raise NotImplementedError(f"the task {self.name} has no discriminator")

    def collate(self, samples: list[Any], step: int, keys: list[SampleKey]) -> Batch:
        """One micro-batch, on the CPU; called in a background thread."""
        ...

    def losses(self, model: nn.Module, batch: Batch, step: int, discriminator: nn.Module | None = None) -> Losses:
        """The main model's loss: means over the micro-batch. The discriminator's parameters are frozen meanwhile."""
        ...

    def discriminator_losses(self, discriminator: nn.Module, batch: Batch, losses: Losses, step: int) -> Losses | None:
        """The discriminator's loss given the main model's pass; None while it is not trained (the same for all workers)."""
        return None

    def before_step(self, model: nn.Module, moment: Moment) -> dict[str, float]:
        """Changes of the weights that need data (first codes, dead codes), in place and the same on every worker.

        Returns metrics. Step 0 comes once in a run, however often it is resumed.
        """
        return {}

    def after_step(self, model: nn.Module, moment: Moment) -> Mapping[str, Tensor | float]:
        """Changes after the optimizer's, in place and the same on every worker; statistics averaged over workers.

        Returns metrics: numbers, or () tensors on the device, which nothing waits for until they are logged.
        """
        return {}

    def speed(
        self, samples_per_second: float, settings: TrainSettings, device: torch.device, workers: int
    ) -> dict[str, float]:
        """What a speed over all workers means for this model (tokens per second, utilization); logged with it."""
        return {}

    def evaluate(self, model: nn.Module, held_out: Any, sync: Sync) -> dict[str, float]:
        """Metrics on held-out data; the same result on every worker, see `worker_slice`."""
        return {}

    def draw(self, model: nn.Module, held_out: Any) -> dict[str, bytes]:
        """Pictures as PNG by name; called on one worker."""
        return {}

    def export(self, model: nn.Module, folder: Path) -> None:
        """Write the model into an empty folder."""
        ...


def worker_slice(count: int, sync: Sync) -> range:
    """This worker's contiguous part of `count` items; in order of rank the parts are all of them."""
    return range(count * sync.rank // sync.world, count * (sync.rank + 1) // sync.world)


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same structure of dataclasses, dicts, lists and tuples with every tensor changed; the rest stays as it is."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: map_tensors(item, change) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(item, change) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(item, change) for item in value)
    if hasattr(value, "__dataclass_fields__") and not isinstance(value, SampleKey):
        changed = {name: map_tensors(getattr(value, name), change) for name in value.__dataclass_fields__}
        return type(value)(**changed)
    return value


def move(batch: Batch, device: torch.device | str) -> Batch:
    """The batch on `device`; does not wait for copies from pinned memory."""
    return map_tensors(batch, lambda tensor: tensor.to(device, non_blocking=True))
