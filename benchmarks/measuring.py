"""Time and memory of a piece of work on a CPU or a GPU, for the benchmarks."""

import ctypes
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

Result = TypeVar("Result")


def synchronize(device: torch.device | str) -> None:
    """Wait until a GPU has done what it was told."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(device: torch.device | str, work: Callable[[], object]) -> float:
    """Wall seconds."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def peak_memory(
    device: torch.device | str, work: Callable[[], Result], above_start: bool = True
) -> tuple[Result, float]:
    """What `work` gives, and the megabytes held at most while it ran: the allocator's own record on a GPU, else the
    resident pages every 2 ms.

    Args:
        above_start: count from what was held before. What the allocator keeps for later is given back first.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = work()
        torch.cuda.synchronize(device)
        return result, (torch.cuda.max_memory_allocated(device) - above_start * before) / 1e6
    ctypes.CDLL(None).malloc_trim(0)
    before = highest = resident()
    done = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.002):
            highest = max(highest, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = work()
    finally:
        done.set()
        watcher.join()
    return result, (highest - above_start * before) / 1e6


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
