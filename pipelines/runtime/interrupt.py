"""SIGTERM and SIGINT as an exception, so that what is done gets committed before the program ends."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from sar3d.errors import UserError


class Interrupted(BaseException):
    """The program was asked to end; `code` is its exit code (128 + the signal's number)."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; run the same command again to go on")
        self.code = 128 + number


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `Interrupted` in the main thread on the first signal; a second one acts as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, frame: FrameType | None) -> None:
        for n, old in before.items():
            signal.signal(n, old)
        raise Interrupted(number)

    for n in before:
        signal.signal(n, handle)
    try:
        yield
    finally:
        for n, old in before.items():
            signal.signal(n, old)


@contextmanager
def unwrapped() -> Iterator[None]:
    """Around calls of Ray in the main thread: what the handler of a signal raises in one of its C callbacks comes out
    as itself.

    Python reports an exception that such a callback returned with as the cause of a `SystemError`.
    """
    try:
        yield
    except SystemError as error:
        if isinstance(error.__cause__, Interrupted | UserError):
            raise error.__cause__ from None
        raise
