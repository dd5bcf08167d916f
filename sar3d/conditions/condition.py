"""Conditions: the features of captions or pictures that a generator is conditioned on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """The features of B captions or pictures, as a condition encoder makes them."""

    tokens: Float[Tensor, "B N Cc"]
    """Features of the caption's words or the picture's patches: keys and values of the generator's cross-attention."""
    pooled: Float[Tensor, "B Cp"]
    """One vector for the whole caption or picture: the start of the sequence, and what modulates the blocks."""

    def __len__(self) -> int:
        return len(self.pooled)

    def to(self, device: torch.device | str) -> "Condition":
        """The same on a device."""
        return Condition(self.tokens.to(device), self.pooled.to(device))

    def float(self) -> "Condition":
        """The same in float32."""
        return Condition(self.tokens.float(), self.pooled.float())

    def expand(self, count: int) -> "Condition":
        """One condition (B = 1) for `count` samples, without a copy."""
        return Condition(self.tokens.expand(count, -1, -1), self.pooled.expand(count, -1))

    def select(self, indices: Sequence[int] | Int[Tensor, " n"]) -> "Condition":
        """Those of these samples, in this order."""
        chosen = torch.as_tensor(indices, dtype=torch.long, device=self.tokens.device)
        return Condition(self.tokens[chosen], self.pooled[chosen])

    @staticmethod
    def cat(conditions: "Sequence[Condition]") -> "Condition":
        """One after another; they must have the same number of tokens."""
        return Condition(torch.cat([c.tokens for c in conditions]), torch.cat([c.pooled for c in conditions]))


@dataclass(frozen=True)
class PooledStatistics:
    """Mean and deviation of a dataset's pooled vectors."""

    mean: Float[Tensor, " Cp"]
    deviation: float
    """Root mean square of the centered vectors over samples and channels. One number for all channels: scaling each by its
    own deviation would amplify channels that hardly vary."""

    @staticmethod
    def of(vectors: Iterable[Float[Tensor, " Cp"]]) -> "PooledStatistics":
        """Of at least one vector. Where all are equal, the deviation is 1."""
        stacked = torch.stack(list(vectors)).double()
        mean = stacked.mean(0)
        deviation = float((stacked - mean).square().mean().sqrt())
        return PooledStatistics(mean.float(), deviation or 1.0)
