"""What training processes say to each other, over torch.distributed."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from sar3d.errors import UserError

T = TypeVar("T")


class Workers:
    """`sar3d.training.task.Sync` over the default process group, and a second one for small things on the CPU.

    The second group keeps flags, file lists and metrics off the GPUs, which would have to be waited for.
    """

    def __init__(self) -> None:
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        on_gpu = "nccl" in dist.get_backend()
        self.device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
        self._control = dist.new_group(backend="gloo")

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(self.world)]
        dist.all_gather(parts, tensor.contiguous())
        return parts

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        dist.broadcast(tensor, source)
        return tensor

    def average(self, tensor: Tensor) -> Tensor:
        if self.world > 1:
            dist.all_reduce(tensor)
            tensor /= self.world
        return tensor

    def gather_objects(self, value: Any) -> list[Any]:
        values = [None] * self.world
        dist.all_gather_object(values, value, group=self._control)
        return values

    def first(self, work: Callable[[], T]) -> T:
        """What `work` returns on rank 0, which alone does it; a `UserError` there is raised on all workers."""
        done: T | UserError | None = None
        if self.rank == 0:
            try:
                done = work()
            except UserError as error:
                done = error
        done = self.gather_objects(done)[0]
        if isinstance(done, UserError):
            raise done
        return cast(T, done)

    def means(self, values: list[float]) -> list[float]:
        """The mean of each value over the workers."""
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, group=self._control)
        return (total / self.world).tolist()

    def anyone(self, flag: bool) -> bool:
        """Whether the flag is set on some worker."""
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self._control)
        return bool(flags)

    def close(self) -> None:
        dist.destroy_process_group(self._control)
