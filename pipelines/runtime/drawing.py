"""The drawing process of this worker: kept from one shard to the next, watched, replaced when it ends."""

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sar3d.errors import ObjectError, UserError
from sar3d.isolation import LimitedProcess, Limits

ATTEMPTS = 3
"""Tries at an object whose process was ended by something else than its limits."""

_process: LimitedProcess | None = None
_made_for: tuple[Any, ...] = ()


def _device(gpus: float) -> str:
    """The EGL device of the GPU that Ray has given this task (EGL and CUDA count NVIDIA's GPUs in the same order)."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0]
    return first if gpus and first.isdigit() and "GLCONTEXT_DEVICE_INDEX" not in os.environ else ""


@contextmanager
def drawer(
    seconds: float, memory: int, recycle_after: int, gpus: float
) -> Iterator[Callable[[dict[str, Any]], list[dict[str, Any]]]]:
    """A function from a request (see `sar3d.render.worker.handle`) to the rows of one object.

    It raises `ObjectError` with the number of tries as `attempts`.
    """
    global _process, _made_for
    device = _device(gpus)
    wanted = (seconds, memory, recycle_after, device)
    if _process is None or _made_for != wanted:
        if _process is not None:
            _process.close()
        env = {"GLCONTEXT_DEVICE_INDEX": device} if device else None
        _process = LimitedProcess("sar3d.render.worker:handle", Limits(seconds, memory), recycle_after, env)
        _made_for = wanted
        atexit.register(_process.close)
    process = _process

    def draw(request: dict[str, Any]) -> list[dict[str, Any]]:
        from sar3d.render.worker import rows

        for attempt in range(1, ATTEMPTS + 1):
            try:
                reply, blobs = process.call(request)
                return rows(request, reply, blobs)
            except ObjectError as error:
                if error.kind != "crashed" or attempt == ATTEMPTS:
                    error.attempts = attempt
                    raise
            except UserError:  # it did not even start, which a kill may do once, but not three times
                if attempt == ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    yield draw
