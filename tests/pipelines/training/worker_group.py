"""Training processes for tests: a process group over gloo without Ray, forked from one server that has all imports."""

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

_PRELOAD = [
    "torch._dynamo",
    "deepspeed",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "pipelines.runtime.training.loop",
    "toy_task",
]


@dataclass
class Recorder:
    """The loop's hooks, kept in memory. Asks to stop before the step after `stop_after`."""

    stop_after: int | None = None
    logs: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    artifacts: list[tuple[str, bytes, int]] = field(default_factory=list)
    commits: list[tuple[int, str]] = field(default_factory=list)
    safe: list[int] = field(default_factory=list)
    asked: int = 0

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self.logs.append((step, metrics))

    def artifact(self, name: str, data: bytes, step: int) -> None:
        self.artifacts.append((name, data, step))

    def committing(self, step: int) -> None:
        self.safe.append(step)

    def committed(self, step: int, name: str) -> None:
        assert self.safe[-1] == step
        self.commits.append((step, name))

    def should_stop(self) -> bool:
        self.asked += 1
        return self.stop_after is not None and self.asked > self.stop_after

    def series(self, name: str) -> list[tuple[int, float]]:
        return [(step, metrics[name]) for step, metrics in self.logs if name in metrics]


def together(world: int, function: Callable[..., Any], *arguments: Any, timeout: float = 120.0) -> list[Any]:
    """`function(*arguments)` in `world` processes of one group; results by rank. Raises what rank 0 raised."""
    os.environ.update(DS_ACCELERATOR="cpu", OMP_NUM_THREADS="1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    with tempfile.TemporaryDirectory() as folder:
        answers = context.SimpleQueue()
        meeting = str(Path(folder, "store"))
        processes = [
            context.Process(target=_member, args=(rank, world, meeting, answers, function, arguments), daemon=True)
            for rank in range(world)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(timeout)
        results = {}
        while not answers.empty():
            rank, result = answers.get()
            results[rank] = result
        for process in processes:
            if process.is_alive():
                process.kill()
        for rank in range(world):
            if isinstance(results.get(rank), BaseException):
                raise results[rank]
        assert len(results) == world, f"exit codes {[p.exitcode for p in processes]}"
        return [results[rank] for rank in range(world)]


def _member(
    rank: int, world: int, meeting: str, answers: Any, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank))
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    try:
        answers.put((rank, function(*arguments)))
    except BaseException as error:
        answers.put((rank, error))
    finally:
        dist.destroy_process_group()
