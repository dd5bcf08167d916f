"""What a language model is asked in training, and the answers that an object's name, category and captions give."""

import re
from typing import Literal

import torch

from sar3d.llm.prompt import CAPTION
from sar3d.metrics.captions import COLORS, words

QuestionKind = Literal["caption", "name", "category", "color", "parts"]
Pair = tuple[str, str]
"""A question and its answer."""

QUESTIONS: dict[QuestionKind, tuple[str, ...]] = {
    "caption": (
        CAPTION,
        "Describe this object.",
        "What does this 3D model show?",
        "Give a short caption of the object.",
        "Sum up what you see in a few words.",
    ),
    "name": ("What is it?", "What is this object called?", "Name the object."),
    "category": ("What kind of object is it?", "Which category does it belong to?"),
    "color": ("What colour is it?", "Which colours does it have?", "Name its colours."),
    "parts": ("What is it made of, or what does it hold?", "Which parts or contents does it have?"),
}
"""The published instruction comes first; the others ask for what an object's name, category and captions tell."""

_PARTS = re.compile(r"\b(?:with|of|containing|holding)\s+([^.,;]+)")


def answers(name: str, category: str, captions: tuple[str, ...]) -> dict[QuestionKind, tuple[str, ...]]:
    """What can be asked about an object, and the right answers to each kind of question; kinds without one are absent."""
    found: dict[QuestionKind, tuple[str, ...]] = {
        "caption": tuple(c.strip() for c in captions if c.strip()),
        "name": (name.strip(),) if name.strip() else (),
        "category": (category.strip(),) if category.strip() else (),
        "color": tuple(dict.fromkeys(said for c in captions if (said := colors(c, name)))),
        "parts": tuple(dict.fromkeys(said for c in captions if (said := parts(c)))),
    }
    return {kind: given for kind, given in found.items() if given}


def colors(caption: str, name: str = "") -> str:
    """The colors that a caption names, in its order, as `white`, `white and green`, `red, white and blue`; or nothing.

    The last word of the name is a thing where it is also a color: an orange.
    """
    noun = (words(name) or [""])[-1]
    said = list(dict.fromkeys(word for word in words(caption) if word in COLORS and word != noun))
    return f"{', '.join(said[:-1])} and {said[-1]}" if len(said) > 1 else "".join(said)


def parts(caption: str) -> str:
    """What an object has or holds by its caption: what follows the first `with`, `of`, `containing` or `holding`."""
    found = _PARTS.search(caption)
    return found.group(1).strip() if found else ""


def draw_pair(
    given: dict[QuestionKind, tuple[str, ...]], varied: bool, caption_p: float, generator: torch.Generator
) -> Pair:
    """One question with one of its answers.

    Args:
        given: see `answers`; not empty.
        varied: False asks the published instruction only.
        caption_p: share of the questions, of those that are varied, which ask for a caption.
        generator: decides.
    """

    def pick(count: int) -> int:
        return int(torch.randint(count, (), generator=generator))

    if not varied:
        return CAPTION, given["caption"][pick(len(given["caption"]))]
    others = [kind for kind in given if kind != "caption"]
    caption = float(torch.rand((), generator=generator)) < caption_p
    kind: QuestionKind = "caption" if "caption" in given and (caption or not others) else others[pick(len(others))]
    questions = QUESTIONS[kind]
    return questions[pick(len(questions))], given[kind][pick(len(given[kind]))]
