"""Encoder and decoder: the published numbers, and what their structure promises."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sar3d.errors import UserError
from sar3d.hub import convert_published
from sar3d.vqvae.config import PRESETS, DecoderConfig, EncoderConfig
from sar3d.vqvae.decoder import TriplaneDecoder, sincos_2d
from sar3d.vqvae.encoder import Encoder
from sar3d.vqvae.model import VQVAE
from sar3d.vqvae.quantizer import pack, unpack

ENCODER = EncoderConfig(channels=8, multipliers=(1, 2), blocks=1, attention_width=16, attention_heads=2, views=3)
DECODER = DecoderConfig(width=24, depth=2, heads=2, channels=8, multipliers=(1, 2), blocks=1, plane_channels=5)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def published(shared: Path) -> VQVAE:
    return convert_published(shared / "goldens" / "tiny_vqvae.safetensors")


def record(into: dict[str, Tensor], name: str, module: nn.Module) -> None:
    module.register_forward_hook(lambda _module, _inputs, output: into.__setitem__(name, output))


def assert_close(ours: Tensor, theirs: np.ndarray, tolerance: float) -> None:
    assert tuple(ours.shape) == theirs.shape
    assert float((ours - torch.from_numpy(theirs).float()).abs().max()) <= tolerance


def half_precision(theirs: np.ndarray) -> float:
    """Tolerance for outputs that were stored in half precision."""
    return max(1e-4, float(np.abs(theirs).max()) * 2**-11 * 1.1)


@torch.no_grad()
def test_encoder_equals_the_published_one(published: VQVAE, shared: Path) -> None:
    golden = np.load(shared / "goldens" / "encoder.npz")
    views = torch.from_numpy(golden["x_lowres"]).float().repeat_interleave(8, 2).repeat_interleave(8, 3)
    inner: dict[str, Tensor] = {}
    record(inner, "mid_block1", published.encoder.mid_block1)
    record(inner, "mid_attn", published.encoder.mid_attention)
    maps = published.encoder.view_maps(views.unflatten(0, (2, 6)))
    for name in ("mid_block1", "mid_attn"):
        assert_close(inner[name][:6, ::8], golden[name], half_precision(golden[name]))
    assert_close(maps.flatten(0, 1), golden["per_view"], 1e-4)
    planes = published.encoder.fusion(maps.flatten(1, 2))
    assert_close(planes, golden["z"], 1e-4)
    f = published.quant_conv(planes.view(6, 8, 16, 16))
    assert_close(f, golden["f"], 1e-4)
    assert torch.equal(pack(published.quantizer.encode(f)), torch.from_numpy(golden["gt_BL"]))


@torch.no_grad()
def test_decoder_equals_the_published_one(published: VQVAE, shared: Path) -> None:
    golden = np.load(shared / "goldens" / "decoder.npz")
    codes = torch.from_numpy(golden["gt_BL"])
    inner: dict[str, Tensor] = {}
    for name in ("post_quant_conv", "blocks.0", "blocks.1"):
        record(inner, name, published.decoder.get_submodule(name))
    f_hat = published.quantizer.f_hat(unpack(codes, published.config.quantizer.scales))
    tokens = published.decoder.tokens(f_hat)
    out = published.decoder.transform(tokens)
    assert_close(inner["post_quant_conv"], golden["post_quant"], 1e-4)
    assert_close(tokens[:, ::7], golden["upsample_tokens"], half_precision(golden["upsample_tokens"]))
    assert_close(inner["blocks.0"].view(2, 3, 256, 96)[:, :, ::7], golden["blk0"], half_precision(golden["blk0"]))
    assert_close(inner["blocks.1"][:, ::7], golden["blk1"], half_precision(golden["blk1"]))
    assert_close(out[:, ::7], golden["dit_out"], 1e-4)
    triplane = published.decode_tokens(codes).flatten(1, 2)
    assert_close(triplane[..., ::8, ::8], golden["triplane_gen"], 2e-3)
    assert_close(triplane[:1, :, 60:68, 60:68], golden["triplane_gen_crop"], 2e-3)


def test_the_published_size() -> None:
    config = PRESETS["paper"]
    with torch.device("meta"):
        model = VQVAE(config)
    assert sum(p.numel() for p in model.parameters()) == 176_242_116
    assert sum(p.numel() for p in model.encoder.parameters()) == 45_085_648
    assert sum(p.numel() for p in model.decoder.upsampler.parameters()) == 2_754_944


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 5])
def test_the_stem_divides_the_resolution_exactly(stride: int) -> None:
    encoder = Encoder(ENCODER, dim=4, stem_stride=stride)
    assert encoder(torch.randn(2, 3, 10, 8 * stride, 8 * stride)).shape == (6, 4, 4, 4)


def test_latent_rows_are_planes_of_objects() -> None:
    encoder = Encoder(ENCODER, dim=4)
    views = torch.randn(2, 3, 10, 8, 8)
    both = encoder(views)
    torch.testing.assert_close(both[:3], encoder(views[:1]))
    torch.testing.assert_close(both[3:], encoder(views[1:]))
    fused = encoder.fusion(encoder.view_maps(views).flatten(1, 2))
    assert torch.equal(both[4], fused[1, 4:8])


def test_every_view_matters_and_so_does_their_order() -> None:
    encoder = Encoder(ENCODER, dim=4)
    views = torch.randn(1, 3, 10, 8, 8)
    assert not torch.allclose(encoder(views), encoder(views[:, [1, 0, 2]]), atol=1e-4)


def test_views_see_each_other_in_the_transformer() -> None:
    encoder = Encoder(ENCODER, dim=4)
    views = torch.randn(1, 3, 10, 8, 8)
    changed = torch.cat([views[:, :2], torch.randn(1, 1, 10, 8, 8)], 1)
    assert torch.equal(
        encoder.view_maps(views)[:, 0], encoder.view_maps(changed)[:, 0]
    )  # the transformer starts at zero
    nn.init.normal_(encoder.mid_attention.proj_out.weight)
    assert not torch.allclose(encoder.view_maps(views)[:, 0], encoder.view_maps(changed)[:, 0], atol=1e-4)


def test_position_embedding_tells_column_and_row() -> None:
    embedding = sincos_2d(width=16, rows=6, columns=2).view(6, 2, 16)
    for row, column in ((0, 0), (5, 1), (3, 0)):
        for k in range(4):
            frequency = 10000 ** (-k / 4)
            expected = [np.sin(column * frequency), np.cos(column * frequency)]
            expected += [np.sin(row * frequency), np.cos(row * frequency)]
            np.testing.assert_allclose(embedding[row, column, [k, 4 + k, 8 + k, 12 + k]], expected, atol=1e-6)


def test_tokens_interleave_the_planes_among_the_channels() -> None:
    decoder = TriplaneDecoder(DECODER, dim=4, side=4)
    f_hat = torch.randn(3, 4, 4, 4)
    channels = decoder.token_conv(decoder.post_quant_conv(f_hat).reshape(1, 12, 4, 4))[0]
    tokens = decoder.tokens(f_hat)[0]
    for plane, row, column, c in ((0, 0, 0, 0), (1, 2, 3, 7), (2, 3, 1, 23)):
        assert tokens[plane * 16 + row * 4 + column, c] == channels[3 * c + plane, row, column]


@pytest.mark.parametrize("in_stream", [False, True])
def test_the_transformer_is_the_identity_at_the_start(in_stream: bool) -> None:
    decoder = TriplaneDecoder(dataclasses.replace(DECODER, tokens_in_stream=in_stream), dim=4, side=4)
    tokens = torch.randn(2, 48, 24)
    expected = decoder.pos_embed.expand(2, -1, -1) + (F.layer_norm(tokens, (24,)) if in_stream else 0)
    assert torch.equal(decoder.transform(tokens), expected)


def test_even_blocks_stay_inside_planes_and_odd_ones_do_not() -> None:
    decoder = TriplaneDecoder(DECODER, dim=4, side=4)
    tokens = torch.randn(1, 48, 24)
    x = torch.randn(1, 48, 24)
    changed = torch.cat([torch.randn(1, 16, 24), x[:, 16:]], 1)
    for name, parameter in decoder.named_parameters():
        if name.endswith("modulation.weight"):
            nn.init.normal_(parameter, std=0.5)
    inside, across = decoder.blocks
    torch.testing.assert_close(inside(x, tokens)[:, 16:], inside(changed, tokens)[:, 16:])
    assert not torch.allclose(across(x, tokens)[:, 16:], across(changed, tokens)[:, 16:], atol=1e-4)


@pytest.mark.parametrize(("multipliers", "side"), [((1,), 4), ((1, 1), 8), ((1, 3, 2), 16)])
def test_the_upsampler_doubles_between_levels(multipliers: tuple[int, ...], side: int) -> None:
    decoder = TriplaneDecoder(dataclasses.replace(DECODER, multipliers=multipliers), dim=4, side=4)
    assert decoder(torch.randn(6, 4, 4, 4)).shape == (2, 3, 5, side, side)


def test_heads_that_do_not_divide_the_width_are_one_sentence() -> None:
    with pytest.raises(UserError, match="width of 24, which 5 heads do not divide"):
        TriplaneDecoder(dataclasses.replace(DECODER, heads=5), dim=4, side=4)
    with pytest.raises(UserError, match="width of 16, which 3 heads do not divide"):
        Encoder(dataclasses.replace(ENCODER, attention_heads=3), dim=4)
    with pytest.raises(UserError, match="multiple of 4, not 18"):
        TriplaneDecoder(dataclasses.replace(DECODER, width=18), dim=4, side=4)
