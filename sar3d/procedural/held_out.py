"""Which combinations of attributes are kept out of every training: a hash of their names decides.

The same combinations are held out whatever the seed, the count and the order of the objects.
"""

import hashlib
import itertools
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from sar3d.errors import UserError
from sar3d.procedural.choices import COLORS, MOST_STYLES, PATTERN_NAMES, STYLES, Choices
from sar3d.procedural.families import FAMILIES

Attribute = Literal["family", "style", "main", "accent", "pattern"]

_NAMES = {"main": COLORS, "accent": COLORS, "pattern": PATTERN_NAMES}


@dataclass(frozen=True)
class HeldOutObjects:
    """Objects that no training reads, by what they are."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    pairs: tuple[Attribute, ...] = ("family", "main")
    """The attributes of which whole combinations are held out; a style counts as its family's."""
    share: float = 0.0
    """Share of these combinations."""
    styles: float = 0.0
    """Share of the styles that are held out whole; every family keeps one."""

    def __post_init__(self) -> None:
        for name in ("share", "styles"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"held_out.{name}={getattr(self, name):g} is wrong: it is a share, from 0 to below 1")
        if not self.pairs or len(set(self.pairs)) < len(self.pairs):
            raise UserError(f"held_out.pairs={list(self.pairs)} is wrong: name attributes, each once")

    @property
    def any(self) -> bool:
        """Whether anything is held out."""
        return self.share > 0 or self.styles > 0


class HeldOutRule:
    """The rule of a configuration, as tables."""

    def __init__(self, config: HeldOutObjects) -> None:
        self._config = config
        self._styles = _held_out_styles(config.styles)
        axes = [_values(name) for name in config.pairs]
        held = [_hash(dict(zip(config.pairs, names, strict=True))) < config.share for names in itertools.product(*axes)]
        self._pairs = np.array(held).reshape([len(values) for values in axes])
        self.reasons = ("", "style", " and ".join(config.pairs))
        """What `decide` answers in; the first one is of objects to train on."""

    def decide(self, choices: Choices) -> NDArray[np.int64]:
        """(N,) place in `reasons` for each object."""
        places = []
        for name in self._config.pairs:
            value = getattr(choices, name)
            places.append(choices.family * MOST_STYLES + value if name == "style" else value)
        by_pair = self._pairs[tuple(places)]
        by_style = self._styles[choices.family, choices.style]
        return np.where(by_style, 1, np.where(by_pair, 2, 0))


def _values(name: Attribute) -> tuple[str, ...]:
    """All values of an attribute, as they are hashed; a family's unused styles included."""
    if name == "family":
        return tuple(family.name for family in FAMILIES)
    if name == "style":
        padded = ((*styles, *[""] * (MOST_STYLES - len(styles))) for styles in STYLES)
        return tuple(f"{family.name}/{style}" for family, row in zip(FAMILIES, padded, strict=True) for style in row)
    return _NAMES[name]


def _held_out_styles(share: float) -> NDArray[np.bool_]:
    """(F, S) whether a style is held out: never the one of the greatest hash in its family."""
    held = np.zeros((len(FAMILIES), MOST_STYLES), bool)
    for place, (family, styles) in enumerate(zip(FAMILIES, STYLES, strict=True)):
        hashes = [_hash({"family": family.name, "whole style": style}) for style in styles]
        held[place, : len(styles)] = [h < share and h < max(hashes) for h in hashes]
    return held


def _hash(values: dict[str, str]) -> float:
    """A number in [0, 1) for a combination."""
    text = "held out " + " ".join(f"{name}={value}" for name, value in sorted(values.items()))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / float(1 << 48)
