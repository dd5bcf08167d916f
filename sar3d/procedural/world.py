"""The endless world: its uids, what is known of each object, and each object's file."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from sar3d.errors import ObjectError, UserError
from sar3d.procedural.captions import captions_of
from sar3d.procedural.choices import choose, keys_of, recipe_of
from sar3d.procedural.glb import write_glb
from sar3d.procedural.held_out import HeldOutObjects, HeldOutRule
from sar3d.procedural.recipe import Family, Recipe, grounded, merged

MAX_COUNT = 1 << 40
MAX_SEED = 0xFFFF

_UID = re.compile(r"[0-9a-f]{32}")
_CHUNK = 1 << 16
_LICENCE = "CC0-1.0"
_AUTHOR = "SAR3D"


@dataclass(frozen=True)
class ProceduralObject:
    """One object of the world, as a listing describes it."""

    uid: str
    """32 hex digits: 16 of the object's key, 4 of the seed, 12 of its index; all else follows from them."""
    name: str
    """Main color and noun, e.g. "red chair"; not unique."""
    category: str
    """The family."""
    captions: tuple[str, ...]
    """A short one and a sentence."""
    tags: tuple[str, ...]
    attributes: dict[str, Any]
    """family, style, main, accent, pattern (strings) and parts (a list of strings)."""
    license: str = _LICENCE
    author: str = _AUTHOR


def listing(count: int, seed: int = 0, held_out: HeldOutObjects | None = None) -> Iterator[tuple[str, str]]:
    """The world's first `count` uids in ascending order, each with why it is held out (empty: it is not).

    A larger count holds all objects of a smaller one. Memory: 16 bytes an object.
    Raises UserError for a count below 1 or above 2**40, and for a seed outside 0 to 65535.
    """
    if not 1 <= count <= MAX_COUNT:
        raise UserError(
            f"The procedural world has 1 to {MAX_COUNT:,} objects, not {count:,}: ask for a count in that range."
        )
    if not 0 <= seed <= MAX_SEED:
        raise UserError(f"The procedural world's seed must be 0 to {MAX_SEED}, not {seed}: choose one in that range.")
    return _listing(count, seed, HeldOutRule(held_out) if held_out is not None and held_out.any else None)


def _listing(count: int, seed: int, rule: HeldOutRule | None) -> Iterator[tuple[str, str]]:
    chunks = (np.arange(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK))
    order = np.concatenate([keys_of(seed, chunk) for chunk in chunks]).argsort()
    for start in range(0, count, _CHUNK):
        indices = order[start : start + _CHUNK].astype(np.int64)
        pairs = zip(keys_of(seed, indices).tolist(), indices.tolist(), strict=True)
        uids = [_uid(key, seed, index) for key, index in pairs]
        decided = [0] * len(uids) if rule is None else rule.decide(choose(seed, indices)).tolist()
        reasons = rule.reasons if rule is not None else ("",)
        yield from zip(uids, [reasons[place] for place in decided], strict=True)


def _uid(key: int, seed: int, index: int) -> str:
    return f"{key:016x}{seed:04x}{index:012x}"


def describe(uid: str) -> ProceduralObject:
    """What is known of an object. Raises ObjectError (`unknown_uid`) where no object of the world has that uid."""
    family, recipe = _find(uid)
    words = (recipe.main, recipe.accent, recipe.style, recipe.pattern)
    tags = (*family.tags, *(word for word in words if word not in family.tags))
    attributes = {name: getattr(recipe, name) for name in ("family", "style", "main", "accent", "pattern")}
    name = f"{recipe.main} {family.name}"
    return ProceduralObject(
        uid, name, family.name, captions_of(family, recipe), tags, {**attributes, "parts": list(recipe.parts)}
    )


def catalog(count: int = 72, seed: int = 0) -> tuple[ProceduralObject, ...]:
    """The world's first `count` objects described, in ascending order of uid. Raises UserError as `listing`."""
    return tuple(describe(uid) for uid, _ in listing(count, seed))


def build_glb(uid: str) -> bytes:
    """The object's GLB 2.0 file: y up, standing on y = 0, front towards +z; the same bytes on every call.

    Raises ObjectError (`unknown_uid`) where no object of the world has that uid.
    """
    family, recipe = _find(uid)
    parts = grounded(merged(family.build(recipe)))
    return write_glb(parts, f"{recipe.main} {family.name}", f"{_LICENCE} {_AUTHOR}")


def _find(uid: str) -> tuple[Family, Recipe]:
    if _UID.fullmatch(uid):
        seed, index = int(uid[16:20], 16), int(uid[20:], 16)
        if index < MAX_COUNT:
            family, recipe = recipe_of(seed, index)
            if _uid(recipe.key, seed, index) == uid:
                return family, recipe
    raise ObjectError("unknown_uid", f"The procedural world has no object {uid!r}: take uids from its listing.")
