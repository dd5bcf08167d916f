"""Collated micro-batches, made ahead in background threads."""

import queue
import threading
import time
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from torch import Tensor

from sar3d.data.order import Order
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
    ready: queue.Queue[tuple[int, list[Future[Batch]]] | BaseException] = queue.Queue(settings.prefetch)
    ended = threading.Event()

    def collate(part: list[Any], step: int) -> Batch:
        batch = task.collate([sample for _, sample in part], step, [key for key, _ in part])
        return map_tensors(batch, Tensor.pin_memory) if pin else batch

    def put(item: tuple[int, list[Future[Batch]]] | BaseException) -> None:
        while not ended.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def read(pool: ThreadPoolExecutor) -> None:
        try:
            for step, pairs in dataset.batches(order, start, rank, world, settings.prefetch):
                if ended.is_set():
                    return
                parts = [pairs[i : i + micro] for i in range(0, len(pairs), micro)]
                put((step, [pool.submit(collate, part, step) for part in parts]))
            raise RuntimeError("the training data ended; their batches must be endless")
        except BaseException as error:
            put(error)

    with ThreadPoolExecutor(settings.data_threads, thread_name_prefix="collate") as pool:
        reader = threading.Thread(target=read, args=(pool,), name="read", daemon=True)
        reader.start()
        try:
            while True:
                began = time.perf_counter()
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                batches = [future.result() for future in item[1]]
                yield item[0], batches, time.perf_counter() - began
        finally:
            ended.set()
            reader.join()
