"""How well a codebook is used, scale by scale, from the indices of any number of objects."""

from collections.abc import Sequence

import torch
from einops import reduce
from jaxtyping import Float, Int
from torch import Tensor


def code_counts(tokens: Sequence[Int[Tensor, "rows n2"]], codebook_size: int) -> Int[Tensor, "S K"]:
    """How often each of `codebook_size` entries was chosen at each scale. Counts of several batches or workers add up.

    Raises:
        ValueError: an index lies outside the codebook.
    """
    counts = [torch.bincount(scale.flatten(), minlength=codebook_size) for scale in tokens]
    if any(len(row) > codebook_size for row in counts):
        raise ValueError(f"an index lies outside the codebook of {codebook_size} entries")
    return torch.stack(counts)


def perplexity(counts: Int[Tensor, "S K"]) -> Float[Tensor, "S"]:
    """exp of the entropy of the choices at each scale: between 1 and K, K when all entries are equally frequent.

    A scale without a single choice has perplexity 1.
    """
    share = counts.double() / reduce(counts, "s k -> s 1", "sum").clamp_min(1)
    return torch.special.entr(share).sum(1).exp().float()


def usage(counts: Int[Tensor, "S K"]) -> Float[Tensor, "S"]:
    """Share of the entries that were chosen at least once at each scale.

    A scale cannot use more entries than it made choices: read coarse scales of few objects with that in mind.
    """
    return (counts > 0).float().mean(1)
