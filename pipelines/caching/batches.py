"""Inputs of many things sent through a model in batches."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from sar3d.prefetch import prefetched

T = TypeVar("T")
U = TypeVar("U")
K = TypeVar("K")
V = TypeVar("V")


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
