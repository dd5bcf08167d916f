"""Collated micro-batches, made ahead in background threads."""

import time
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any

from torch import Tensor

from sar3d.data.loading.order import Order
from sar3d.prefetch import prefetched
from sar3d.training.settings import TrainSettings, local_batch
from sar3d.training.task import Batch, Dataset, Task, map_tensors

Feed = Generator[tuple[int, list[Batch], float], None, None]
"""Step, this worker's micro-batches on the CPU, seconds that were waited for them."""


def feed(
    task: Task, dataset: Dataset, settings: TrainSettings, start: int, rank: int, world: int, pin: bool = False
) -> Feed:
    """From step `start` on, endlessly: this worker's micro-batches of each step.

    Reading and collating run `settings.prefetch` steps ahead. `pin` puts the tensors into page-locked memory. What
    they raise is raised here. Close the generator to end the threads.
    """
    micro = local_batch(settings, world)[1]
    order = Order(dataset.sizes, settings.seed, settings.batch, settings.lanes, settings.window)

    def collate(part: list[Any], step: int) -> Batch:
        batch = task.collate([sample for _, sample in part], step, [key for key, _ in part])
        return map_tensors(batch, Tensor.pin_memory) if pin else batch

    def collated(pool: ThreadPoolExecutor) -> Iterator[tuple[int, list[Future[Batch]]]]:
        for step, pairs in dataset.batches(order, start, rank, world, settings.prefetch):
            parts = [pairs[i : i + micro] for i in range(0, len(pairs), micro)]
            yield step, [pool.submit(collate, part, step) for part in parts]
        raise RuntimeError("the training data ended; their batches must be endless")

    with (
        ThreadPoolExecutor(settings.data_threads, thread_name_prefix="collate") as pool,
        closing(prefetched(collated(pool), settings.prefetch)) as steps,
    ):
        while True:
            began = time.perf_counter()
            step, futures = next(steps)
            batches = [future.result() for future in futures]
            yield step, batches, time.perf_counter() - began
