"""What one object of the set is made from, and what a family of recipes offers."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

from sar3d.procedural.mesh import Mesh, join
from sar3d.procedural.paint import PALETTE, Surface, distance

RECIPE_VERSION = 1
"""Raised whenever an existing recipe draws something else, so that uids change with the objects."""

_CONTRAST = 230.0

Drawing = list[tuple[Surface, Mesh]]
"""Parts in drawing order; parts of one surface become one primitive."""


@dataclass(frozen=True)
class Recipe:
    """The choices that make one object; everything else follows from them."""

    category: str
    seed: int
    variant: int
    """Counter within the category."""
    main: str
    """The colour that covers most of the object."""
    accent: str
    """The contrasting colour of its pattern."""
    pattern: str
    """The painter that lays `accent` over `main`."""
    style: str
    """Which of the family's shapes."""

    def digest(self) -> str:
        """SHA-256 over the recipe's canonical JSON, 64 hex digits."""
        text = json.dumps({"version": RECIPE_VERSION, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def vary(self, what: str, low: float, high: float) -> float:
        """A proportion in [low, high) that depends on the recipe and `what` alone."""
        return low + (high - low) * _fraction(f"{self.digest()}/{what}")

    def painted(self) -> Surface:
        """The object's pattern: accent over main."""
        return Surface(self.main, self.pattern, self.accent)


@dataclass(frozen=True)
class Family:
    """All recipes of one category."""

    category: str
    styles: tuple[str, ...]
    mains: tuple[str, ...]
    patterns: tuple[str, ...]
    build: Callable[[Recipe], Drawing]
    describe: Callable[[Recipe], tuple[str, str]]
    """Two captions; each names the category, both colours and so no other object of a catalogue."""
    tags: tuple[str, ...]

    def recipe(self, seed: int, variant: int) -> Recipe:
        """Main and accent pairs do not repeat before every pair was used (five times through the main colours)."""
        start = int(_fraction(f"{seed}/{self.category}") * 5040)
        turn, place = divmod(variant, len(self.mains))
        main = self.mains[(start + place) % len(self.mains)]
        accents = contrasting(main)
        return Recipe(
            category=self.category,
            seed=seed,
            variant=variant,
            main=main,
            accent=accents[(start + 5 * place + turn) % len(accents)],
            pattern=self.patterns[(start + variant + variant // len(self.styles)) % len(self.patterns)],
            style=self.styles[(start + variant + turn) % len(self.styles)],
        )


def contrasting(main: str) -> tuple[str, ...]:
    """The palette's colours that stand out on `main`."""
    return tuple(c for c in PALETTE if c != "grey" and distance(main, c) > _CONTRAST)


def backing(accent: str, light: str = "cream") -> str:
    """What a pattern in `accent` lies on where it must not be the main colour: `light`, or dark if both are pale."""
    return light if distance(accent, light) > _CONTRAST else "soil"


def merged(drawing: Drawing) -> dict[Surface, Mesh]:
    """One mesh per surface, in order of first use."""
    groups: dict[Surface, list[Mesh]] = {}
    for surface, mesh in drawing:
        groups.setdefault(surface, []).append(mesh)
    return {surface: join(meshes) for surface, meshes in groups.items()}


def grounded(parts: dict[Surface, Mesh]) -> dict[Surface, Mesh]:
    """The parts moved so that the lowest point is at y = 0."""
    lowest = min(float(mesh.positions[:, 1].min()) for mesh in parts.values())
    return {surface: mesh.moved(y=-lowest) for surface, mesh in parts.items()}


def phrase(*words: str) -> str:
    """Words as one phrase with its article: "an orange chair"."""
    text = " ".join(words)
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def _fraction(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / float(1 << 48)
