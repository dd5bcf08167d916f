"""From code vectors to the inputs of a language model (SAR3D, section 3.3)."""

from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F


class Projector(nn.Module):
    """An MLP with GELU between its layers, from D through `hidden` to the width C of the language model's inputs.

    Args:
        pos_embed: N, to add a learned position embedding to each token; 0 for none (published).
    """

    def __init__(self, dim: int, hidden: tuple[int, ...], width: int, pos_embed: int = 0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for narrow, wide in pairwise((dim, *hidden, width)):
            layers += [nn.Linear(narrow, wide), nn.GELU()]
        self.layers = nn.Sequential(*layers[:-1])
        self.pos_embed = nn.Embedding(pos_embed, width) if pos_embed else None
        if self.pos_embed is not None:
            nn.init.normal_(self.pos_embed.weight, std=width**-0.5)

    def forward(self, vectors: Float[Tensor, "B N D"]) -> Float[Tensor, "B N C"]:
        """Inputs of the language model."""
        out: Tensor = self.layers(vectors)
        if self.pos_embed is not None:
            out = out + self.pos_embed(torch.arange(out.shape[1], device=out.device))
        return out


class FrozenCodebook(nn.Module):
    """The frozen unit vectors of a VQVAE's codes: a buffer, which is neither trained nor decayed."""

    def __init__(self, codebook: Float[Tensor, "K D"]) -> None:
        super().__init__()
        self.vectors: Tensor
        self.register_buffer("vectors", F.normalize(codebook.detach().float(), dim=-1))

    def forward(self, tokens: Int[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
        """Unit vectors in fp32."""
        return F.embedding(tokens, self.vectors)


@torch.no_grad()
def mean_row(weight: Float[Tensor, "vocab C"], rows: int) -> Float[Tensor, " C"]:
    """The mean of the first `rows` embeddings, with which new ones are initialized so that they are no outliers."""
    return weight[:rows].float().mean(0)
