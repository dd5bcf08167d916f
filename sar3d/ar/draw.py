"""Drawing tokens from logits: the plain way sorts the whole codebook, the fast way selects the most probable tokens first.

Both invert the cumulative distribution of the kept tokens, sorted by descending probability and equal ones by number,
at the same uniform numbers; so they agree with each other, and a CPU with a GPU.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from sar3d.ar.decoding_config import Decoding

_SOFTEST, _SHARPENING, _SHARPEST = 0.27, 0.95, 0.005
"""Temperature of the Gumbel-softmax: 0.27 · (1 - 0.95 · ratio), at least 0.005 (published.md, transformer)."""


@dataclass(frozen=True)
class Candidates:
    """The most probable tokens of each of N positions, in descending order, equal ones by number."""

    tokens: Int[Tensor, "N k"]
    logits: Float[Tensor, "N k"]
    kept: Bool[Tensor, "N k"]
    """What top-p keeps: always the first, and no token after one that is dropped."""


class SamplingNoise:
    """The random numbers of a batch of samples: each sample's come from its own seed, whatever the batch.

    Args:
        seeds: one per sample, from 0 to 2^64 - 1.
        tokens: L, uniform numbers per sample.
        device: where they are wanted. They are drawn on the CPU.
    """

    def __init__(self, seeds: Sequence[int], tokens: int, device: torch.device | str = "cpu") -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        drawn = [torch.rand(tokens, generator=g, dtype=torch.float64) for g in self._generators]
        self.device = torch.device(device)
        self.uniform: Float[Tensor, "B L"] = torch.stack(drawn).to(device)
        """In [0, 1), float64."""

    def gumbel(self, length: int, candidates: int) -> Float[Tensor, "B l k"]:
        """Gumbel noise of the next scale: by rank of the candidate, not by token. Call it once per scale, in order."""
        shape = (length, candidates)
        drawn = [torch.empty(shape).exponential_(generator=g) for g in self._generators]
        return -torch.stack(drawn).log().to(self.device)


@dataclass(frozen=True)
class RowSettings:
    """How tokens of N rows are drawn, each row by settings of its own; see `Decoding`."""

    guidance: Float[Tensor, " N"]
    top_k: Int[Tensor, " N"]
    """At least 1: all tokens are as many as the codebook has."""
    top_p: Float[Tensor, " N"]
    temperature: Float[Tensor, " N"]

    @classmethod
    def of(cls, decodings: Sequence[Decoding], codebook_size: int, device: torch.device | str = "cpu") -> "RowSettings":
        """The settings of as many rows as `decodings`."""
        return cls(
            torch.tensor([d.guidance for d in decodings], dtype=torch.float64, device=device),
            torch.tensor([candidates_of(d, codebook_size) for d in decodings], device=device),
            torch.tensor([d.top_p for d in decodings], dtype=torch.float64, device=device),
            torch.tensor([d.temperature for d in decodings], device=device),
        )

    def _each(self, change: Callable[[Tensor], Tensor]) -> "RowSettings":
        return RowSettings(*map(change, (self.guidance, self.top_k, self.top_p, self.temperature)))

    def repeated(self, times: int) -> "RowSettings":
        """Each row `times` times, one after another."""
        return self._each(lambda values: values.repeat_interleave(times))

    def part(self, rows: slice) -> "RowSettings":
        """The settings of some of the rows."""
        return self._each(lambda values: values[rows])

    def copy_(self, other: "RowSettings") -> None:
        """Take over the values of as many rows, in place."""
        for name in ("guidance", "top_k", "top_p", "temperature"):
            getattr(self, name).copy_(getattr(other, name))


def candidates_of(decoding: Decoding, codebook_size: int) -> int:
    """Tokens that top-k keeps."""
    return min(decoding.top_k or codebook_size, codebook_size)


def guidance_of(decoding: Decoding, scale: int, scales: int) -> float:
    """t: logits are (1 + t) · conditional - t · unconditional. 0 at the coarsest scale (published.md, transformer)."""
    return decoding.guidance * ratio_of(scale, scales)


def ratio_of(scale: int, scales: int) -> float:
    """Place of a scale in [0, 1], coarse to fine."""
    return scale / max(1, scales - 1)


def smooth_temperature(ratio: float) -> float:
    """Temperature of the Gumbel-softmax at a scale's place (published.md, transformer)."""
    return max(_SOFTEST * (1 - _SHARPENING * ratio), _SHARPEST)


def draw_plain(
    logits: Float[Tensor, "N K"], uniform: Float[Tensor, " N"], decoding: Decoding
) -> tuple[Int[Tensor, " N"], Candidates]:
    """One token per position by the published steps over the whole codebook; also the candidates, for `mix`.

    Args:
        logits: guided.
        uniform: in [0, 1), float64.
    """
    ordered, tokens = torch.sort(logits.float() / decoding.temperature, dim=-1, descending=True, stable=True)
    if decoding.top_k:
        ordered, tokens = ordered[:, : decoding.top_k], tokens[:, : decoding.top_k]
    ascending = ordered.double().softmax(-1).flip(-1)
    dropped = ascending.cumsum(-1) <= 1 - decoding.top_p
    dropped[:, -1] = False
    kept = ~dropped.flip(-1) if decoding.top_p < 1 else torch.ones_like(dropped)
    probability = ordered.double().masked_fill(~kept, -math.inf).softmax(-1)
    cumulative = probability.cumsum(-1)
    below = cumulative <= uniform[:, None] * cumulative[:, -1:]
    place = below.sum(-1).clamp(max=kept.sum(-1) - 1)
    return tokens.gather(-1, place[:, None])[:, 0], Candidates(tokens, ordered, kept)


def draw(
    logits: Float[Tensor, "N K"], uniform: Float[Tensor, " N"], settings: RowSettings, candidates: int
) -> tuple[Int[Tensor, " N"], Candidates]:
    """What `draw_plain` gives row by row, without sorting the whole codebook and without waiting for the device.

    Args:
        logits: guided; float32 for tokens that are equal to the plain ones.
        uniform: in [0, 1), float64.
        settings: of each row.
        candidates: the greatest `top_k` of the rows.
    """
    tokens, ordered = most_probable(logits / settings.temperature[:, None], candidates)
    within = torch.arange(candidates, device=logits.device) < settings.top_k[:, None]
    weight = (ordered - ordered[:, :1]).double().exp_() * within
    cumulative = weight.cumsum(-1)
    before = cumulative - weight
    kept = (before < settings.top_p[:, None] * cumulative[:, -1:]) & within
    mass = (weight * kept).sum(-1)
    place = ((cumulative <= (uniform * mass)[:, None]) & kept).sum(-1).clamp(max=kept.sum(-1) - 1)
    return tokens.gather(-1, place[:, None])[:, 0], Candidates(tokens, ordered, kept)


def most_probable(logits: Float[Tensor, "N K"], k: int) -> tuple[Int[Tensor, "N k"], Float[Tensor, "N k"]]:
    """The k greatest tokens and their logits in descending order, equal ones by number, as a stable sort gives them."""
    count = logits.shape[-1]
    if k >= count:
        ordered, tokens = torch.sort(logits, dim=-1, descending=True, stable=True)
        return tokens, ordered
    if k == 1:
        tokens = logits.argmax(-1, keepdim=True)  # documented to be the first of equal ones
        return tokens, logits.gather(-1, tokens)
    if logits.is_cuda:
        tokens = _keys(logits).topk(k).indices
        return tokens, logits.gather(-1, tokens)
    return _most_probable_cpu(logits, k)


def _keys(logits: Float[Tensor, "N K"]) -> Int[Tensor, "N K"]:
    """Integers, all different in a row, in the order of the logits and, for equal ones, in descending order of the tokens.

    `topk` orders equal values arbitrarily; finding ties first would make the host wait for the device.
    """
    bits = (logits.float() + 0.0).view(torch.int32)  # + 0.0 makes -0.0 equal to 0.0
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    return (ordered << 32) | torch.arange(logits.shape[-1] - 1, -1, -1, device=logits.device)


def _most_probable_cpu(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`topk`, and the keys for the rare rows where the last of the k equals the next."""
    values, tokens = logits.topk(k + 1)
    tied = (values[:, k - 1] == values[:, k]).nonzero().flatten()
    tokens = tokens[:, :k].contiguous()
    if len(tied):
        tokens[tied] = _keys(logits[tied]).topk(k).indices
    # Two stable sorts: by number, then by value.
    tokens = tokens.sort(-1).values
    ordered, by_value = logits.gather(-1, tokens).sort(dim=-1, descending=True, stable=True)
    return tokens.gather(-1, by_value), ordered


def mix(
    candidates: Candidates,
    noise: Float[Tensor, "N k"],
    unit_codes: Float[Tensor, "K D"],
    ratio: float,
) -> tuple[Float[Tensor, "N D"], Int[Tensor, " N"]]:
    """Code vectors mixed by a Gumbel-softmax of the kept candidates, and the token of the greatest weight in each.

    Args:
        noise: Gumbel noise by rank.
        unit_codes: the codebook, normalized.
        ratio: place of the scale in [0, 1].
    """
    scores = (candidates.logits.float() * (1 + ratio) + noise) / smooth_temperature(ratio)
    weights = scores.masked_fill(~candidates.kept, -math.inf).softmax(-1)
    vectors = torch.einsum("nk,nkd->nd", weights, F.embedding(candidates.tokens, unit_codes))
    return vectors, candidates.tokens.gather(-1, weights.argmax(-1, keepdim=True))[:, 0]
