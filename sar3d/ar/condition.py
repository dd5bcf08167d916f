"""What the transformer is told of the objects it is to make."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """The features of B captions or pictures, as a condition encoder makes them."""

    tokens: Float[Tensor, "B N C"]
    """Keys and values of the cross-attention."""
    pooled: Float[Tensor, "B C2"]
    """One vector for the whole caption or picture: the start of the sequence, and what modulates the blocks."""

    def __len__(self) -> int:
        return len(self.pooled)

    def to(self, device: torch.device | str) -> "Condition":
        """The same on a device."""
        return Condition(self.tokens.to(device), self.pooled.to(device))

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
    """What the pooled vectors of a dataset are like."""

    mean: Float[Tensor, " C2"]
    deviation: float
    """Root mean square, over samples and channels, of what is left without the mean. One number for all channels, as
    those that hardly vary say little and must not be blown up."""

    @staticmethod
    def of(vectors: Iterable[Float[Tensor, " C2"]]) -> "PooledStatistics":
        """Of at least one vector. Where all are equal, the deviation is 1."""
        stacked = torch.stack(list(vectors)).double()
        mean = stacked.mean(0)
        deviation = float((stacked - mean).square().mean().sqrt())
        return PooledStatistics(mean.float(), deviation or 1.0)
