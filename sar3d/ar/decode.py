"""Fast decoding: what `sar3d.ar.decode_plain` computes, with nothing computed twice.

What depends on the condition alone is computed once, keys and values go into memory allocated once, the two halves of
classifier-free guidance are merged before the head instead of after it (the head is linear), and tokens are drawn
from the most probable ones. Without guidance there is no unconditional half. On a GPU the work of each scale can be
compiled and recorded as one CUDA graph.
"""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from sar3d.ar.blocks import Block
from sar3d.ar.decoding_config import Decoding
from sar3d.ar.draw import SamplingNoise
from sar3d.ar.generated import Generated, Kept, OnScale, Precision, check_request, settled
from sar3d.ar.session import DrawShape, Session
from sar3d.ar.transformer import ARTransformer
from sar3d.conditions.condition import Condition
from sar3d.vqvae.quantizer import MultiScaleQuantizer

Run = Callable[[], None]


def generate(
    model: ARTransformer,
    quantizer: MultiScaleQuantizer,
    condition: Condition,
    empty: Condition,
    seeds: Sequence[int],
    decoding: Decoding | Sequence[Decoding],
    *,
    kept: Kept | None = None,
    precision: Precision = "auto",
    compile: bool | None = None,
    on_scale: OnScale | None = None,
) -> Generated:
    """Tokens for B prompts, scale by scale (published.md, transformer). To generate repeatedly, keep a `Decoder`.

    In float32 a sample's tokens depend on its prompt and seed and, to rounding, on nothing else in the batch.

    Args:
        condition: of the B prompts, on any device.
        empty: the empty condition (B = 1), for guidance.
        seeds: one per sample.
        decoding: of all samples, or one per sample; see `batch_key` for which may be mixed.
        kept: tokens that the samples begin with; a kept token is exactly the given one.
        precision: see `settled`.
        compile: see `Decoder`; None for not, since one generation is shorter than compilation.
        on_scale: called after every scale.

    Raises:
        UserError: model, quantizer, conditions, seeds, settings and kept tokens do not fit each other.
    """
    decoder = Decoder(model, quantizer, precision=precision, compile=bool(compile))
    return decoder.generate(condition, empty, seeds, decoding, kept=kept, on_scale=on_scale)


class Decoder:
    """Generates repeatedly from one model: it keeps the weights in the chosen precision, the memory of the last batch
    size and, on a GPU, the recorded graphs. It does not follow later changes of the weights.

    Args:
        precision: see `settled`.
        compile: compile the blocks, and on a GPU record every scale as a CUDA graph. The first generation of a batch
            size and decoding then takes long. None for where it pays: on a GPU.

    Raises:
        UserError: the device cannot compute in that precision.
    """

    def __init__(
        self,
        model: ARTransformer,
        quantizer: MultiScaleQuantizer,
        *,
        precision: Precision = "auto",
        compile: bool | None = None,
    ) -> None:
        self.model, self.quantizer = model, quantizer
        self.device = model.start_embed.device
        self.dtype = settled(precision, model)
        self.weights = model if self.dtype == torch.float32 else _with_weights_in(model, self.dtype)
        self.compile = self.device.type == "cuda" if compile is None else compile
        self._kept: tuple[object, Session, list[Run]] | None = None

    @torch.no_grad()
    def generate(
        self,
        condition: Condition,
        empty: Condition,
        seeds: Sequence[int],
        decoding: Decoding | Sequence[Decoding],
        *,
        kept: Kept | None = None,
        on_scale: OnScale | None = None,
    ) -> Generated:
        """See the function of this name."""
        check_request(self.model, self.quantizer, condition, empty, seeds, kept)
        decodings = [decoding] * len(seeds) if isinstance(decoding, Decoding) else list(decoding)
        shape = DrawShape.of(decodings, len(seeds), self.model.config.codebook_size)
        session, (prepare, *scales) = self._session(len(condition), condition.tokens.shape[1], shape)
        noise = SamplingNoise(seeds, self.model.config.tokens, self.device)
        session.load(condition, empty, noise, decodings, kept)
        prepare()
        for scale, decode in enumerate(scales):
            if shape.smooth:
                session.gumbel[scale].copy_(noise.gumbel(*session.gumbel[scale].shape[1:]))
            decode()
            if on_scale is not None:
                on_scale(session.decoded(scale))
        return session.generated()

    def _session(self, batch: int, context: int, shape: DrawShape) -> tuple[Session, list[Run]]:
        """The memory for a batch, and what is to be called in turn: to prepare, then for every scale."""
        key = (batch, context, shape)
        if self._kept is not None and self._kept[0] == key:
            return self._kept[1:]
        self._kept = None  # frees the other batch's memory first
        session = Session(self.weights, self.quantizer, batch, context, shape, self.dtype, self.compile)
        runs: list[Run] = [session.prepare, *(partial(session.decode, i) for i in range(len(self.model.config.scales)))]
        if self.compile and self.device.type == "cuda":
            runs = _recorded(runs, self.device)
        self._kept = key, session, runs
        return session, runs


def _with_weights_in(model: ARTransformer, dtype: torch.dtype) -> ARTransformer:
    """The model with the weights of its large matrix products in another type; it shares all others."""
    memo: dict[int, nn.Parameter | Tensor] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    blocks = cast(list[Block], list(model.blocks))
    heavy: list[nn.Module] = [part for block in blocks for part in (block.self_attn, block.cross_attn, block.mlp)]
    if model.sequential is not None:
        heavy += [model.sequential.attn, model.sequential.mlp, model.sequential.output]
    for module in (*heavy, model.head.linear):
        for name, parameter in module.named_parameters():
            if name != "log_temperature":
                memo[id(parameter)] = nn.Parameter(parameter.detach().to(dtype), requires_grad=False)
    return copy.deepcopy(model, memo)


def _recorded(runs: Sequence[Run], device: torch.device) -> list[Run]:
    """CUDA graphs of `runs`, which share memory and are to be replayed in this order."""
    for run in runs:  # compiles, and loads what may not be loaded while recording
        run()
    torch.cuda.synchronize(device)
    pool = torch.cuda.graph_pool_handle()
    replays: list[Run] = []
    for run in runs:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            run()
        replays.append(graph.replay)
    return replays
