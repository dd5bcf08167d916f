"""Work done ahead of its use, in threads and in order."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
U = TypeVar("U")


def mapped(work: Callable[[T], U], items: Iterable[T], threads: int) -> Iterator[U]:
    """`work` of each item, in order; `threads` at once, at most twice as many ahead; with 0, here and when asked."""
    if not threads:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="ahead") as pool:
        flying: deque[Future[U]] = deque()
        for item in items:
            flying.append(pool.submit(work, item))
            if len(flying) > 2 * threads:
                yield flying.popleft().result()
        while flying:
            yield flying.popleft().result()


@dataclass(frozen=True)
class _Made(Generic[T]):
    item: T


def prefetched(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    """The same items, made by a thread of their own up to `depth` ahead. What `items` raises is raised here.

    With a depth of 0 there is no thread. Close the generator to end the thread.
    """
    if not depth:
        yield from items
        return
    made: queue.Queue[_Made[T] | BaseException | None] = queue.Queue(depth)
    stop = threading.Event()

    def put(entry: _Made[T] | BaseException | None) -> None:
        while not stop.is_set():
            try:
                made.put(entry, timeout=0.2)
                return
            except queue.Full:
                continue

    def run() -> None:
        try:
            for item in items:
                put(_Made(item))
                if stop.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=run, name="prefetch", daemon=True)
    thread.start()
    try:
        while (entry := made.get()) is not None:
            if isinstance(entry, BaseException):
                raise entry
            yield entry.item
    finally:
        stop.set()
        thread.join()
