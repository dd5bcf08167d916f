"""The plane-wise decoder: quantized latent planes to a triplane of features (published.md, decoder)."""

import itertools

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sar3d.errors import UserError
from sar3d.vqvae.config import PLANES, DecoderConfig
from sar3d.vqvae.layers import ResBlock, attention, check_heads, conv3, group_norm, run


def sincos_2d(width: int, rows: int, columns: int) -> Float[Tensor, "1 L C"]:
    """Sine-cosine embedding of a grid, row-major (He et al. 2021): first half of the channels for the column, second
    for the row; in each half first the sines, then the cosines, of `width` / 4 frequencies.

    Raises:
        UserError: the width is no multiple of 4.
    """
    if width % 4:
        raise UserError(f"the decoder's width must be a multiple of 4, not {width}")
    frequencies = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    halves = []
    for position, pattern in (
        (torch.arange(columns), "columns c -> rows columns c"),
        (torch.arange(rows), "rows c -> rows columns c"),
    ):
        angles = position[:, None] * frequencies
        halves.append(repeat(torch.cat([angles.sin(), angles.cos()], -1), pattern, rows=rows, columns=columns))
    return rearrange(torch.cat(halves, -1), "rows columns c -> 1 (rows columns) c").float()


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "B L C"]) -> Float[Tensor, "B L C"]:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.proj(attention(q, k, v, self.heads))


class DiTBlock(nn.Module):
    """Transformer block that every token modulates by itself (adaptive layer norm, zero at the start).

    Attention runs inside each plane (`in_plane`) or over all planes.
    """

    def __init__(self, config: DecoderConfig, *, in_plane: bool) -> None:
        super().__init__()
        width = config.width
        self.groups = PLANES if in_plane else 1
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attention = Attention(width, config.heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, config.mlp_ratio * width, bias=False),
            nn.GELU(),
            nn.Linear(config.mlp_ratio * width, width, bias=False),
        )
        self.modulation = nn.Linear(width, 6 * width)
        for parameter in self.modulation.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Float[Tensor, "B L C"], tokens: Float[Tensor, "B L C"]) -> Float[Tensor, "B L C"]:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(F.silu(tokens)).chunk(6, dim=-1)
        h = rearrange(self.norm(x) * (1 + scale1) + shift1, "b (g l) c -> (b g) l c", g=self.groups)
        x = x + gate1 * rearrange(self.attention(h), "(b g) l c -> b (g l) c", g=self.groups)
        return x + gate2 * self.mlp(self.norm(x) * (1 + scale2) + shift2)


class PlaneAttention(nn.Module):
    """Single-head attention among the pixels of a map (Stable Diffusion's)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        normed = self.norm(x)
        q, k, v = (rearrange(conv(normed), "b c h w -> b (h w) c") for conv in (self.q, self.k, self.v))
        h = rearrange(attention(q, k, v, heads=1), "b (h w) c -> b c h w", h=x.shape[2])
        return x + self.proj_out(h)


class Upsample(nn.Module):
    """Doubles the size: nearest neighbor, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3(channels, channels)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H2 W2"]:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class UpLevel(nn.Module):
    """Residual blocks at one resolution, then the step to the next unless this is the finest."""

    def __init__(self, inputs: int, outputs: int, blocks: int, *, is_finest: bool) -> None:
        super().__init__()
        widths = [inputs] + [outputs] * blocks
        self.blocks = nn.Sequential(*(ResBlock(a, b) for a, b in itertools.pairwise(widths)))
        self.upsample = nn.Identity() if is_finest else Upsample(outputs)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C2 H2 W2"]:
        return self.upsample(self.blocks(x))


class PlaneUpsampler(nn.Module):
    """Convolutional decoder of one plane: 2^(levels-1) times its side."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        widths = [config.channels * m for m in config.multipliers]
        inputs = [*widths[1:], widths[-1]]
        self.conv_in = conv3(config.width, widths[-1])
        self.mid_block1 = ResBlock(widths[-1], widths[-1])
        self.mid_attention = PlaneAttention(widths[-1])
        self.mid_block2 = ResBlock(widths[-1], widths[-1])
        self.levels = nn.ModuleList(
            UpLevel(a, b, config.blocks, is_finest=i == 0) for i, (a, b) in enumerate(zip(inputs, widths, strict=True))
        )
        self.norm_out = group_norm(widths[0])
        self.conv_out = conv3(widths[0], config.plane_channels)

    def forward(self, x: Float[Tensor, "BP C G G"], *, recompute: bool = False) -> Float[Tensor, "BP C2 R R"]:
        x = self.conv_in(x)
        x = self.mid_block2(self.mid_attention(self.mid_block1(x)))
        for level in reversed(self.levels):
            x = run(level, x, recompute=recompute)
        return self.conv_out(F.silu(self.norm_out(x)))


class TriplaneDecoder(nn.Module):
    """Latent planes to tokens, a transformer whose blocks attend in turn inside each plane and over all planes, and
    an upsampler of every plane.

    Args:
        config: widths and depths.
        dim: D, channels of a latent plane.
        side: G, side of a latent plane.
    """

    def __init__(self, config: DecoderConfig, dim: int, side: int) -> None:
        super().__init__()
        check_heads("decoder", config.width, config.heads)
        self.side = side
        self.tokens_in_stream = config.tokens_in_stream
        self.post_quant_conv = conv3(dim, dim)
        self.token_conv = nn.Conv2d(PLANES * dim, PLANES * config.width, 3, padding=1, groups=PLANES)
        self.pos_embed = nn.Parameter(sincos_2d(config.width, PLANES * side, side))
        self.blocks = nn.ModuleList(DiTBlock(config, in_plane=i % 2 == 0) for i in range(config.depth))
        self.upsampler = PlaneUpsampler(config)

    def tokens(self, f_hat: Float[Tensor, "BP D G G"]) -> Float[Tensor, "B L C"]:
        """Tokens of the transformer, plane-major, then row-major: L = 3·G²."""
        latent = rearrange(self.post_quant_conv(f_hat), "(b p) d h w -> b (p d) h w", p=PLANES)
        # The planes lie innermost among the output channels while the convolution's groups lie outermost, so every
        # token mixes what the three groups read. The published weights were trained with it.
        return rearrange(self.token_conv(latent), "b (c p) h w -> b (p h w) c", p=PLANES)

    def transform(self, tokens: Float[Tensor, "B L C"], *, recompute: bool = False) -> Float[Tensor, "B L C"]:
        """The transformer: its stream starts as the position embedding, the tokens modulate its blocks."""
        x = self.pos_embed.expand_as(tokens)
        if self.tokens_in_stream:
            # At the start they are much smaller than the embedding, and every object would look the same.
            tokens = F.layer_norm(tokens, tokens.shape[-1:])
            x = x + tokens
        for block in self.blocks:
            x = run(block, x, tokens, recompute=recompute)
        return x

    def forward(self, f_hat: Float[Tensor, "BP D G G"], *, recompute: bool = False) -> Float[Tensor, "B P C R R"]:
        """The triplane's features.

        Args:
            f_hat: latent planes, row 3b + p = plane p of object b.
            recompute: save memory by computing the activations of blocks and levels twice.
        """
        x = self.transform(self.tokens(f_hat), recompute=recompute)
        planes = self.upsampler(rearrange(x, "b (p h w) c -> (b p) c h w", p=PLANES, h=self.side), recompute=recompute)
        return rearrange(planes, "(b p) c h w -> b p c h w", p=PLANES)
