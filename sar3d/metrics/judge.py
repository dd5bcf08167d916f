"""The judge of procedural objects: which family and which colors eight pictures of an object show.

It is trained on true pictures of other objects (`sar3d.tasks.judge`) and never shown to a generator, so what it says of
a generated object is nobody's training target.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sar3d.errors import UserError
from sar3d.geometry import intrinsics, look_at, spherical_to_cartesian

VIEWS = 8
RESOLUTION = 64
QUESTIONS = ("family", "main", "accent", "pattern")
"""What the judge answers, as the attributes of the `objects` dataset are called."""

_FOV = 39.6
_RADIUS = 1.8
_ELEVATIONS = (10.0, 30.0)
_FRONT = -90.0
_CHANNELS = (24, 48, 96, 128)
_FORMAT = "sar3d-judge"


def judge_cameras() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(8, 4, 4) camera-to-world (OpenCV, z up) and (8, 3, 3) normalized intrinsics of the pictures that are judged.

    A turntable from the front in steps of 45 degrees, alternately from 10 and from 30 degrees above.
    """
    places = [spherical_to_cartesian(_RADIUS, _ELEVATIONS[i % 2], _FRONT + 45.0 * i) for i in range(VIEWS)]
    return look_at(np.array(places)), np.broadcast_to(intrinsics(_FOV), (VIEWS, 3, 3)).copy()


@dataclass(frozen=True)
class Verdict:
    """What the judge says of one object."""

    answers: dict[str, str]
    """By question."""
    confidence: dict[str, float]
    """Probability of each answer."""


class ProceduralJudge(nn.Module):
    """A small convolutional network on each picture; the mean and the maximum over the pictures decide.

    Args:
        vocabulary: the possible answers, by question.
    """

    def __init__(self, vocabulary: dict[str, tuple[str, ...]]) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        layers: list[nn.Module] = []
        for before, after in zip((3, *_CHANNELS[:-1]), _CHANNELS, strict=True):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.SiLU()]
        self.picture = nn.Sequential(*layers, nn.AvgPool2d(2), nn.Flatten())
        self.object = nn.Sequential(nn.Linear(8 * _CHANNELS[-1], 256), nn.SiLU())
        self.heads = nn.ModuleDict({name: nn.Linear(256, len(words)) for name, words in vocabulary.items()})

    def forward(self, pictures: Float[Tensor, "N V 3 H W"]) -> dict[str, Float[Tensor, "N K"]]:
        """Logits by question; `pictures` in [0, 1] on white, of 64 x 64 pixels, any number of views."""
        count = len(pictures)
        seen = self.picture(rearrange(pictures, "n v c h w -> (n v) c h w") * 2 - 1)
        views = rearrange(seen, "(n v) c -> n v c", n=count)
        features = self.object(torch.cat([views.mean(1), views.amax(1)], dim=1))
        return {name: head(features) for name, head in self.heads.items()}

    @torch.inference_mode()
    def judge(self, pictures: Float[Tensor, "N V 3 H W"]) -> list[Verdict]:
        """One verdict for each object."""
        chances = {name: logits.softmax(dim=1).max(dim=1) for name, logits in self(pictures).items()}
        return [
            Verdict(
                {name: self.vocabulary[name][int(best.indices[i])] for name, best in chances.items()},
                {name: float(best.values[i]) for name, best in chances.items()},
            )
            for i in range(len(pictures))
        ]

    def save(self, file: Path) -> None:
        """Write weights in half precision and vocabulary as one safetensors file."""
        state = self.state_dict()
        weights = {n: v.half().contiguous() if v.is_floating_point() else v for n, v in state.items()}
        save_file(weights, file, metadata={"format": _FORMAT, "vocabulary": json.dumps(self.vocabulary)})

    @staticmethod
    def load(file: Path) -> "ProceduralJudge":
        """Raises `UserError` for a file that holds no judge."""
        with safe_open(file, "pt") as stored:
            about = stored.metadata() or {}
            if about.get("format") != _FORMAT:
                raise UserError(
                    f"{file} holds no judge of procedural objects: train one with python -m sar3d.tasks.judge"
                )
            weights = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  no mapping
        judge = ProceduralJudge({name: tuple(words) for name, words in json.loads(about["vocabulary"]).items()})
        judge.load_state_dict(weights)
        return judge.eval()


@dataclass(frozen=True)
class Confusion:
    """How often each answer was given to each truth."""

    words: tuple[str, ...]
    counts: NDArray[np.int64]
    """(K, K): rows are the truth, columns the answers."""

    @staticmethod
    def of(words: Sequence[str], truth: Sequence[str], said: Sequence[str]) -> "Confusion":
        """Count pairs of true and given answers."""
        places = {word: i for i, word in enumerate(words)}
        counts = np.zeros((len(words), len(words)), np.int64)
        np.add.at(counts, ([places[t] for t in truth], [places[s] for s in said]), 1)
        return Confusion(tuple(words), counts)

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float(np.trace(self.counts) / max(1, self.counts.sum()))

    def mistakes(self) -> list[tuple[str, str, int]]:
        """(truth, answer, times) of all wrong answers, most frequent first."""
        wrong = self.counts - np.diag(np.diag(self.counts))
        found = [(self.words[i], self.words[j], int(wrong[i, j])) for i, j in zip(*np.nonzero(wrong), strict=True)]
        return sorted(found, key=lambda row: -row[2])
