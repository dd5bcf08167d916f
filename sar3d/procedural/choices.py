"""Which family, style, colors and pattern each object of the world has: whole arrays of objects at once.

The families come in turn, and every family's objects go through the twelve main colors in turn, so that any stretch of
the world holds its combinations evenly. Everything else is drawn from the object's key.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sar3d.procedural.draws import Words, below, mix, mix_all, word_of
from sar3d.procedural.families import FAMILIES
from sar3d.procedural.paint import PALETTE, PATTERNS, contrasting
from sar3d.procedural.recipe import PLAIN, Family, Recipe

RECIPE_VERSION = 2
"""Raised whenever an existing recipe draws something else, so that uids change with the objects."""

COLORS = tuple(PALETTE)
PATTERN_NAMES = (PLAIN, *PATTERNS)
STYLES = tuple(tuple(family.styles) for family in FAMILIES)
MOST_STYLES = max(len(styles) for styles in STYLES)

_STYLE_COUNTS = np.array([len(styles) for styles in STYLES])
_ACCENTS = [[COLORS.index(color) for color in contrasting(main)] for main in COLORS]
_ACCENT_COUNTS = np.array([len(accents) for accents in _ACCENTS])
_ACCENT_TABLE = np.array([accents + [0] * (len(COLORS) - len(accents)) for accents in _ACCENTS])
_PATTERN_TABLE = np.array([0, 0, *range(1, len(PATTERN_NAMES))])
"""Two parts of the objects are plain for one of each pattern."""


@dataclass(frozen=True)
class Choices:
    """Of N objects; all but `keys` are places in `FAMILIES`, in the family's styles, in `COLORS`, `PATTERN_NAMES`."""

    keys: Words
    family: NDArray[np.int64]
    style: NDArray[np.int64]
    main: NDArray[np.int64]
    accent: NDArray[np.int64]
    pattern: NDArray[np.int64]


def keys_of(seed: int, indices: NDArray[np.int64]) -> Words:
    """(N,) 64 bits for each object, no two alike in one world."""
    return mix_all(mix_all(indices.astype(np.uint64) ^ np.uint64(mix(RECIPE_VERSION << 32 | seed))))


def choose(seed: int, indices: NDArray[np.int64]) -> Choices:
    """The choices of the world's objects at `indices` (N,)."""
    keys = keys_of(seed, indices)
    variant, family = np.divmod(indices, len(FAMILIES))
    cycle, turn = np.divmod(variant, len(COLORS))
    start = below(mix_all(cycle.astype(np.uint64) ^ np.uint64(mix(word_of("colors") ^ seed))), "start", len(COLORS))
    main = (start + 7 * family + 5 * turn) % len(COLORS)  # both are coprime to 12
    return Choices(
        keys=keys,
        family=family,
        style=below(keys, "style", _STYLE_COUNTS[family]),
        main=main,
        accent=_ACCENT_TABLE[main, below(keys, "accent", _ACCENT_COUNTS[main])],
        pattern=_PATTERN_TABLE[below(keys, "pattern", len(_PATTERN_TABLE))],
    )


def recipe_of(seed: int, index: int) -> tuple[Family, Recipe]:
    """The recipe of one object, and its family."""
    chosen = choose(seed, np.array([index]))
    place = int(chosen.family[0])
    family, style, key = FAMILIES[place], STYLES[place][int(chosen.style[0])], int(chosen.keys[0])
    recipe = Recipe(
        key=key,
        family=family.name,
        style=style,
        main=COLORS[int(chosen.main[0])],
        accent=COLORS[int(chosen.accent[0])],
        pattern=PATTERN_NAMES[int(chosen.pattern[0])],
        parts=family.parts_of(key, style),
    )
    return family, recipe


def vocabulary() -> dict[str, tuple[str, ...]]:
    """All values of the attributes that every object has, by attribute."""
    return {
        "family": tuple(family.name for family in FAMILIES),
        "main": COLORS,
        "accent": COLORS,
        "pattern": PATTERN_NAMES,
    }
