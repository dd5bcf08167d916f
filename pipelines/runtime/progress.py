"""Counts, rate and remaining time: a live line on a terminal, now and then a line in a log."""

import logging
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from rich.console import Console
from rich.markup import escape

from sar3d.working import LOGGER

_console = Console(stderr=True, highlight=False)


def log(text: str) -> None:
    """One line for the person who runs the program."""
    _console.print(text, markup=False, soft_wrap=True)


class WorkProgress(logging.Handler):
    """What the libraries are busy with in the foreground (`sar3d.working`): a live line on a terminal; in a log, after
    `every` seconds without a line, what it is and how long it has been going on.
    """

    def __init__(self, log: Callable[[str], None] = log, every: float = 10.0) -> None:
        super().__init__(logging.DEBUG)
        self._say, self._every = log, every
        self._status = _console.status("") if sys.stderr.isatty() else None
        self._what, self._since = "", time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tell, name="progress", daemon=True)

    def emit(self, record: logging.LogRecord) -> None:
        self._what = record.getMessage()
        if self._status is not None:
            self._status.update(escape(self._what))

    def __enter__(self) -> "WorkProgress":
        working = logging.getLogger(LOGGER)
        working.addHandler(self)
        working.setLevel(logging.DEBUG)
        working.propagate = False
        if self._status is not None:
            self._status.start()
        else:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        working = logging.getLogger(LOGGER)
        working.removeHandler(self)
        working.setLevel(logging.NOTSET)
        working.propagate = True
        self._ended.set()
        if self._status is not None:
            self._status.stop()
        else:
            self._thread.join()

    def _tell(self) -> None:
        while not self._ended.wait(self._every):
            if self._what:
                self._say(f"{self._what}, {time.monotonic() - self._since:.0f} s so far")


class ProgressLine:
    """What is going on, in one line that changes."""

    def __init__(self, log: Callable[[str], None] = log, every: float = 10.0) -> None:
        self._say, self._every = log, every
        self._status = _console.status("") if sys.stderr.isatty() else None
        if self._status is not None:
            self._status.start()
        self.started = self._spoken = time.monotonic()

    def show(self, line: str, last: bool) -> None:
        if self._status is not None:
            self._status.update(line)
        now = time.monotonic()
        if now - self._spoken >= self._every or last:
            self._spoken = now
            self._say(line)

    def close(self) -> None:
        if self._status is not None:
            self._status.stop()


class Progress:
    """Objects done of `total`; the rate counts this run only, not what was committed before it."""

    def __init__(self, name: str, total: int, log: Callable[[str], None] = log, every: float = 10.0) -> None:
        self.name, self.total = name, total
        self._line = ProgressLine(log, every)
        self._first: int | None = None
        self.rate = 0.0

    def update(self, objects: int, failed: int, rows: int) -> None:
        if self._first is None:
            self._first = objects
        self.rate = (objects - self._first) / max(time.monotonic() - self._line.started, 1e-9)
        left = f", {timedelta(seconds=round((self.total - objects) / self.rate))} left" if self.rate else ""
        share = 100 * objects / self.total
        line = f"{self.name}: {objects:,}/{self.total:,} objects ({share:.0f} %), {rows:,} rows, {failed:,} failed"
        self._line.show(f"{line}, {self.rate:.2f} objects/s{left}", last=objects == self.total)

    def close(self) -> None:
        self._line.close()


class StepProgress:
    """Optimizer steps done of `total`, with the loss; a restart goes back, and the rate with it."""

    def __init__(self, name: str, total: int, log: Callable[[str], None] = log, every: float = 10.0) -> None:
        self.name, self.total = name, total
        self._line = ProgressLine(log, every)
        self._seen: tuple[int, float] | None = None
        self._rate = 0.0

    def update(self, step: int, metrics: dict[str, float]) -> None:
        """Show the metrics of a step, if the loss is among them."""
        if "loss" not in metrics:
            return
        now = time.monotonic()
        if self._seen is not None and step > self._seen[0]:
            rate = (step - self._seen[0]) / max(now - self._seen[1], 1e-9)
            self._rate = 0.8 * self._rate + 0.2 * rate if self._rate else rate
        self._seen = (step, now)
        line = f"{self.name}: step {step:,}/{self.total:,}, loss {metrics['loss']:.4g}"
        if "samples_per_second" in metrics:
            line += f", {metrics['samples_per_second']:,.1f} samples/s"
        if "mfu" in metrics:
            line += f", {100 * metrics['mfu']:.0f} % MFU"
        left = f", {timedelta(seconds=round((self.total - step) / self._rate))} left" if self._rate else ""
        self._line.show(line + left, last=step == self.total)

    def close(self) -> None:
        self._line.close()
