"""The built-in set: which objects there are, and one object's file."""

from dataclasses import dataclass

from sar3d.errors import ObjectError, UserError
from sar3d.procedural.families import FAMILIES
from sar3d.procedural.glb import write_glb
from sar3d.procedural.recipe import Family, Recipe, grounded, merged

MAX_COUNT = 512
MAX_SEED = 0xFFFF

_DIGEST_DIGITS = 24
_LICENCE = "CC0-1.0"
_AUTHOR = "SAR3D"


@dataclass(frozen=True)
class ProceduralObject:
    """One object of the set, as a manifest lists it."""

    uid: str
    """32 hex digits: 24 of the recipe's SHA-256, then seed and counter, from which `build_glb` finds the recipe."""
    name: str
    """Main colour and noun, e.g. "red chair"; not unique."""
    category: str
    captions: tuple[str, ...]
    """Two, unlike those of any other object of the same seed."""
    tags: tuple[str, ...]
    licence: str = _LICENCE
    author: str = _AUTHOR


def catalogue(count: int = 72, seed: int = 0) -> tuple[ProceduralObject, ...]:
    """The set's first `count` objects (categories in turn), in ascending order of uid.

    A larger count holds all objects of a smaller one. Raises UserError outside 1 to 512 objects or seeds 0 to 65535.
    """
    if not 1 <= count <= MAX_COUNT:
        raise UserError(f"The procedural set has 1 to {MAX_COUNT} objects, not {count}: ask for a count in that range.")
    if not 0 <= seed <= MAX_SEED:
        raise UserError(f"The procedural set's seed must be 0 to {MAX_SEED}, not {seed}: choose one in that range.")
    return tuple(sorted((_object(index, seed) for index in range(count)), key=lambda entry: entry.uid))


def build_glb(uid: str) -> bytes:
    """The object's GLB 2.0 file: y up, standing on y = 0, front towards +z; the same bytes on every call.

    Raises ObjectError (`unknown_uid`) where no object of the set has that uid.
    """
    family, recipe = _find(uid)
    return write_glb(
        grounded(merged(family.build(recipe))), f"{recipe.main} {recipe.category}", f"{_LICENCE} {_AUTHOR}"
    )


def _locate(index: int, seed: int) -> tuple[Family, Recipe]:
    variant, place = divmod(index, len(FAMILIES))
    family = FAMILIES[place]
    return family, family.recipe(seed, variant)


def _uid(recipe: Recipe, index: int) -> str:
    return f"{recipe.digest()[:_DIGEST_DIGITS]}{recipe.seed:04x}{index:04x}"


def _object(index: int, seed: int) -> ProceduralObject:
    family, recipe = _locate(index, seed)
    words = (recipe.main, recipe.accent, recipe.style)
    tags = (*family.tags, *(word for word in words if word not in family.tags))
    name = f"{recipe.main} {recipe.category}"
    return ProceduralObject(_uid(recipe, index), name, recipe.category, family.describe(recipe), tags)


def _find(uid: str) -> tuple[Family, Recipe]:
    tail = uid[_DIGEST_DIGITS:]
    if len(tail) == 8 and all(c in "0123456789abcdef" for c in tail):
        seed, index = int(tail[:4], 16), int(tail[4:], 16)
        family, recipe = _locate(index, seed)
        if index < MAX_COUNT and _uid(recipe, index) == uid:
            return family, recipe
    raise ObjectError("unknown_uid", f"The procedural set has no object {uid!r}: take uids from its catalogue.")
