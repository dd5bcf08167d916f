"""A few items of many, evenly spaced."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def evenly_spaced(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of the items in their order, evenly spaced, beginning with the first."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]
