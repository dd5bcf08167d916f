"""Work done ahead of its use, in threads and in order, and many things' inputs sent through a model in batches."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
U = TypeVar("U")
K = TypeVar("K")
V = TypeVar("V")


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


def prefetched(items: Iterable[T], depth: int) -> Iterator[T]:
    """The same items, made by a thread of their own up to `depth` ahead. What `items` raises is raised here.

    With a depth of 0 there is no thread.
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


def in_batches(
    loaded: Iterable[tuple[K, list[T]]],
    size: int,
    stack: Callable[[list[T]], U],
    compute: Callable[[U], Sequence[V]],
    depth: int,
) -> Iterator[tuple[K, list[V]]]:
    """Each key with what `compute` makes of its inputs, in order.

    `compute` gets stacks of `size` inputs and nothing else (the last one is filled up with repetitions), so that what
    it makes of an input does not depend on how many others there are. Inputs are loaded and stacked in a thread, `depth`
    batches ahead; `compute` runs in the caller's.
    """
    waiting: deque[tuple[K, int, list[V]]] = deque()
    for batch, begun in prefetched(_batches(loaded, size, stack), depth):
        waiting += [(key, count, []) for key, count in begun]
        results = deque(compute(batch) if batch is not None else ())
        while waiting:
            key, count, found = waiting[0]
            while results and len(found) < count:
                found.append(results.popleft())
            if len(found) < count:
                break
            yield key, found
            waiting.popleft()


def _batches(
    loaded: Iterable[tuple[K, list[T]]], size: int, stack: Callable[[list[T]], U]
) -> Iterator[tuple[U | None, list[tuple[K, int]]]]:
    """Stacks, each with the keys that were met since the last one, and how many inputs those have."""
    begun: list[tuple[K, int]] = []
    held: list[T] = []
    for key, inputs in loaded:
        begun.append((key, len(inputs)))
        held += inputs
        while len(held) >= size:
            yield stack(held[:size]), begun
            held, begun = held[size:], []
    if held:
        yield stack(held + [held[-1]] * (size - len(held))), begun
    elif begun:
        yield None, begun
