"""What a generator is asked for, and what a text may be. Nothing heavy is imported."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sar3d.conditions.kinds import ConditionKind
from sar3d.errors import ObjectError
from sar3d.generate.language import language_note

if TYPE_CHECKING:
    from sar3d.pictures import Picture

LONGEST = 2000
"""Characters of a text. Encoders read far less, the published one 77 tokens: what they would cut off silently is refused
only where it cannot be a description any more."""
LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class NoPrompt:
    """Nothing is asked for: the object is any that the generator of this kind of prompt knows."""

    kind: ConditionKind


@dataclass(frozen=True)
class Prompt:
    """A text, a picture or nothing, and the seed of one sample."""

    content: "str | Picture | NoPrompt"
    seed: int = 0
    name: str = ""
    """What a person calls it: a file's name."""

    @property
    def kind(self) -> ConditionKind:
        if isinstance(self.content, NoPrompt):
            return self.content.kind
        return "text" if isinstance(self.content, str) else "image"

    def note(self) -> str | None:
        """A sentence, with the cure, about what the models do not know of this prompt; None where there is nothing."""
        if isinstance(self.content, NoPrompt):
            return None
        return language_note(self.content) if isinstance(self.content, str) else self.content.note()

    def describe(self) -> dict[str, Any]:
        """JSON values for the settings of a sample."""
        note = {"note": note} if (note := self.note()) else {}
        if isinstance(self.content, str):
            return {"kind": "text", "text": self.content, **note}
        if isinstance(self.content, NoPrompt):
            return {"kind": "none"}
        picture = self.content
        about = {"sha256": picture.sha256, "size": list(picture.size), "mode": picture.mode}
        return {"kind": "image", "file": self.name, **about, **note}


def check_text(text: str) -> str:
    """The text with its white space in order.

    Raises:
        ObjectError: `empty_text`, `wordless_text`, `text_too_long`.
    """
    words = " ".join(text.split())
    if not words:
        raise ObjectError("empty_text", "the text is empty: say what the object is, such as 'a red apple'")
    if not any(c.isalnum() for c in words):
        raise ObjectError(
            "wordless_text", f"the text {words[:40]!r} holds no letter or digit: say in words what the object is"
        )
    if len(words) > LONGEST:
        raise ObjectError(
            "text_too_long",
            f"the text has {len(words):,} characters, more than {LONGEST:,}: describe the object in less",
        )
    return words


def check_seed(seed: int) -> int:
    """The seed. Raises `ObjectError` `bad_seed` for a number that no generator of random numbers takes."""
    if not 0 <= seed <= LARGEST_SEED:
        raise ObjectError("bad_seed", f"the seed {seed} is not a number from 0 to 2^63 - 1")
    return seed
