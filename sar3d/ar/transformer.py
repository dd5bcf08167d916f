"""The autoregressive transformer: all tokens of a scale from those of the coarser ones and a condition (SAR3D,
section 3.2; published.md, transformer).
"""

from functools import partial

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn

from sar3d.ar.attention import AttentionKind, level_attention
from sar3d.ar.blocks import Block, Head
from sar3d.ar.condition import Condition, PooledStatistics
from sar3d.ar.config import ARConfig
from sar3d.ar.raster import RasterLayer
from sar3d.errors import UserError
from sar3d.vqvae.config import PLANES
from sar3d.vqvae.layers import run


class ARTransformer(nn.Module):
    """Scores of every token's code, given the coarser scales and a condition.

    The weights are drawn from torch's global generator: seed it for the same start.

    Args:
        config: see `sar3d.ar.config.preset`.
    """

    def __init__(self, config: ARConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.pooled = nn.Linear(config.pooled_width, width)
        self.word = nn.Linear(config.dim, width)
        self.start = nn.Parameter(torch.empty(width))
        self.position = nn.Parameter(torch.empty(config.tokens, width))
        self.level = nn.Parameter(torch.empty(len(config.scales), width))
        self.plane = nn.Parameter(torch.empty(PLANES, width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.raster = RasterLayer(config) if config.raster_scales else None
        self.head = Head(config)
        self.attention: AttentionKind | None = None
        """How training attends; None for the fastest on the device."""
        self.checkpoint_activations = False
        """Compute the blocks' activations twice instead of keeping them."""
        self._initialise()

    def forward(
        self,
        inputs: Float[Tensor, "B M D"],
        condition: Condition,
        *,
        drawn: Float[Tensor, "B m D"] | None = None,
        scales: int | None = None,
        drop: Float[Tensor, "B depth 3"] | None = None,
    ) -> Float[Tensor, "B L K"]:
        """Logits in float32, L tokens.

        Args:
            inputs: `MultiScaleQuantizer.next_inputs` of the codes, M = L - 3; more than that is not read.
            condition: of the B samples.
            drawn: with `config.raster_scales`, unit vectors of the codes of at least these scales; else not read.
            scales: compute only so many scales, exactly; L is then the number of their tokens.
            drop: uniform random numbers of each sample, for drop path (stochastic depth, in training): a branch is
                dropped where its number is below its block's rate. Draw them from the sample's key, so that results
                do not depend on the number of workers. None drops nothing.

        Raises:
            UserError: inputs or condition do not fit the configuration.
        """
        scales = self._check(inputs, condition, scales)
        raster = min(self.config.raster_tokens, self.config.ends[scales - 1])
        if raster and (drawn is None or drawn.shape[1] < raster or drawn.shape[2] != self.config.dim):
            raise UserError(
                f"the transformer draws its first {raster} tokens one after another: give it their codes' vectors (drawn)"
            )
        cond = self.condition_vector(condition)
        x = self._embed(inputs, cond, scales)
        tokens = condition.tokens.to(self.word.weight.dtype)
        attend = level_attention(self.attention, self.config.ends[:scales], x.device)
        keep = None if drop is None else self._keep(drop)
        for i, block in enumerate(self.blocks):
            step = partial(block, attend=attend, keep=None if keep is None else keep[:, i])
            x = run(step, x, cond, tokens, recompute=self.checkpoint_activations)
        if self.raster is not None and drawn is not None:
            x = torch.cat([self.raster(x[:, :raster], drawn), x[:, raster:]], 1)
        return self.head(x, cond)

    def condition_vector(self, condition: Condition) -> Float[Tensor, "B C"]:
        """What modulates the blocks and starts the sequence, in the parameters' precision whatever autocast says."""
        with torch.autocast(condition.pooled.device.type, enabled=False):
            return self.pooled(condition.pooled.to(self.pooled.weight.dtype))

    @torch.no_grad()
    def standardise(self, statistics: PooledStatistics) -> None:
        """Let `pooled` see conditions of such statistics as if they had mean 0 and deviation 1. It stays a linear layer,
        so that this is a way to begin training and nothing that a saved model has to know.
        """
        self.pooled.weight /= statistics.deviation
        self.pooled.bias.sub_(self.pooled.weight @ statistics.mean.to(self.pooled.weight))

    def start_tokens(self, cond: Float[Tensor, "B C"]) -> Float[Tensor, "B 3 C"]:
        """The first scale's tokens, embedded, from the condition's vector."""
        return (cond + self.start)[:, None] + self._places(0)

    def embed(self, inputs: Float[Tensor, "B l D"], scale: int) -> Float[Tensor, "B l C"]:
        """A later scale's tokens, embedded, from f̂ so far pooled to it, in the parameters' precision."""
        with torch.autocast(inputs.device.type, enabled=False):
            return self.word(inputs.to(self.word.weight.dtype)) + self._places(scale)

    def _embed(self, inputs: Tensor, cond: Tensor, scales: int) -> Float[Tensor, "B L C"]:
        lengths = self.config.lengths
        parts = inputs[:, : sum(lengths[1:scales])].split(lengths[1:scales], 1) if scales > 1 else ()
        later = [self.embed(part, scale) for scale, part in enumerate(parts, 1)]
        return torch.cat([self.start_tokens(cond), *later], 1)

    def _places(self, scale: int) -> Float[Tensor, "l C"]:
        """Position, level and plane of a scale's tokens."""
        config = self.config
        planes = repeat(self.plane, "p c -> (p l) c", l=config.scales[scale] ** 2)
        return self.position[config.begins[scale] : config.ends[scale]] + self.level[scale] + planes

    def _keep(self, drop: Tensor) -> Float[Tensor, "B depth 3"]:
        rates = torch.linspace(0, self.config.drop_path_rate, self.config.depth, device=drop.device)[:, None]
        return (drop >= rates) / (1 - rates)

    def _check(self, inputs: Tensor, condition: Condition, scales: int | None) -> int:
        config = self.config
        scales = len(config.scales) if scales is None else scales
        if not 1 <= scales <= len(config.scales):
            raise UserError(f"the transformer cannot compute {scales} scales: it has {len(config.scales)}")
        least = config.ends[scales - 1] - config.lengths[0]
        if inputs.ndim != 3 or inputs.shape[1] < least or inputs.shape[2] != config.dim:
            raise UserError(
                f"the transformer takes {least} inputs of {config.dim} channels per sample for {scales} scales, not "
                f"a tensor of shape {tuple(inputs.shape)}: give it those of a VQVAE with its scales and code size"
            )
        widths = (condition.tokens.shape[-1], condition.pooled.shape[-1])
        if widths != (config.condition_width, config.pooled_width):
            raise UserError(
                f"the transformer takes conditions of {config.condition_width} channels and pooled ones of "
                f"{config.pooled_width}, not {widths[0]} and {widths[1]}: use the encoder it was trained with"
            )
        return scales

    @torch.no_grad()
    def _initialise(self) -> None:
        """Small normal weights; branches begin weak, and gates at `gate_init` (published.md, transformer)."""
        config = self.config
        deviation = (1 / config.width / 3) ** 0.5
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=deviation)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for embedding in (self.start, self.position, self.level, self.plane):
            nn.init.trunc_normal_(embedding, std=deviation)
        for block in self.blocks:
            assert isinstance(block, Block)
            for output in (block.self_attention.proj, block.mlp[-1]):
                output.weight /= (2 * config.depth) ** 0.5
            gates, others = block.modulation.linear.weight.tensor_split([2 * config.width])
            gates *= 1e-4
            others *= 0.5
            block.modulation.linear.bias[: 2 * config.width] = config.gate_init
        self.head.modulation.linear.weight *= 0.5
        self.head.linear.weight *= 0.02
        if self.raster is not None:
            self.raster.initialise()
