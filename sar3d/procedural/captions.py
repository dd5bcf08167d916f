"""Two captions of each object: a short one and a sentence, from templates that fit every combination."""

from sar3d.procedural.draws import fraction
from sar3d.procedural.recipe import PLAIN, Family, Recipe

_ADJECTIVES = {
    "stripes": "striped",
    "bands": "banded",
    "checks": "checked",
    "dots": "dotted",
    "zigzags": "zigzag",
}


def captions_of(family: Family, recipe: Recipe) -> tuple[str, str]:
    """Both name the family and the main color; the accent color is left out of few short ones."""
    return _short(family, recipe), _sentence(family, recipe)


def _short(family: Family, r: Recipe) -> str:
    noun, styled, trim = family.name, family.styles[r.style], _trim(family, r)
    if r.pattern == PLAIN:
        options = (
            f"{phrase(r.main, noun)} with {trim}",
            f"{phrase(r.main, noun)} with {trim}",
            f"{phrase(r.main, styled)} with {trim}",
            f"{phrase(r.main, 'and', r.accent, noun)}",
            phrase(r.main, noun),
        )
    else:
        pattern = f"{r.accent} {r.pattern}"
        options = (
            f"{phrase(r.main, noun)} with {pattern}",
            f"{phrase(r.main, noun)} with {pattern}",
            f"{phrase(r.main, styled)} with {pattern}",
            f"{phrase(r.main, noun)} with {pattern} and {trim}",
            phrase(r.main, "and", r.accent, _ADJECTIVES[r.pattern], noun),
        )
    return options[int(fraction(r.key, "short caption") * len(options))]


def _sentence(family: Family, r: Recipe) -> str:
    styled, features = family.styles[r.style], _listed(_features(family, r))
    size = family.size_word(r)
    if size in styled.split():
        size = ""
    subject = phrase(size, r.main, styled) if size else phrase(r.main, styled)
    options = (
        f"{subject} with {features}.",
        f"{subject}. It has {features}.",
        f"This {size + ' ' if size else ''}{styled} is {r.main} and has {features}.",
        f"{phrase(styled)} in {r.main}, with {features}.",
        f"a 3D model of {subject} with {features}.",
    )
    text = options[int(fraction(r.key, "sentence") * len(options))]
    return text[0].upper() + text[1:]


def _features(family: Family, r: Recipe) -> list[str]:
    pattern = [] if r.pattern == PLAIN else [f"{r.accent} {r.pattern}"]
    return [*pattern, _trim(family, r), *(part.phrase for part in family.parts if part.name in r.parts)]


def _trim(family: Family, r: Recipe) -> str:
    """What is of accent color: "a blue seat", "blue legs", "blue nose and fins"."""
    trim = family.trim_of(r.style)
    return f"{r.accent} {trim}" if trim.endswith("s") or " and " in trim else phrase(r.accent, trim)


def phrase(*words: str) -> str:
    """Words as one phrase with its article: "an orange chair"."""
    text = " ".join(words)
    return f"{'an' if text[0] in 'aeiou' and not text.startswith('one-') else 'a'} {text}"


def _listed(things: list[str]) -> str:
    return things[0] if len(things) == 1 else f"{', '.join(things[:-1])} and {things[-1]}"
