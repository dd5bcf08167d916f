"""One batch on its way through the scales: the steps of fast decoding, and the memory they work in."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from sar3d.ar.attention import full_attention
from sar3d.ar.blocks import Block, KeysValues, Modulation, modulate
from sar3d.ar.cache import KeyValueCache
from sar3d.ar.decoding_config import Decoding, batch_key
from sar3d.ar.draw import RowSettings, SamplingNoise, candidates_of, draw, mix, ratio_of
from sar3d.ar.generated import DecodedScale, Generated, Kept, computing_in
from sar3d.ar.transformer import ARTransformer
from sar3d.conditions.condition import Condition
from sar3d.errors import UserError
from sar3d.vqvae.config import PLANES
from sar3d.vqvae.quantizer import MultiScaleQuantizer

_HEAD_ROWS = 1024
"""Positions whose logits are held at a time."""


@dataclass(frozen=True)
class DrawShape:
    """What of the samples' settings decides sizes; the settings themselves are data."""

    guided: bool
    """Whether any sample is: then all have an unconditional half."""
    candidates: int
    """The greatest number of tokens that top-k keeps."""
    smooth: bool

    @classmethod
    def of(cls, decodings: Sequence[Decoding], batch: int, codebook_size: int) -> "DrawShape":
        """The shape of a batch. Raises `UserError` for settings that cannot be mixed, or not one per sample."""
        if len(decodings) != batch or len(set(map(batch_key, decodings))) != 1:
            raise UserError(
                f"{batch} samples need as many settings, all smooth with one top_k or none smooth, not {len(decodings)} "
                "others: draw them in several batches"
            )
        candidates = max(candidates_of(d, codebook_size) for d in decodings)
        return cls(any(d.guidance for d in decodings), candidates, decodings[0].smooth)


@dataclass(frozen=True)
class _Scale:
    """Results of one scale."""

    hidden: Float[Tensor, "B l C"]
    """Guided, before the head's linear map."""
    tokens: Int[Tensor, "B l"]
    f_hat: Float[Tensor, "BP D G G"]
    inputs: Float[Tensor, "B2 m D"] | None
    """Of the next scale."""


class Session:
    """One batch on its way through the scales. Inputs lie at fixed places, so that its steps can be recorded."""

    def __init__(
        self,
        model: ARTransformer,
        quantizer: MultiScaleQuantizer,
        batch: int,
        context: int,
        shape: DrawShape,
        dtype: torch.dtype,
        compile: bool,
    ) -> None:
        self.model, self.quantizer, self.config, self.shape = model, quantizer, model.config, shape
        self.batch, self.halves = batch, 2 if shape.guided else 1
        self.dtype, self.device = dtype, model.start_embed.device
        self.blocks = cast(list[Block], list(model.blocks))
        self.step = torch.compile(decode_block, dynamic=True) if compile else decode_block
        rows, config, exact = batch * self.halves, model.config, model.token_in.weight.dtype
        self.context_tokens = torch.empty(rows, context, config.context_dim, dtype=exact, device=self.device)
        self.pooled = torch.empty(rows, config.pooled_dim, dtype=exact, device=self.device)
        self.uniform = torch.empty(batch, config.tokens, dtype=torch.float64, device=self.device)
        self.settings = RowSettings.of([Decoding()] * batch, config.codebook_size, self.device)
        self.kept = torch.zeros(batch, config.tokens, dtype=torch.bool, device=self.device)
        self.kept_tokens = torch.zeros(batch, config.tokens, dtype=torch.long, device=self.device)
        self.gumbel = [
            torch.zeros(batch, n, shape.candidates, device=self.device) for n in config.lengths if shape.smooth
        ]
        self.unit_codes = F.normalize(quantizer.codebook, dim=-1)
        self.cache = KeyValueCache(config, rows, dtype, self.device)
        sequential = (2, rows, config.heads, config.sequential_tokens, config.width // config.heads)
        self.sequential_cache = torch.empty(sequential, dtype=dtype, device=self.device)
        self.scales: list[_Scale] = []

    def load(
        self,
        condition: Condition,
        empty: Condition,
        noise: SamplingNoise,
        decodings: Sequence[Decoding],
        kept: Kept | None,
    ) -> None:
        """Put one request where the steps read it."""
        self.uniform.copy_(noise.uniform)
        self.settings.copy_(RowSettings.of(decodings, self.config.codebook_size))
        self.kept.zero_()
        if kept is not None:
            self.kept.copy_(kept.mask(self.config))
            self.kept_tokens.copy_(kept.tokens)
        for place, given, nothing in (
            (self.context_tokens, condition.tokens, empty.tokens),
            (self.pooled, condition.pooled, empty.pooled),
        ):
            place[: self.batch].copy_(given)
            place[self.batch :].copy_(nothing.expand(len(place) - self.batch, *nothing.shape[1:]))

    def prepare(self) -> None:
        """All that depends on the condition alone."""
        with computing_in(self.dtype, self.device):
            self.cond = self.model.condition_vector(Condition(self.context_tokens, self.pooled))
            self.context = [block.cross_attn.keys_values(self.context_tokens) for block in self.blocks]
            self.modulations = [block.modulations(self.cond) for block in self.blocks]
            self.head_scale, self.head_shift = self.model.head.modulation(self.cond)
        side = self.quantizer.side
        self.f_hat = torch.zeros(PLANES * self.batch, self.config.code_dim, side, side, device=self.device)
        self.previous = torch.zeros(len(self.pooled), 1, self.config.code_dim, device=self.device)
        self.scales = []

    def decode(self, scale: int) -> None:
        """One scale: its hidden state, tokens and latent, and the next one's inputs."""
        x = self._transformed(scale)
        if scale < self.config.sequential_scales:
            hidden, tokens, vectors = self._draw_sequentially(x, scale)
        else:
            hidden = self._guided(x, scale)
            tokens, vectors = self._draw(hidden, scale)
        planes = rearrange(vectors, "b (p l) d -> (b p) l d", p=PLANES)
        before = self.scales[-1].f_hat if scale else self.f_hat
        f_hat, following = self.quantizer.step(before, scale, planes)
        inputs = None
        if following is not None:
            inputs = repeat(following, "(b p) l d -> (half b) (p l) d", half=self.halves, p=PLANES)
        self.scales.append(_Scale(hidden, tokens, f_hat, inputs))

    def decoded(self, scale: int) -> DecodedScale:
        """For `on_scale`."""
        done = self.scales[scale]
        return DecodedScale(scale, done.tokens, done.f_hat, lambda: self._logits(done.hidden))

    def generated(self) -> Generated:
        """In memory of its own."""
        return Generated(torch.cat([scale.tokens for scale in self.scales], 1), self.scales[-1].f_hat.clone())

    def _transformed(self, scale: int) -> Float[Tensor, "B2 l C"]:
        """A scale's tokens after the blocks."""
        with computing_in(self.dtype, self.device):
            if scale:
                inputs = self.scales[-1].inputs
                assert inputs is not None
                x = self.model.embed(inputs, scale)
            else:
                x = self.model.start_tokens(self.cond)
            begin = self.config.begins[scale]
            for i, block in enumerate(self.blocks):
                x = self.step(block, x, self.modulations[i], self.context[i], self.cache.past(i, scale), begin)
            return x

    def _draw_sequentially(self, x: Float[Tensor, "B2 l C"], scale: int) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden state, tokens and code vectors of one scale, token by token."""
        sequential = self.model.sequential
        assert sequential is not None
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for i in range(x.shape[1]):
            place = self.config.begins[scale] + i
            attend = partial(attend_from, past=self.sequential_cache[:, :, :, : place + 1], begin=place)
            with computing_in(self.dtype, self.device):
                informed = sequential.transform(x[:, i : i + 1], self.previous, place, attend)
            hidden = self._guided(informed, scale)
            tokens, vectors = self._draw(hidden, scale, i)
            self.previous = repeat(vectors, "b l d -> (half b) l d", half=self.halves)
            found.append((hidden, tokens, vectors))
        hidden, tokens, vectors = (torch.cat(part, 1) for part in zip(*found, strict=True))
        return hidden, tokens, vectors

    def _guided(self, x: Float[Tensor, "B2 l C"], scale: int) -> Float[Tensor, "B l C"]:
        """The guided hidden state that the head maps to logits.

        The head is linear, so guiding before it gives the guided logits at half the cost.
        """
        ratio = ratio_of(scale, len(self.config.scales))
        with computing_in(self.dtype, self.device):
            if not ratio or self.halves == 1:
                return modulate(x[: self.batch], self.head_shift[: self.batch], self.head_scale[: self.batch])
            conditional, unconditional = modulate(x, self.head_shift, self.head_scale).chunk(2)
            t = rearrange(self.settings.guidance * ratio, "b -> b 1 1")
            return (1 + t).float() * conditional - t.float() * unconditional

    def _logits(self, hidden: Tensor) -> Float[Tensor, "B l K"]:
        with torch.no_grad(), computing_in(self.dtype, self.device):
            return self.model.head.linear(hidden).float()

    def _draw(
        self, hidden: Float[Tensor, "B l C"], scale: int, start: int = 0
    ) -> tuple[Int[Tensor, "B l"], Float[Tensor, "B l D"]]:
        """The scale's tokens from `start` on and their code vectors, some positions at a time."""
        begin, end = (self.config.begins[scale] + place for place in (start, start + hidden.shape[1]))
        uniform, kept, given = (
            rearrange(values[:, begin:end], "b l -> (b l)") for values in (self.uniform, self.kept, self.kept_tokens)
        )
        settings, gumbel = self.settings.repeated(hidden.shape[1]), None
        if self.shape.smooth:
            gumbel = rearrange(self.gumbel[scale][:, start : start + hidden.shape[1]], "b l k -> (b l) k")
        rows = rearrange(hidden, "b l c -> (b l) c")
        tokens, vectors = [], []
        for first in range(0, len(rows), _HEAD_ROWS):
            part = slice(first, first + _HEAD_ROWS)
            logits = self._logits(rows[part])
            chosen, candidates = draw(logits, uniform[part], settings.part(part), self.shape.candidates)
            mixed = None
            if gumbel is not None:
                ratio = ratio_of(scale, len(self.config.scales))
                mixed, chosen = mix(candidates, gumbel[part], self.unit_codes, ratio)
            chosen = torch.where(kept[part], given[part], chosen)
            found = self.quantizer.code_vectors(scale, chosen, "generate")
            tokens.append(chosen)
            vectors.append(found if mixed is None else torch.where(kept[part, None], found, mixed))
        return (
            rearrange(torch.cat(tokens), "(b l) -> b l", b=self.batch),
            rearrange(torch.cat(vectors), "(b l) d -> b l d", b=self.batch),
        )


def decode_block(
    block: Block,
    x: Float[Tensor, "B2 l C"],
    modulations: tuple[Modulation, Modulation],
    context: KeysValues,
    past: Float[Tensor, "2 B2 A L E"],
    begin: int,
) -> Float[Tensor, "B2 l C"]:
    """One block on one scale, whose keys and values are written into the past from `begin` on."""
    return block.transform(x, modulations, context, partial(attend_from, past=past, begin=begin))


def attend_from(
    q: Float[Tensor, "B2 A l E"],
    k: Float[Tensor, "B2 A l E"],
    v: Float[Tensor, "B2 A l E"],
    past: Float[Tensor, "2 B2 A L E"],
    begin: int,
) -> Float[Tensor, "B2 A l E"]:
    """Attention to the past, once it is completed from `begin` on."""
    past[0, :, :, begin:].copy_(k)
    past[1, :, :, begin:].copy_(v)
    return full_attention(q, past[0], past[1])
