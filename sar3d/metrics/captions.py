"""How good captions are: overlap with references, sentence embeddings, and whether noun, category and colors are right.

Overlap is measured by libraries (NLTK, rouge-score). METEOR needs WordNet's data and is left out, with the reason,
where they are not found; nothing is approximated. The sentence embeddings are those of `minilm`, and the number bears
its name: it is no CLIP score and no Sentence-BERT of another size.
"""

import functools
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from sar3d.errors import UserError

if TYPE_CHECKING:
    from sar3d.conditions import ConditionEncoder

_COLOR_WORDS = (
    "black white gray brown beige tan red maroon orange yellow gold green teal turquoise cyan blue navy purple violet "
    "magenta pink silver"
)
COLORS = frozenset(_COLOR_WORDS.split())
"""Words that count as colors. `cream`, `olive`, `salmon` and the like are left out: they are things as often."""
_SPELLINGS = {"grey": "gray", "golden": "gold"}
_BATCH = 64
"""Captions that are embedded at once."""

Known = Sequence[tuple[str, str]]
"""Names of objects with their categories."""


class CaptionMetrics(TypedDict):
    """What `caption_metrics` gives."""

    values: dict[str, float]
    """Means over the captions, by name of the metric, each between 0 and 1 (`minilm_similarity`: from -1).

    | metric | what it is |
    |---|---|
    | `bleu_1` | BLEU of single words over the whole corpus, with its brevity penalty (Papineni et al. 2002) |
    | `rouge_l` | F1 of the longest common subsequence, best reference, no stemming (Lin 2004) |
    | `meteor` | METEOR, best reference (Banerjee and Lavie 2005) |
    | `minilm_similarity` | cosine of the sentence embeddings of all-MiniLM-L6-v2, best reference |
    | `noun_accuracy` | the last word of the name stands in the caption |
    | `category_accuracy` | the longest known name in the caption, else the last known noun, is of the object's category |
    | `color_accuracy` | the set of color words equals that of a reference; none and none are equal |
    """
    absent: dict[str, str]
    """Metrics that could not be computed, with the reason in one sentence."""


def caption_metrics(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    names: Sequence[str],
    categories: Sequence[str],
    *,
    known: Known = (),
    device: str = "cpu",
) -> CaptionMetrics:
    """Measure one caption per object against the object's references, name and category, see `CaptionMetrics`.

    Args:
        known: further names and categories that a caption may name, for example those of the training objects.
        device: where the sentences are embedded.

    Raises:
        ValueError: the lists are empty or differ in length, or an object has no reference.
    """
    _check(predictions, references, names, categories)
    values = {"bleu_1": _bleu(predictions, references), "rouge_l": _rouge(predictions, references)}
    absent: dict[str, str] = {}
    fetched = {  # of packages or data that may not be installed
        "meteor": lambda: _meteor(predictions, references, wordnet()),
        "minilm_similarity": lambda: _similarity(predictions, references, _minilm(device)),
    }
    for metric, measure in fetched.items():
        try:
            values[metric] = measure()
        except UserError as error:
            absent[metric] = str(error)
    nouns = [noun(name) in words(caption) for caption, name in zip(predictions, names, strict=True)]
    vocabulary = _vocabulary([*zip(names, categories, strict=True), *known])
    named = [wanted in _named(p, vocabulary) for p, wanted in zip(predictions, categories, strict=True)]
    colors = [colors_of(p) in map(colors_of, r) for p, r in zip(predictions, references, strict=True)]
    values |= {"noun_accuracy": _share(nouns), "category_accuracy": _share(named), "color_accuracy": _share(colors)}
    return {"values": values, "absent": absent}


def majority_caption(captions: Sequence[str], names: Sequence[str]) -> str:
    """The one caption that fits most training objects, the baseline that a captioner must beat.

    It is the caption whose noun, colors and own words are the most frequent ones, in sum; of equals the first by
    alphabet. Measure it as `caption_metrics([it] * len(references), references, ...)`.

    Args:
        captions, names: one of each per training object.

    Raises:
        ValueError: there is none, or they differ in number.
    """
    if not captions or len(captions) != len(names):
        raise ValueError(f"{len(captions)} captions and {len(names)} names: give one of each per training object")
    nouns, colors = Counter(map(noun, names)), Counter(map(colors_of, captions))
    texts = Counter(captions)
    score = {c: texts[c] + nouns[noun(name)] + colors[colors_of(c)] for c, name in zip(captions, names, strict=True)}
    return min(score, key=lambda caption: (-score[caption], caption))


def words(caption: str) -> list[str]:
    """The words of a caption, in lower case and one spelling."""
    return [_SPELLINGS.get(word, word) for word in re.findall(r"\w+", caption.lower())]


def noun(name: str) -> str:
    """The last word of an object's name; empty for a name without words."""
    return (words(name) or [""])[-1]


def colors_of(caption: str) -> frozenset[str]:
    """The color words in a caption."""
    return COLORS & set(words(caption))


def wordnet() -> Any:
    """NLTK's reader of WordNet. Raises `UserError` where its data are not found, or not all of them."""
    import nltk

    try:
        return _reader(nltk.data.find("corpora/wordnet"))
    except (LookupError, OSError) as error:
        state = "not found" if isinstance(error, LookupError) else f"incomplete ({error})"
        raise UserError(
            f"METEOR needs the data of WordNet, which are {state}: run `python -m nltk.downloader wordnet`, "
            "or set NLTK_DATA to a folder with corpora/wordnet"
        ) from error


@functools.lru_cache(1)
def _reader(root: Any) -> Any:
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that other languages are missing, which nobody asks for
        return WordNetCorpusReader(root, None)


def _check(
    predictions: Sequence[str], references: Sequence[Sequence[str]], names: Sequence[str], categories: Sequence[str]
) -> None:
    sizes = {len(values) for values in (predictions, references, names, categories)}
    if len(sizes) != 1 or not predictions:
        raise ValueError(
            f"{len(predictions)} captions, {len(references)} lists of references, {len(names)} names and "
            f"{len(categories)} categories: give one of each per object"
        )
    empty = [i for i, given in enumerate(references) if not given]
    if empty:
        raise ValueError(f"object {empty[0]} ({names[empty[0]]!r}) has no reference caption")


def _share(right: Sequence[bool]) -> float:
    return sum(right) / len(right)


def _bleu(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    from nltk.translate.bleu_score import corpus_bleu

    split = [[words(r) for r in given] for given in references]
    return float(corpus_bleu(split, [words(p) for p in predictions], weights=(1.0,)))


def _rouge(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    scores = [scorer.score_multi(list(r), p)["rougeL"].fmeasure for p, r in zip(predictions, references, strict=True)]
    return float(sum(scores) / len(scores))


def _meteor(predictions: Sequence[str], references: Sequence[Sequence[str]], reader: Any) -> float:
    from nltk.translate.meteor_score import meteor_score

    pairs = zip(predictions, references, strict=True)
    scores = [meteor_score([words(r) for r in given], words(p), wordnet=reader) for p, given in pairs]
    return float(sum(scores) / len(scores))


@functools.lru_cache(1)
def _minilm(device: str) -> "ConditionEncoder":
    from sar3d.conditions import load_encoder

    return load_encoder("minilm", device=device)


def _similarity(predictions: Sequence[str], references: Sequence[Sequence[str]], encoder: "ConditionEncoder") -> float:
    import torch

    texts = sorted({*predictions, *(r for given in references for r in given)})
    rows = [encoder.encode(texts[i : i + _BATCH]).pooled.float().cpu() for i in range(0, len(texts), _BATCH)]
    vectors, place = torch.cat(rows), {text: i for i, text in enumerate(texts)}
    best = [
        float((vectors[[place[r] for r in given]] @ vectors[place[p]]).max())
        for p, given in zip(predictions, references, strict=True)
    ]
    return sum(best) / len(best)


def _vocabulary(known: Iterable[tuple[str, str]]) -> dict[tuple[str, ...], set[str]]:
    """Categories of everything that may be named: whole names and their nouns, as tuples of words."""
    found: dict[tuple[str, ...], set[str]] = {}
    for name, category in known:
        for key in {tuple(words(name)), (noun(name),)}:
            found.setdefault(key, set()).add(category)
    return found


def _named(caption: str, vocabulary: Mapping[tuple[str, ...], set[str]]) -> set[str]:
    """Categories of what a caption names: of the longest known name in it, of equally long ones the last."""
    text = words(caption)
    longest = min(len(text), max(map(len, vocabulary)))
    for size in range(longest, 0, -1):
        for start in range(len(text) - size, -1, -1):
            found = vocabulary.get(tuple(text[start : start + size]))
            if found is not None:
                return found
    return set()
