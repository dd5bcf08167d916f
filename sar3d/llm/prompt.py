"""Conversations about an object as text and as token ids: where the 3D tokens stand, and where the answer begins."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sar3d.errors import UserError
from sar3d.llm.config import END, PATCH, SPECIAL, START, TemplateName

CAPTION = "Give a concise interpretation of the 3D data presented here."
"""The published instruction (published.md, language model)."""
LONGEST_QUESTION = 2000
"""Characters."""


@dataclass(frozen=True)
class Template:
    """How a question about an object is written out. The answer follows after a space."""

    before: str
    """Before the 3D tokens."""
    after: str
    """After the question."""

    def write(self, question: str) -> str:
        """The conversation up to the answer, with one PATCH for all 3D tokens."""
        return f"{self.before}{START}{PATCH}{END}\n{question}{self.after}"


TEMPLATES: dict[TemplateName, Template] = {
    "vicuna_v1_1": Template(
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: ",
        " ASSISTANT:",
    ),
    "plain": Template("", " Answer:"),
}
"""`vicuna_v1_1` is what the published system's language model was tuned with; `plain` is short, for small models."""


@dataclass(frozen=True)
class SpecialIds:
    """Token ids of the special tokens."""

    patch: int
    start: int
    end: int


def add_special_tokens(tokenizer: Any) -> SpecialIds:
    """Add the three special tokens to a Hugging Face tokenizer that has none of them.

    Raises:
        UserError: the vocabulary clashes with them.
    """
    taken = sorted(set(SPECIAL) & set(tokenizer.get_vocab()))
    if taken:
        raise UserError(
            f"the language model's vocabulary already has the token {taken[0]}, which SAR3D-LLM adds: start from a "
            "language model without it, or go on from a trained SAR3D-LLM with init_from"
        )
    tokenizer.add_tokens(list(SPECIAL), special_tokens=True)
    return special_ids(tokenizer)


def special_ids(tokenizer: Any) -> SpecialIds:
    """The ids of the special tokens. Raises `UserError` for a tokenizer that does not keep each of them whole."""
    ids = []
    for token in SPECIAL:
        found = tokenizer(token, add_special_tokens=False)["input_ids"]
        if len(found) != 1:
            raise UserError(
                f"the language model's tokenizer splits {token} into {len(found)} tokens: give one with the special "
                "tokens of SAR3D-LLM, or one that can take new tokens"
            )
        ids.append(int(found[0]))
    return SpecialIds(*ids)


@dataclass(frozen=True)
class Example:
    """A conversation with its answer."""

    ids: list[int]
    """The 3D tokens as PATCH ids, the end-of-sequence token last."""
    answer: int
    """Where the answer begins."""


class Writer:
    """Writes conversations as token ids. What it returns is shared: do not change it.

    Args:
        tokenizer: a Hugging Face tokenizer with the special tokens.
        template: how a conversation is written out.
        num_tokens: N, 3D tokens of an object.
    """

    def __init__(self, tokenizer: Any, template: TemplateName, num_tokens: int) -> None:
        self.tokenizer, self.template, self.num_tokens = tokenizer, TEMPLATES[template], num_tokens
        self.special = special_ids(tokenizer)
        begin = tokenizer("")["input_ids"]
        self._begin: list[int] = begin[:1] if begin and begin[0] == tokenizer.bos_token_id else []
        self.prompt = lru_cache(4096)(self._prompt)
        self.example = lru_cache(65536)(self._example)

    @property
    def end(self) -> int:
        """Id of the end-of-sequence token."""
        return int(self.tokenizer.eos_token_id)

    def _prompt(self, question: str) -> list[int]:
        """The conversation up to the answer."""
        return self._expanded(self._ids(self.template.write(question)))

    def _example(self, question: str, answer: str) -> Example:
        """The conversation with the answer, of which the prompt is a prefix."""
        text = self.template.write(question)
        short, whole = self._ids(text), self._ids(f"{text} {answer}")
        if whole[: len(short)] != short:  # a token spans the border; an answer is never generated from such a prompt
            whole = short + self._ids(f" {answer}")
        before, after = self._expanded(short), whole[len(short) :]
        return Example([*before, *after, self.end], len(before))

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _expanded(self, ids: list[int]) -> list[int]:
        place = ids.index(self.special.patch)
        return [*self._begin, *ids[:place], *[self.special.patch] * self.num_tokens, *ids[place + 1 :]]


def check_question(question: str) -> str:
    """The question with its white space in order. Raises `UserError` for one that cannot be asked."""
    words = " ".join(question.split())
    if not words:
        raise UserError("the question is empty: ask something about the object, such as 'What is it?'")
    if len(words) > LONGEST_QUESTION:
        raise UserError(f"the question has {len(words):,} characters: ask in at most {LONGEST_QUESTION:,}")
    found = next((token for token in SPECIAL if token in words), None)
    if found is not None:
        raise UserError(f"the question holds {found}, which stands for the object itself: ask without it")
    return words
