"""The autoregressive transformer: all tokens of a scale from those of the coarser ones and a condition (SAR3D,
section 3.2; published.md, transformer).
"""

from functools import partial

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn

from sar3d.ar.attention import AttentionKind, scale_causal_attention
from sar3d.ar.blocks import Block, Head
from sar3d.ar.config import ARConfig
from sar3d.ar.sequential import SequentialLayer
from sar3d.conditions.condition import Condition, PooledStatistics
from sar3d.errors import UserError
from sar3d.vqvae.config import PLANES
from sar3d.vqvae.layers import run


class ARTransformer(nn.Module):
    """Logits of every token, given the coarser scales and a condition.

    The weights are drawn from torch's global generator: seed it for the same start.

    Args:
        config: see `sar3d.ar.config.preset`.
    """

    def __init__(self, config: ARConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.cond_in = nn.Linear(config.pooled_dim, width)
        self.token_in = nn.Linear(config.code_dim, width)
        self.start_embed = nn.Parameter(torch.empty(width))
        self.pos_embed = nn.Parameter(torch.empty(config.tokens, width))
        self.scale_embed = nn.Parameter(torch.empty(len(config.scales), width))
        self.plane_embed = nn.Parameter(torch.empty(PLANES, width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.sequential = SequentialLayer(config) if config.sequential_scales else None
        self.head = Head(config)
        self.attention: AttentionKind | None = None
        """How training attends; None for the fastest on the device."""
        self.checkpoint_activations = False
        """Compute the blocks' activations twice instead of keeping them."""
        self._initialize()

    def forward(
        self,
        inputs: Float[Tensor, "B M D"],
        condition: Condition,
        *,
        code_vectors: Float[Tensor, "B m D"] | None = None,
        scales: int | None = None,
        drop: Float[Tensor, "B depth 3"] | None = None,
    ) -> Float[Tensor, "B L K"]:
        """Logits in float32, L tokens.

        Args:
            inputs: `MultiScaleQuantizer.next_inputs` of the tokens, M = L - 3; more than that is not read.
            condition: of the B samples.
            code_vectors: with `config.sequential_scales`, unit vectors of the tokens of at least these scales; without,
                not read.
            scales: compute only so many scales, exactly; L is then the number of their tokens.
            drop: uniform random numbers of each sample, for drop path (stochastic depth, in training): a branch is
                dropped where its number is below its block's rate. Draw them from the sample's key, so that results
                do not depend on the number of workers. None drops nothing.

        Raises:
            UserError: inputs or condition do not fit the configuration.
        """
        scales = self._check(inputs, condition, scales)
        cond = self.condition_vector(condition)
        context = condition.tokens.to(self.token_in.weight.dtype)
        attend = scale_causal_attention(self.attention, self.config.ends[:scales], inputs.device)
        keep = None if drop is None else self._keep(drop)
        x = self._embed(inputs, cond, scales)
        for i, block in enumerate(self.blocks):
            step = partial(block, attend=attend, keep=None if keep is None else keep[:, i])
            x = run(step, x, cond, context, recompute=self.checkpoint_activations)
        if self.sequential is not None:
            x = self._sequential(x, code_vectors, scales)
        return self.head(x, cond)

    def condition_vector(self, condition: Condition) -> Float[Tensor, "B C"]:
        """The vector that modulates the blocks and starts the sequence, in the parameters' precision under autocast, too."""
        with torch.autocast(condition.pooled.device.type, enabled=False):
            return self.cond_in(condition.pooled.to(self.cond_in.weight.dtype))

    @torch.no_grad()
    def standardize(self, statistics: PooledStatistics) -> None:
        """Initialize `cond_in` so that conditions of these statistics act as if they had mean 0 and deviation 1. It remains
        a linear layer: saved models do not differ.
        """
        self.cond_in.weight /= statistics.deviation
        self.cond_in.bias.sub_(self.cond_in.weight @ statistics.mean.to(self.cond_in.weight))

    def start_tokens(self, cond: Float[Tensor, "B C"]) -> Float[Tensor, "B 3 C"]:
        """The first scale's tokens, embedded, from the condition's vector."""
        return (cond + self.start_embed)[:, None] + self._embeddings(0)

    def embed(self, inputs: Float[Tensor, "B l D"], scale: int) -> Float[Tensor, "B l C"]:
        """A later scale's tokens, embedded, from f̂ so far pooled to it, in the parameters' precision."""
        with torch.autocast(inputs.device.type, enabled=False):
            return self.token_in(inputs.to(self.token_in.weight.dtype)) + self._embeddings(scale)

    def _embed(self, inputs: Tensor, cond: Tensor, scales: int) -> Float[Tensor, "B L C"]:
        lengths = self.config.lengths
        parts = inputs[:, : sum(lengths[1:scales])].split(lengths[1:scales], 1) if scales > 1 else ()
        later = [self.embed(part, scale) for scale, part in enumerate(parts, 1)]
        return torch.cat([self.start_tokens(cond), *later], 1)

    def _embeddings(self, scale: int) -> Float[Tensor, "l C"]:
        """Position, scale and plane embeddings of a scale's tokens."""
        config = self.config
        planes = repeat(self.plane_embed, "p c -> (p l) c", l=config.scales[scale] ** 2)
        return self.pos_embed[config.begins[scale] : config.ends[scale]] + self.scale_embed[scale] + planes

    def _sequential(self, x: Tensor, code_vectors: Tensor | None, scales: int) -> Float[Tensor, "B L C"]:
        """The residual stream, its coarsest tokens informed of the tokens before them."""
        assert self.sequential is not None
        count = min(self.config.sequential_tokens, self.config.ends[scales - 1])
        if code_vectors is None or code_vectors.shape[1] < count or code_vectors.shape[2] != self.config.code_dim:
            raise UserError(
                f"the transformer draws its first {count} tokens one after another: give it their code_vectors, too"
            )
        return torch.cat([self.sequential(x[:, :count], code_vectors), x[:, count:]], 1)

    def _keep(self, drop: Tensor) -> Float[Tensor, "B depth 3"]:
        """Factors of the residual branches: 0 where dropped, else the inverse of the probability of being kept."""
        rates = torch.linspace(0, self.config.drop_path_rate, self.config.depth, device=drop.device)[:, None]
        return (drop >= rates) / (1 - rates)

    def _check(self, inputs: Tensor, condition: Condition, scales: int | None) -> int:
        config = self.config
        scales = len(config.scales) if scales is None else scales
        if not 1 <= scales <= len(config.scales):
            raise UserError(f"the transformer cannot compute {scales} scales: it has {len(config.scales)}")
        least = config.ends[scales - 1] - config.lengths[0]
        if inputs.ndim != 3 or inputs.shape[1] < least or inputs.shape[2] != config.code_dim:
            raise UserError(
                f"the transformer takes {least} inputs of {config.code_dim} channels per sample for {scales} scales, not "
                f"a tensor of shape {tuple(inputs.shape)}: give it those of a VQVAE with its scales and code size"
            )
        widths = (condition.tokens.shape[-1], condition.pooled.shape[-1])
        if widths != (config.context_dim, config.pooled_dim):
            raise UserError(
                f"the transformer takes conditions of {config.context_dim} channels and pooled ones of "
                f"{config.pooled_dim}, not {widths[0]} and {widths[1]}: use the encoder it was trained with"
            )
        return scales

    @torch.no_grad()
    def _initialize(self) -> None:
        """Small normal weights; residual branches scaled down, gates at `gate_init` (published.md, transformer)."""
        config = self.config
        deviation = (1 / config.width / 3) ** 0.5
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=deviation)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for embedding in (self.start_embed, self.pos_embed, self.scale_embed, self.plane_embed):
            nn.init.trunc_normal_(embedding, std=deviation)
        for block in self.blocks:
            assert isinstance(block, Block)
            for output in (block.self_attn.proj, block.mlp[-1]):
                output.weight /= (2 * config.depth) ** 0.5
            gates, others = block.modulation.linear.weight.tensor_split([2 * config.width])
            gates *= 1e-4
            others *= 0.5
            block.modulation.linear.bias[: 2 * config.width] = config.gate_init
        self.head.modulation.linear.weight *= 0.5
        self.head.linear.weight *= 0.02
        if self.sequential is not None:
            self.sequential.initialize()
