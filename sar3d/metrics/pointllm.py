"""Captions measured as PointLLM measures them (Xu et al. 2024): sentence by sentence, one reference each, times 100.

The names say what is not the same: ROUGE comes from the package `rouge-score`, PointLLM's from `rouge`, whose F-measure
counts every word once. BLEU, ROUGE and METEOR favor short answers. PointLLM draws its answers at temperature 1, so that
its numbers vary from run to run.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sar3d.errors import UserError
from sar3d.metrics.captions import wordnet
from sar3d.metrics.sentences import SentenceEncoder

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

_BLEU = {"bleu_1": (1, 0, 0, 0), "bleu_2": (0.5, 0.5, 0, 0), "bleu_3": (0.33,) * 3 + (0,), "bleu_4": (0.25,) * 4}
"""Weights of the n-grams; the 0.33 is the protocol's."""
_ROUGE = {"rouge_1_rouge_score": "rouge1", "rouge_2_rouge_score": "rouge2", "rouge_l_rouge_score": "rougeL"}
_EMPTY = "##"
"""What an empty answer counts as."""


@dataclass(frozen=True)
class PointLLMScores:
    """Scores of N captions."""

    values: dict[str, list[float]]
    """By metric, N numbers from 0 to 100 (similarities from -100)."""
    absent: dict[str, str]
    """Metrics without values, with the reason in one sentence."""


def pointllm_scores(
    predictions: Sequence[str], references: Sequence[str], mpnet: str = "", simcse: str = "", device: str = "cpu"
) -> PointLLMScores:
    """Scores of each caption against its reference, under names that begin with `pointllm_`.

    Args:
        mpnet, simcse: folders or hub repositories of the sentence encoders, by default the registered ones.

    Raises:
        ValueError: the lists are empty or differ in length.
    """
    if not predictions or len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} captions and {len(references)} references: give one of each per object")
    pairs = [(said or _EMPTY, truth) for said, truth in zip(predictions, references, strict=True)]
    values = {name: [_bleu(*pair, weights) for pair in pairs] for name, weights in _BLEU.items()}
    values |= {name: [_rouge(*pair, kind) for pair in pairs] for name, kind in _ROUGE.items()}
    absent: dict[str, str] = {}
    measured: dict[str, Callable[[], list[float]]] = {
        "meteor": lambda: _meteor(pairs),
        "mpnet_similarity": lambda: _similarity(pairs, SentenceEncoder("mpnet", mpnet, device)),
        "simcse_similarity": lambda: _similarity(pairs, SentenceEncoder("simcse", simcse, device)),
    }
    for name, measure in measured.items():
        try:
            values[name] = measure()
        except UserError as error:  # data or weights are not here
            absent[name] = str(error)
    return PointLLMScores(
        {f"pointllm_{name}": [100 * score for score in scores] for name, scores in values.items()},
        {f"pointllm_{name}": reason for name, reason in absent.items()},
    )


def _bleu(said: str, truth: str, weights: tuple[float, ...]) -> float:
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    smoothing = SmoothingFunction().method1
    return float(sentence_bleu([truth.split()], said.split(), weights=weights, smoothing_function=smoothing))


def _rouge(said: str, truth: str, kind: str) -> float:
    return float(_scorer().score(truth, said)[kind].fmeasure)


@functools.cache
def _scorer() -> "RougeScorer":
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(_ROUGE.values()))


def _meteor(pairs: Sequence[tuple[str, str]]) -> list[float]:
    from nltk.translate.meteor_score import meteor_score

    reader: Any = wordnet()
    return [float(meteor_score([truth.split()], said.split(), wordnet=reader)) for said, truth in pairs]


def _similarity(pairs: Sequence[tuple[str, str]], encoder: SentenceEncoder) -> list[float]:
    said, truth = (encoder.encode([pair[side] for pair in pairs]) for side in (0, 1))
    return [float(value) for value in (said * truth).sum(1)]
