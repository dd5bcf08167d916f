"""How workers, wherever they are, tell the driver what is to be logged, and learn that they shall stop.

Only the driver writes to MLflow: the default store is a SQLite file, which wants one writer on one machine. Rank 0 hands
its entries to a small Ray actor beside the driver; the driver takes them from there into the tracker's spool.
"""

import asyncio
import contextlib
import queue
import threading
import time
from typing import Any

from pipelines.runtime.mlflow_run import Entry
from pipelines.runtime.output import Output


class EventQueue:
    """The actor between workers and driver. It dies with the driver, and workers that miss it give up."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._taken = 0
        """Entries that the driver has put into its spool."""
        self._stop = False
        self._heard = time.monotonic()
        self._news, self._settled = asyncio.Condition(), asyncio.Condition()

    async def exchange(self, entries: list[Entry]) -> bool:
        """Leave entries; says whether training shall stop."""
        self._heard = time.monotonic()
        if entries:
            async with self._news:
                self._entries += entries
                self._news.notify_all()
        return self._stop

    async def settle(self) -> None:
        """Return when the driver has everything that was left until now."""
        async with self._settled:
            until = self._taken + len(self._entries)
            await self._settled.wait_for(lambda: self._taken >= until)

    async def collect(self, taken: int, patience: float) -> tuple[list[Entry], float]:
        """For the driver: entries from number `taken` on, and the seconds since a worker was last heard of.

        What comes before that number is forgotten. Waits up to `patience` seconds for the first entry.
        """
        async with self._settled:
            del self._entries[: taken - self._taken]
            self._taken = taken
            self._settled.notify_all()
        async with self._news:
            if not self._entries and patience:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), patience)
        return list(self._entries), time.monotonic() - self._heard

    async def note(self, text: str) -> None:
        """Have the driver say something."""
        self._entries.append({"do": "say", "text": text})

    async def stop(self) -> None:
        self._stop = True


class Reporter:
    """The worker loop's hooks (see `loop.Hooks`), on one worker.

    A thread carries entries to the event queue and asks it whether to stop, so that no step waits for the network.
    """

    EVERY = 0.5

    def __init__(self, events: Any, output: Output, rank: int) -> None:
        self._events, self._output, self._rank = events, output, rank
        self._queue: queue.Queue[Entry | threading.Event] = queue.Queue()
        self._stop, self._ended = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._carry, name="report", daemon=True)
        self._thread.start()

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Log metrics of a step; of rank 0 only."""
        if self._rank == 0:
            self._put({"do": "metrics", "step": step, "values": metrics})

    def artifact(self, name: str, data: bytes, step: int) -> None:
        """Keep a file with the output under `artifacts/step-<step>/`, and log it; of rank 0 only."""
        if self._rank == 0:
            name = f"artifacts/step-{step:06d}/{name}"
            self._output.store.put(name, data)
            self._put({"do": "artifact", "name": name})

    def committing(self, step: int) -> None:
        """Return when what was logged is safe with the driver: after a commit, no run would log it again."""
        if self._rank == 0:
            self.settle()

    def committed(self, step: int, name: str) -> None:
        """Have the driver remember that there is a checkpoint; of rank 0 only.

        Nothing is reported to Ray Train, which would make all workers wait for its next health check: it keeps no
        checkpoint of ours, and restarts need none.
        """
        if self._rank == 0:
            self._put({"do": "commit", "step": step})

    def should_stop(self) -> bool:
        """Whether to commit a checkpoint and stop. Raises if the driver has gone."""
        self._check()
        return self._stop.is_set()

    def settle(self) -> None:
        carried = threading.Event()
        self._put(carried)
        while not carried.wait(0.1):
            self._check()
        self._check()

    def close(self) -> None:
        """Deliver everything, then end the thread."""
        try:
            if self._error is None:
                self.settle()
        finally:
            self._ended.set()
            self._thread.join()

    def _put(self, item: Entry | threading.Event) -> None:
        self._check()
        self._queue.put(item if isinstance(item, threading.Event) else {"time": int(time.time() * 1000), **item})

    def _check(self) -> None:
        if self._error is not None:
            raise RuntimeError("the driver of this training has gone") from self._error

    def _carry(self) -> None:
        import ray

        asked = 0.0
        while not self._ended.is_set():
            items = self._gather()
            entries = [item for item in items if isinstance(item, dict)]
            try:
                if entries or time.monotonic() - asked >= self.EVERY:
                    asked = time.monotonic()
                    if ray.get(self._events.exchange.remote(entries)):
                        self._stop.set()
                waiting = [item for item in items if isinstance(item, threading.Event)]
                if waiting:
                    ray.get(self._events.settle.remote())
            except Exception as error:  # the loop raises it at its next step
                self._error = error
                return
            for event in waiting:
                event.set()

    def _gather(self) -> list[Entry | threading.Event]:
        """What is queued; waits a moment for the first."""
        items = []
        try:
            items.append(self._queue.get(timeout=self.EVERY / 4))
            while True:
                items.append(self._queue.get_nowait())
        except queue.Empty:
            return items
