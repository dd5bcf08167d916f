"""Conversations and instructions: what is asked, what is answered, and where the answer begins."""

from collections import Counter
from typing import Any

import pytest
import torch

from sar3d.llm.config import END, PATCH, SPECIAL, START
from sar3d.llm.language_model import tokenizer_of, train_tokenizer
from sar3d.llm.prompt import CAPTION, TEMPLATES, Writer, add_special_tokens
from sar3d.tasks.llm.instructions import QUESTIONS, answers, colors, draw_pair, parts

FACTS = ("egg sushi", "food", ("a white and orange egg sushi with rice", "sushi"))


@pytest.fixture
def tokenizer(described: str) -> Any:
    made = tokenizer_of(described)
    add_special_tokens(made)
    return made


def test_the_published_conversation_is_written_word_for_word() -> None:
    assert TEMPLATES["vicuna_v1_1"].write(CAPTION) == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
        "and polite answers to the user's questions. USER: <point_start><point_patch><point_end>\n"
        "Give a concise interpretation of the 3D data presented here. ASSISTANT:"
    )


@pytest.mark.parametrize("template", ["vicuna_v1_1", "plain"])
def test_a_conversation_holds_the_3d_tokens_once_and_ends_after_the_answer(tokenizer: Any, template: Any) -> None:
    writer = Writer(tokenizer, template, 15)
    example = writer.example("What is it?", "a red apple")
    assert example.ids[: example.answer] == writer.prompt("What is it?")
    assert tokenizer.decode(example.ids[example.answer :]) == " a red apple</s>"
    written = tokenizer.decode(example.ids)
    assert written == TEMPLATES[template].write("What is it?").replace(PATCH, PATCH * 15) + " a red apple</s>"
    assert [example.ids.count(writer.special.patch), written.count(START), written.count(END)] == [15, 1, 1]


def test_a_tokenizer_that_begins_with_a_token_of_its_own_still_does(tokenizer: Any) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer.add_special_tokens({"bos_token": "<s>"})
    bos = tokenizer.convert_tokens_to_ids("<s>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing("<s> $A", special_tokens=[("<s>", bos)])
    ids = Writer(tokenizer, "plain", 3).example("What is it?", "a can").ids
    assert [ids[0], ids.count(bos)] == [bos, 1]


def test_special_tokens_are_added_behind_the_vocabulary(described: str) -> None:
    tokenizer = tokenizer_of(described)
    known = len(tokenizer)
    special = add_special_tokens(tokenizer)
    assert (special.patch, special.start, special.end) == (known, known + 1, known + 2)
    assert tokenizer.decode([special.patch, special.start, special.end], skip_special_tokens=True) == ""
    assert tokenizer.tokenize("a<point_start><point_patch>") == ["a", *SPECIAL[1::-1]]


def test_a_trained_tokenizer_is_the_same_for_the_same_texts_in_any_order() -> None:
    texts = ["a red apple", "a green pear", "a gray fire truck"] * 3
    assert train_tokenizer(texts, 320) == train_tokenizer(texts[::-1], 320)
    assert train_tokenizer(texts, 320) != train_tokenizer(texts[:2], 320)
    tokenizer = tokenizer_of(train_tokenizer(texts, 400))
    assert tokenizer.decode(tokenizer("Naïve 😀 apple\n\n  x")["input_ids"]) == "Naïve 😀 apple\n\n  x"


def test_answers_come_from_what_is_known_of_an_object() -> None:
    assert answers(*FACTS) == {
        "caption": FACTS[2],
        "name": ("egg sushi",),
        "category": ("food",),
        "color": ("white and orange",),
        "parts": ("rice",),
    }
    assert answers("", " ", ("a thing",)) == {"caption": ("a thing",)}


@pytest.mark.parametrize(
    ("caption", "name", "said"),
    [
        ("a red apple", "apple", "red"),
        ("a Grey and white radiator", "radiator", "gray and white"),
        ("a red, white and blue flag", "flag", "red, white and blue"),
        ("an orange orange", "orange", ""),
        ("a reddish couch", "couch", ""),
    ],
)
def test_colors_are_those_of_the_caption(caption: str, name: str, said: str) -> None:
    assert colors(caption, name) == said


def test_parts_follow_with_or_of() -> None:
    assert parts("a brown maki sushi roll with vegetables") == "vegetables"
    assert parts("a bottle of white wine, half full") == "white wine"
    assert parts("a red banner") == ""


def test_the_published_instruction_is_the_only_one_where_that_is_asked_for() -> None:
    given = answers(*FACTS)
    drawn = [draw_pair(given, False, 0.5, torch.Generator().manual_seed(i)) for i in range(20)]
    assert {question for question, _ in drawn} == {CAPTION}
    assert {answer for _, answer in drawn} == set(FACTS[2])


def test_varied_instructions_ask_for_captions_in_their_share_and_for_everything_else() -> None:
    given = answers(*FACTS)
    generators = [torch.Generator().manual_seed(i) for i in range(400)]
    drawn = [draw_pair(given, True, 0.5, generator) for generator in generators]
    kind = {question: kind for kind, questions in QUESTIONS.items() for question in questions}
    assert all(answer in given[kind[question]] for question, answer in drawn)
    counts = Counter(kind[question] for question, _ in drawn)
    assert 160 < counts["caption"] < 240
    assert all(25 < counts[name] < 75 for name in ("name", "category", "color", "parts"))
    assert draw_pair({"caption": ("a",)}, True, 0.0, generators[0])[1] == "a"
    assert drawn[0] == draw_pair(given, True, 0.5, torch.Generator().manual_seed(0))
