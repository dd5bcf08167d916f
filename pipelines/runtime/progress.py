"""Counts, rate and remaining time: a live line on a terminal, now and then a line in a log."""

import sys
import time
from datetime import timedelta

from rich.console import Console

_console = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """One line for the person who runs the program."""
    _console.print(text, markup=False, soft_wrap=True)


class Progress:
    """Objects done of `total`; the rate counts this run only, not what was committed before it."""

    def __init__(self, name: str, total: int, say: object = say, every: float = 10.0) -> None:
        self.name, self.total, self.every = name, total, every
        self._say = say
        self._status = _console.status("") if sys.stderr.isatty() else None
        if self._status is not None:
            self._status.start()
        self._first: int | None = None
        self._started = self._spoken = time.monotonic()
        self.rate = 0.0

    def update(self, objects: int, failed: int, rows: int) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = objects
        self.rate = (objects - self._first) / max(now - self._started, 1e-9)
        left = f", {timedelta(seconds=round((self.total - objects) / self.rate))} left" if self.rate else ""
        share = 100 * objects / self.total
        line = f"{self.name}: {objects:,}/{self.total:,} objects ({share:.0f} %), {rows:,} rows, {failed:,} failed"
        line += f", {self.rate:.2f} objects/s{left}"
        if self._status is not None:
            self._status.update(line)
        if now - self._spoken >= self.every or objects == self.total:
            self._spoken = now
            say(line)

    def close(self) -> None:
        if self._status is not None:
            self._status.stop()
