"""Decoding as published, written to be read: the oracle of `sar3d.ar.decode`.

Conditional and unconditional samples are two halves of one batch, keys and values of finished scales are concatenated,
what depends on the condition alone is computed at every scale, and codes are drawn from a sort of all of them.
"""

from collections.abc import Sequence

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn import functional as F

from sar3d.ar.attention import full_attention
from sar3d.ar.condition import Condition
from sar3d.ar.decoding_config import Decoding
from sar3d.ar.draw import Noise, draw_plain, guidance_of, mix, ratio_of
from sar3d.ar.generated import DecodedScale, Generated, OnScale, Precision, check_request, computing_in, settled
from sar3d.ar.transformer import ARTransformer
from sar3d.vqvae.config import PLANES
from sar3d.vqvae.quantizer import MultiScaleQuantizer


class ConcatenatingCache:
    """Self-attention of one block, from a scale to itself and to all scales before."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.keys = k if self.keys is None else torch.cat([self.keys, k], 2)
        self.values = v if self.values is None else torch.cat([self.values, v], 2)
        return full_attention(q, self.keys, self.values)


@torch.no_grad()
def generate_plain(
    model: ARTransformer,
    quantizer: MultiScaleQuantizer,
    condition: Condition,
    empty: Condition,
    seeds: Sequence[int],
    decoding: Decoding,
    *,
    precision: Precision = "auto",
    on_scale: OnScale | None = None,
) -> Generated:
    """What `sar3d.ar.decode.generate` gives, which see (published.md, transformer)."""
    check_request(model, quantizer, condition, empty, seeds)
    config, device = model.config, model.start.device
    batch, scales, dtype = len(condition), len(config.scales), settled(precision, model)
    halves = Condition.cat([condition.to(device), empty.to(device).expand(batch)])
    context = halves.tokens.to(model.word.weight.dtype)
    noise = Noise(seeds, config.tokens, device)
    caches = [ConcatenatingCache() for _ in model.blocks]
    tokens = []
    f_hat = torch.zeros(PLANES * batch, config.dim, quantizer.side, quantizer.side, device=device)

    with computing_in(dtype, device):
        cond = model.condition_vector(halves)
    x = model.start_tokens(cond)
    for scale in range(scales):
        with computing_in(dtype, device):
            for block, cache in zip(model.blocks, caches, strict=True):
                x = block(x, cond, context, cache)
            conditional, unconditional = model.head(x, cond).chunk(2)
        t = guidance_of(decoding, scale, scales)
        logits = (1 + t) * conditional - t * unconditional

        uniform = noise.uniform[:, config.begins[scale] : config.ends[scale]]
        drawn, candidates = draw_plain(
            rearrange(logits, "b l k -> (b l) k"), rearrange(uniform, "b l -> (b l)"), decoding
        )
        vectors = quantizer.code_vectors(scale, drawn, "generate")
        if decoding.smooth:
            gumbel = noise.gumbel(config.lengths[scale], candidates.codes.shape[1])
            unit_codes, ratio = F.normalize(quantizer.codebook, dim=-1), ratio_of(scale, scales)
            vectors, drawn = mix(candidates, rearrange(gumbel, "b l k -> (b l) k"), unit_codes, ratio)
        tokens.append(rearrange(drawn, "(b l) -> b l", b=batch))

        planes = rearrange(vectors, "(b p l) d -> (b p) l d", b=batch, p=PLANES)
        f_hat, following = quantizer.step(f_hat, scale, planes)
        if on_scale is not None:
            on_scale(DecodedScale(scale, tokens[-1], f_hat, logits.float))
        if following is not None:
            inputs = repeat(following, "(b p) l d -> (half b) (p l) d", half=2, p=PLANES)
            x = model.embed(inputs, scale + 1)
    return Generated(torch.cat(tokens, 1), f_hat)
