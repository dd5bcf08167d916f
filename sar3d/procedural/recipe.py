"""What one object of the world is made from, and what a family of recipes offers."""

from collections.abc import Callable
from dataclasses import dataclass

from sar3d.procedural.draws import fraction
from sar3d.procedural.mesh import ProceduralMesh, join
from sar3d.procedural.paint import Surface

Drawing = list[tuple[Surface, ProceduralMesh]]
"""Parts in drawing order; parts of one surface become one primitive."""

PLAIN = "plain"
_EXTREME = 0.25
"""Share of the objects of which a proportion is called small, and large."""


@dataclass(frozen=True)
class Recipe:
    """The choices that make one object; everything else follows from them and the key."""

    key: int
    """64 bits that belong to this object alone."""
    family: str
    style: str
    """Which of the family's shapes."""
    main: str
    """The color that covers most of the object."""
    accent: str
    """A contrasting color: of the pattern, and of some parts always."""
    pattern: str
    """`plain`, or the painter that lays `accent` over `main`."""
    parts: tuple[str, ...]
    """The optional parts that this object has."""

    def vary(self, what: str, low: float, high: float) -> float:
        """A proportion in [low, high) that depends on the key and `what` alone."""
        return low + (high - low) * fraction(self.key, what)

    def pick(self, what: str, *choices: int) -> int:
        """One of some numbers, by the key and `what`."""
        return choices[int(fraction(self.key, what) * len(choices))]

    @property
    def body(self) -> Surface:
        """Plain main color."""
        return Surface(self.main)

    @property
    def trim(self) -> Surface:
        """Plain accent color."""
        return Surface(self.accent)

    @property
    def painted(self) -> Surface:
        """The object's pattern, accent over main; plain main color where it has none."""
        return self.body if self.pattern == PLAIN else Surface(self.main, self.pattern, self.accent)


@dataclass(frozen=True)
class Part:
    """A part that some objects of a family have."""

    name: str
    share: float
    """Of the objects of the styles that may have it."""
    phrase: str
    """As a caption speaks of it: "two armrests"."""
    styles: tuple[str, ...] = ()
    """Only these styles have it; empty for all."""


@dataclass(frozen=True)
class Family:
    """All recipes of one kind of object."""

    name: str
    """The noun of every caption."""
    build: Callable[[Recipe], Drawing]
    styles: dict[str, str]
    """How captions call an object of each style; every such phrase ends with the noun or holds it."""
    trim: str | dict[str, str]
    """What is of accent color on every object, by style where that differs: "seat", or plural "legs"."""
    parts: tuple[Part, ...] = ()
    size: tuple[str, str, str] = ("", "", "")
    """A proportion that shows, and what an object is called where that is small and where it is large."""
    tags: tuple[str, ...] = ()

    def parts_of(self, key: int, style: str) -> tuple[str, ...]:
        """Names of the optional parts of an object."""
        return tuple(
            part.name
            for part in self.parts
            if (not part.styles or style in part.styles) and fraction(key, f"part {part.name}") < part.share
        )

    def trim_of(self, style: str) -> str:
        """What is of accent color on an object of a style."""
        return self.trim if isinstance(self.trim, str) else self.trim[style]

    def size_word(self, recipe: Recipe) -> str:
        """ "small", "tall" and the like; empty for an object of middling proportions."""
        what, small, large = self.size
        place = fraction(recipe.key, what)
        return small if what and place < _EXTREME else large if what and place > 1.0 - _EXTREME else ""


def of(surface: Surface, *meshes: ProceduralMesh) -> Drawing:
    """Parts of one surface."""
    return [(surface, mesh) for mesh in meshes]


def merged(drawing: Drawing) -> dict[Surface, ProceduralMesh]:
    """One mesh per surface, in order of first use."""
    groups: dict[Surface, list[ProceduralMesh]] = {}
    for surface, mesh in drawing:
        groups.setdefault(surface, []).append(mesh)
    return {surface: join(meshes) for surface, meshes in groups.items()}


def grounded(parts: dict[Surface, ProceduralMesh]) -> dict[Surface, ProceduralMesh]:
    """The parts moved so that the lowest point is at y = 0."""
    lowest = min(float(mesh.positions[:, 1].min()) for mesh in parts.values())
    return {surface: mesh.moved(y=-lowest) for surface, mesh in parts.items()}
