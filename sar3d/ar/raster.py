"""Drawing the tokens of the coarsest scales one after another, so that they agree on one object.

Next-scale prediction draws all tokens of a scale at once, each by itself given the coarser scales. While these leave open
which object it is to be, neighbours come from different objects, and no finer scale mends that. This layer, between the
blocks and the head, tells every token of the few coarsest scales which codes were drawn before it. The finer scales, where
nearly all tokens are, are drawn at once as ever. The published models have no such layer (`ARConfig.raster_scales`).
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


class RasterLayer(nn.Module):
    """A causal transformer layer over the tokens of the coarsest scales, in the order in which they are drawn: scale after
    scale, plane after plane, row-major.
    """

    def __init__(self, config: ARConfig) -> None:
        super().__init__()
        width, hidden = config.width, config.mlp_ratio * config.width
        self.word = nn.Linear(config.dim, width)
        self.position = nn.Parameter(torch.empty(config.raster_tokens, width))
        self.attention = SelfAttention(config)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))
        self.output = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "B n C"], drawn: Float[Tensor, "B m D"]) -> Float[Tensor, "B n C"]:
        """The blocks' stream at the first n tokens, each told of those before it.

        Args:
            drawn: unit code vectors of at least the first n - 1 tokens.
        """
        previous = F.pad(drawn[:, : x.shape[1] - 1], (0, 0, 1, 0))
        return self.transform(x, previous, 0, _causal)

    def transform(
        self, x: Float[Tensor, "B l C"], previous: Float[Tensor, "B l D"], begin: int, attend: Attend
    ) -> Float[Tensor, "B l C"]:
        """The same for the tokens from `begin` on.

        Args:
            previous: what was drawn just before each of them; zeros before the first token of all.
            attend: from them to themselves and all before.
        """
        with torch.autocast(x.device.type, enabled=False):
            told = self.word(previous.to(self.word.weight.dtype)) + self.position[begin : begin + x.shape[1]]
        y = _normed(x) + told
        y = y + self.attention(_normed(y), attend)
        y = y + self.mlp(_normed(y))
        return x + self.output(_normed(y))

    @torch.no_grad()
    def initialise(self) -> None:
        """Loud where it tells codes apart: their entries are small, and a whisper is learned slowly. To be called after the
        transformer's own start.
        """
        width = self.output.in_features
        nn.init.normal_(self.word.weight)  # of a unit vector: about 1 in every channel
        nn.init.trunc_normal_(self.position, std=(1 / width / 3) ** 0.5)
        nn.init.normal_(self.output.weight, std=width**-0.5)


def _normed(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)
