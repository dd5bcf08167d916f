"""The multi-view encoder: six views of RGB, Plücker rays and depth to one latent triplane (published.md, encoder)."""

import itertools

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sar3d.vqvae.config import PLANES, EncoderConfig
from sar3d.vqvae.layers import ResBlock, attention, check_heads, conv3, group_norm, run


class Downsample(nn.Module):
    """Halves the size; the padding lies on the right and at the bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H2 W2"]:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class DownLevel(nn.Module):
    """Residual blocks at one resolution, then the step to the next unless this is the last."""

    def __init__(self, inputs: int, outputs: int, blocks: int, *, is_last: bool) -> None:
        super().__init__()
        widths = [inputs] + [outputs] * blocks
        self.blocks = nn.Sequential(*(ResBlock(a, b) for a, b in itertools.pairwise(widths)))
        self.downsample = nn.Identity() if is_last else Downsample(outputs)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C2 H2 W2"]:
        return self.downsample(self.blocks(x))


class ImageSelfAttention(nn.Module):
    """Multi-head self-attention whose queries, keys and values have no bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "B L C"]) -> Float[Tensor, "B L C"]:
        return self.to_out(attention(self.to_q(x), self.to_k(x), self.to_v(x), self.heads))


class GEGLU(nn.Module):
    """Feed-forward layer whose hidden units are gated by an exact GELU."""

    def __init__(self, width: int, ratio: int = 4) -> None:
        super().__init__()
        self.proj_in = nn.Linear(width, 2 * ratio * width)
        self.proj_out = nn.Linear(ratio * width, width)

    def forward(self, x: Float[Tensor, "B L C"]) -> Float[Tensor, "B L C"]:
        value, gate = self.proj_in(x).chunk(2, dim=-1)
        return self.proj_out(value * F.gelu(gate))


class CrossViewTransformer(nn.Module):
    """One transformer block: attention over the tokens of all views, then within each view, then a GEGLU."""

    def __init__(self, channels: int, width: int, heads: int) -> None:
        super().__init__()
        check_heads("encoder's cross-view attention", width, heads)
        self.norm = group_norm(channels)
        self.proj_in = nn.Conv2d(channels, width, 1)
        self.norm1 = nn.LayerNorm(width)
        self.cross_view = ImageSelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.in_view = ImageSelfAttention(width, heads)
        self.norm3 = nn.LayerNorm(width)
        self.feed_forward = GEGLU(width)
        self.proj_out = nn.Conv2d(width, channels, 1)
        for parameter in self.proj_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Float[Tensor, "BV C H W"], views: int) -> Float[Tensor, "BV C H W"]:
        height = x.shape[2]
        h = rearrange(self.proj_in(self.norm(x)), "(b v) c h w -> b (v h w) c", v=views)
        h = h + self.cross_view(self.norm1(h))
        h = rearrange(h, "b (v l) c -> (b v) l c", v=views)
        h = h + self.in_view(self.norm2(h))
        h = h + self.feed_forward(self.norm3(h))
        return x + self.proj_out(rearrange(h, "bv (h w) c -> bv c h w", h=height))


class Encoder(nn.Module):
    """Convolutional encoder with one cross-view transformer; the views are fused by a last convolution.

    Args:
        config: widths and depths.
        dim: D, channels of a latent plane.
        stem_stride: stride of the first convolution, 1 in the published encoder.
    """

    def __init__(self, config: EncoderConfig, dim: int, stem_stride: int = 1) -> None:
        super().__init__()
        self.views = config.views
        widths = [config.channels] + [config.channels * m for m in config.multipliers]
        last = len(config.multipliers) - 1
        kernel = max(3, stem_stride)
        self.conv_in = nn.Conv2d(
            config.in_channels, config.channels, kernel, stem_stride, padding=(kernel - stem_stride + 1) // 2
        )
        self.levels = nn.ModuleList(
            DownLevel(a, b, config.blocks, is_last=i == last) for i, (a, b) in enumerate(itertools.pairwise(widths))
        )
        self.mid_block1 = ResBlock(widths[-1], widths[-1])
        self.mid_attention = CrossViewTransformer(widths[-1], config.attention_width, config.attention_heads)
        self.mid_block2 = ResBlock(widths[-1], widths[-1])
        self.norm_out = group_norm(widths[-1])
        self.conv_out = conv3(widths[-1], PLANES * dim)
        self.fusion = conv3(config.views * PLANES * dim, PLANES * dim)

    def view_maps(self, views: Float[Tensor, "B V C H W"], *, recompute: bool = False) -> Float[Tensor, "B V PD G G"]:
        """The feature map of every view, before the fusion."""
        x = self.conv_in(rearrange(views, "b v c h w -> (b v) c h w"))
        for level in self.levels:
            x = run(level, x, recompute=recompute)
        x = self.mid_block1(x)
        x = self.mid_attention(x, self.views)
        x = self.mid_block2(x)
        x = self.conv_out(F.silu(self.norm_out(x)))
        return rearrange(x, "(b v) c h w -> b v c h w", v=self.views)

    def forward(self, views: Float[Tensor, "B V C H W"], *, recompute: bool = False) -> Float[Tensor, "BP D G G"]:
        """Latent planes, row 3b + p = plane p of object b. The order of the views matters.

        Args:
            views: encoder input (see `sar3d.data.loading.view_tensors.encoder_input`); H and W are
                2^(levels-1) · stem stride · G.
            recompute: save memory by computing the activations of the levels twice.
        """
        maps = self.view_maps(views, recompute=recompute)
        fused = self.fusion(rearrange(maps, "b v c h w -> b (v c) h w"))
        return rearrange(fused, "b (p d) h w -> (b p) d h w", p=PLANES)
