"""Random numbers that are functions of a key: integers only, so they are the same on every machine and in NumPy.

SplitMix64's finalizer (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014) mixes the bits.
"""

import zlib

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

_MASK = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15
_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_LAST_SHIFT = 31


def mix(word: int) -> int:
    """64 bits, a bijection of `word`'s lower 64."""
    word = (word + _STEP) & _MASK
    for shift, factor in _ROUNDS:
        word = ((word ^ (word >> shift)) * factor) & _MASK
    return word ^ (word >> _LAST_SHIFT)


def mix_all(words: Words) -> Words:
    """`mix` of each of (N,) words."""
    mixed = words + np.uint64(_STEP)
    for shift, factor in _ROUNDS:
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(_LAST_SHIFT))


def word_of(text: str) -> int:
    """64 bits for a name."""
    return mix(zlib.crc32(text.encode()))


def fraction(key: int, what: str) -> float:
    """A number in [0, 1) for one purpose of one key."""
    return (mix(key ^ word_of(what)) >> 11) / float(1 << 53)


def below(keys: Words, what: str, bounds: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """(N,) whole numbers from 0 to below `bounds` (a number, or one for each key), for one purpose of each key."""
    drawn = mix_all(keys ^ np.uint64(word_of(what))) >> np.uint64(32)
    return (drawn % np.asarray(bounds, np.uint64)).astype(np.int64)
