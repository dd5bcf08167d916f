"""Decoding as published, written to be read: the reference that `sar3d.ar.decode` is tested against.

The conditional and the unconditional samples are two halves of one batch, keys and values of finished scales are
concatenated, what depends on the condition alone is computed at every scale, and tokens are drawn from a sort of the
whole codebook.
"""

from collections.abc import Sequence

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn import functional as F

from sar3d.ar.attention import full_attention
from sar3d.ar.decoding_config import Decoding
from sar3d.ar.draw import SamplingNoise, draw_plain, guidance_of, mix, ratio_of
from sar3d.ar.generated import DecodedScale, Generated, Kept, OnScale, Precision, check_request, computing_in, settled
from sar3d.ar.transformer import ARTransformer
from sar3d.conditions.condition import Condition
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
    kept: Kept | None = None,
    precision: Precision = "auto",
    on_scale: OnScale | None = None,
) -> Generated:
    """The same as `sar3d.ar.decode.generate`, which see (published.md, transformer)."""
    check_request(model, quantizer, condition, empty, seeds, kept)
    config, device, dtype = model.config, model.start_embed.device, settled(precision, model)
    batch, scales = len(seeds), len(config.scales)
    noise = SamplingNoise(seeds, config.tokens, device)
    caches = [ConcatenatingCache() for _ in model.blocks]

    halves = Condition.cat([condition.to(device), empty.to(device).expand(batch)])
    context = halves.tokens.to(model.token_in.weight.dtype)
    with computing_in(dtype, device):
        cond = model.condition_vector(halves)
    x = model.start_tokens(cond)
    stream, code_vectors = x[:, :0], x.new_zeros(batch, 0, config.code_dim)  # of the tokens so far
    f_hat = torch.zeros(PLANES * batch, config.code_dim, quantizer.side, quantizer.side, device=device)
    all_tokens = []
    for scale, (begin, length) in enumerate(zip(config.begins, config.lengths, strict=True)):
        with computing_in(dtype, device):
            for block, cache in zip(model.blocks, caches, strict=True):
                x = block(x, cond, context, cache)

        guidance, sequential = guidance_of(decoding, scale, scales), scale < config.sequential_scales
        candidates = min(decoding.top_k or config.codebook_size, config.codebook_size)
        gumbel = noise.gumbel(length, candidates) if decoding.smooth else None
        drawn = []
        for start in range(length) if sequential else (0,):
            y = x[:, start : start + 1] if sequential else x
            with computing_in(dtype, device):
                if sequential and model.sequential is not None:
                    stream = torch.cat([stream, y], 1)
                    y = model.sequential(stream, code_vectors.repeat(2, 1, 1))[:, -1:]
                conditional, unconditional = model.head(y, cond).chunk(2)
            logits = (1 + guidance) * conditional - guidance * unconditional
            part = slice(start, start + logits.shape[1])
            uniform = noise.uniform[:, begin:][:, part]
            tokens, among = draw_plain(logits.flatten(0, 1), uniform.flatten(), decoding)
            vectors = quantizer.code_vectors(scale, tokens, "generate")
            if gumbel is not None:
                unit_codes = F.normalize(quantizer.codebook, dim=-1)
                vectors, tokens = mix(among, gumbel[:, part].flatten(0, 1), unit_codes, ratio_of(scale, scales))
            tokens, vectors = (rearrange(found, "(b l) ... -> b l ...", b=batch) for found in (tokens, vectors))
            if kept is not None:
                place = slice(begin + part.start, begin + part.stop)
                stay, given = (t.to(device)[:, place] for t in (kept.mask(config), kept.tokens))
                tokens = torch.where(stay, given, tokens)
                vectors = torch.where(stay[..., None], quantizer.code_vectors(scale, tokens, "generate"), vectors)
            code_vectors = torch.cat([code_vectors, vectors], 1)
            drawn.append((logits, tokens, vectors))
        logits, tokens, vectors = (torch.cat(parts, 1) for parts in zip(*drawn, strict=True))
        all_tokens.append(tokens)

        f_hat, following = quantizer.step(f_hat, scale, rearrange(vectors, "b (p l) d -> (b p) l d", p=PLANES))
        if on_scale is not None:
            on_scale(DecodedScale(scale, tokens, f_hat, logits.float))
        if following is not None:
            inputs = repeat(following, "(b p) l d -> (half b) (p l) d", half=2, p=PLANES)
            x = model.embed(inputs, scale + 1)
    return Generated(torch.cat(all_tokens, 1), f_hat)
