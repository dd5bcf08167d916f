"""On what a data stage's workers run a model, and how, so that results repeat."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from sar3d.errors import UserError

if TYPE_CHECKING:
    import torch

Device = Literal["auto", "cpu", "cuda"]


def worker_gpus(device: Device, gpus: float, available: float) -> float:
    """The GPUs that a worker reserves on a cluster that has `available`; `gpus` is what the settings ask for, or 0."""
    if device == "cpu":
        return 0.0
    return gpus or (1.0 if device == "cuda" or available else 0.0)


def begin_worker(gpus: float, cpus: float) -> "torch.device":
    """The device of this process, which takes as many threads as it has reserved CPUs.

    Raises:
        UserError: it has been given a GPU that PyTorch does not see.
    """
    import torch

    if gpus and not torch.cuda.is_available():
        raise UserError("a worker reserved a GPU but its PyTorch finds none: install a CUDA build, or set device=cpu")
    torch.set_num_threads(threads(cpus))
    return torch.device("cuda" if gpus else "cpu")


def threads(cpus: float) -> int:
    """Threads of a worker that has reserved `cpus`."""
    return max(1, int(cpus))


def helpers(device: "torch.device", cpus: float) -> int:
    """Threads that prepare inputs while a model computes: none where both would share a single core."""
    return 0 if device.type == "cpu" and threads(cpus) == 1 else threads(cpus)


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """Full float32 without TF32, and the same kernels every time; the published codes were made so (published.md, data)."""
    import torch

    matmul = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul
