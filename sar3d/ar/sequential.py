"""Drawing the tokens of the coarsest scales sequentially, so that they agree on one object.

Next-scale prediction draws the tokens of a scale independently of each other, given the coarser scales. As long as the
coarser scales do not determine the object, neighboring tokens may come from different objects, and finer scales cannot
correct that. This layer, between the blocks and the head, conditions every token of the few coarsest scales on the tokens
drawn before it. The finer scales, which hold nearly all tokens, are still drawn at once. The published models have no such
layer (`ARConfig.sequential_scales`).
"""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sar3d.ar.attention import Attend
from sar3d.ar.blocks import SelfAttention
from sar3d.ar.config import ARConfig

_causal: Attend = partial(F.scaled_dot_product_attention, is_causal=True, scale=1.0)


class SequentialLayer(nn.Module):
    """A causal transformer layer over the tokens of the coarsest scales, in the order in which they are drawn: scale after
    scale, plane after plane, row-major.
    """

    def __init__(self, config: ARConfig) -> None:
        super().__init__()
        width, hidden = config.width, config.mlp_ratio * config.width
        self.token_in = nn.Linear(config.code_dim, width)
        self.pos_embed = nn.Parameter(torch.empty(config.sequential_tokens, width))
        self.attn = SelfAttention(config)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))
        self.output = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "B n C"], code_vectors: Float[Tensor, "B m D"]) -> Float[Tensor, "B n C"]:
        """The residual stream of the first n tokens, each informed of the tokens before it.

        Args:
            code_vectors: unit vectors of at least the first n - 1 tokens.
        """
        previous = F.pad(code_vectors[:, : x.shape[1] - 1], (0, 0, 1, 0))
        return self.transform(x, previous, 0, _causal)

    def transform(
        self, x: Float[Tensor, "B l C"], previous: Float[Tensor, "B l D"], begin: int, attend: Attend
    ) -> Float[Tensor, "B l C"]:
        """The same for the tokens from `begin` on.

        Args:
            previous: code vector of the token before each of them; zeros for the very first token.
            attend: from them to themselves and all before.
        """
        with torch.autocast(x.device.type, enabled=False):
            prev_embed = (
                self.token_in(previous.to(self.token_in.weight.dtype)) + self.pos_embed[begin : begin + x.shape[1]]
            )
        y = _normed(x) + prev_embed
        y = y + self.attn(_normed(y), attend)
        y = y + self.mlp(_normed(y))
        return x + self.output(_normed(y))

    @torch.no_grad()
    def initialize(self) -> None:
        """Initialize the code projection with a larger gain: the entries of codebook vectors are small, and a projection of
        the default scale trains slowly. To be called after the transformer's own initialization.
        """
        width = self.output.in_features
        nn.init.normal_(self.token_in.weight)  # of a unit vector: about 1 in every channel
        nn.init.trunc_normal_(self.pos_embed, std=(1 / width / 3) ** 0.5)
        nn.init.normal_(self.output.weight, std=width**-0.5)


def _normed(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)
