"""Decoding as published, written to be read: the oracle of `sar3d.ar.decode`.

Conditional and unconditional samples are two halves of one batch, keys and values of finished scales are concatenated,
what depends on the condition alone is computed at every scale, and codes are drawn from a sort of all of them.
"""

from collections.abc import Sequence

import torch
from einops import rearrange, repeat
from jaxtyping import Float
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
    streams, told = x[:, :0], x.new_zeros(batch, 0, config.dim)
    for scale in range(scales):
        with computing_in(dtype, device):
            for block, cache in zip(model.blocks, caches, strict=True):
                x = block(x, cond, context, cache)
        draw_some = _Draw(model, quantizer, decoding, noise, scale, batch)
        if scale < config.raster_scales:
            assert model.raster is not None
            # Token after token; for each, everything before it is read again.
            streams = torch.cat([streams, x], 1)
            found = []
            for place in range(config.begins[scale], config.ends[scale]):
                with computing_in(dtype, device):
                    y = model.raster(streams[:, : place + 1], told.repeat(2, 1, 1))
                    both = model.head(y[:, -1:], cond)
                found.append(draw_some(both, place))
                told = torch.cat([told, found[-1][2]], 1)
            logits, drawn, vectors = (torch.cat(part, 1) for part in zip(*found, strict=True))
        else:
            with computing_in(dtype, device):
                both = model.head(x, cond)
            logits, drawn, vectors = draw_some(both, config.begins[scale])
        tokens.append(drawn)

        planes = rearrange(vectors, "b (p l) d -> (b p) l d", p=PLANES)
        f_hat, following = quantizer.step(f_hat, scale, planes)
        if on_scale is not None:
            on_scale(DecodedScale(scale, tokens[-1], f_hat, logits.float))
        if following is not None:
            inputs = repeat(following, "(b p) l d -> (half b) (p l) d", half=2, p=PLANES)
            x = model.embed(inputs, scale + 1)
    return Generated(torch.cat(tokens, 1), f_hat)


class _Draw:
    """From the logits of both halves to guided logits, codes and vectors, at one scale."""

    def __init__(
        self,
        model: ARTransformer,
        quantizer: MultiScaleQuantizer,
        decoding: Decoding,
        noise: Noise,
        scale: int,
        batch: int,
    ) -> None:
        self.quantizer, self.decoding, self.noise, self.scale = quantizer, decoding, noise, scale
        self.config, self.scales = model.config, len(model.config.scales)
        candidates = min(decoding.top_k or model.config.codes, model.config.codes)
        self.gumbel = noise.gumbel(model.config.lengths[scale], candidates) if decoding.smooth else None

    def __call__(self, both: Float[Tensor, "R l K"], begin: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of the scale's tokens from place `begin` of the sequence on: (B, l, K), (B, l), (B, l, D)."""
        conditional, unconditional = both.chunk(2)
        t = guidance_of(self.decoding, self.scale, self.scales)
        logits = (1 + t) * conditional - t * unconditional
        batch, length = logits.shape[:2]
        uniform = self.noise.uniform[:, begin : begin + length]
        drawn, candidates = draw_plain(
            rearrange(logits, "b l k -> (b l) k"), rearrange(uniform, "b l -> (b l)"), self.decoding
        )
        vectors = self.quantizer.code_vectors(self.scale, drawn, "generate")
        if self.gumbel is not None:
            start = begin - self.config.begins[self.scale]
            gumbel = rearrange(self.gumbel[:, start : start + length], "b l k -> (b l) k")
            unit_codes, ratio = F.normalize(self.quantizer.codebook, dim=-1), ratio_of(self.scale, self.scales)
            vectors, drawn = mix(candidates, gumbel, unit_codes, ratio)
        return logits, rearrange(drawn, "(b l) -> b l", b=batch), rearrange(vectors, "(b l) d -> b l d", b=batch)
