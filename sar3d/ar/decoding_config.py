"""How tokens are drawn: guidance and the cut of the distribution, and the published settings by name."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

from sar3d.errors import UserError


@dataclass(frozen=True)
class Decoding:
    """How tokens are drawn from the logits (published.md, transformer).

    Raises:
        UserError: a value lies outside its range.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    guidance: float = 4.0
    """Strength of the condition at the finest scale; it grows linearly from 0 at the coarsest. 0: no guidance."""
    top_k: int = 10
    """Most probable tokens that are kept; 0 for all."""
    top_p: float = 0.5
    """Of these, the fewest of the most probable whose probabilities sum to this; 1 for all."""
    temperature: float = 1.0
    """Divides the logits."""
    smooth: bool = False
    """Mix the code vectors of the kept tokens by a Gumbel-softmax that sharpens from scale to scale, instead of taking one."""

    def __post_init__(self) -> None:
        wrong = {
            "guidance": "a number from 0" if not 0 <= self.guidance < math.inf else None,
            "top_k": "a whole number from 0, where 0 keeps all tokens" if self.top_k < 0 else None,
            "top_p": "above 0 and at most 1" if not 0 < self.top_p <= 1 else None,
            "temperature": "a number above 0; for the most probable token set top_k=1"
            if not 0 < self.temperature < math.inf
            else None,
        }
        for name, wanted in wrong.items():
            if wanted:
                raise UserError(f"{name} of decoding must be {wanted}, not {getattr(self, name)}")


def batch_key(decoding: Decoding) -> tuple[bool, int]:
    """Samples whose settings have the same key can be drawn in one batch. Mixed codes need noise of one width for all."""
    return decoding.smooth, decoding.top_k if decoding.smooth else 0


DECODINGS: dict[str, Decoding] = {
    "released": Decoding(),
    "preview": Decoding(top_k=900, top_p=0.95),
    "evaluation": Decoding(top_k=2, top_p=0.1),
    "timing": Decoding(top_k=5, top_p=0.1),
    "wild": Decoding(guidance=8.0),
    "greedy": Decoding(top_k=1, top_p=1.0),
}
"""`released`: the released test; `preview`: during training; `evaluation`: the paper's numbers; `timing`: its
latencies; `wild`: its figures of pictures from the wild; `greedy`: the most probable token, whatever the seed."""


def decoding(name: str, **changes: Any) -> Decoding:
    """The settings of that name, with `changes` to single ones.

    Raises:
        UserError: there are no settings of that name, or a value lies outside its range.
    """
    if name not in DECODINGS:
        raise UserError(f"there is no decoding named {name!r}; choose one of {', '.join(DECODINGS)}")
    return dataclasses.replace(DECODINGS[name], **changes)
