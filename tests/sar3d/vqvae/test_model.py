"""The whole VQVAE: shapes, codes that regenerate the decoder's input, precision, recomputation, refusals."""

import dataclasses

import pytest
import torch
from torch import Tensor

from sar3d.errors import UserError
from sar3d.vqvae import PRESETS, VQVAE, VQVAEConfig
from sar3d.vqvae.config import DecoderConfig, EncoderConfig, FieldConfig, QuantizerConfig
from sar3d.vqvae.model import unit_rms

MICRO = VQVAEConfig(
    resolution=16,
    encoder=EncoderConfig(channels=8, multipliers=(1, 2), blocks=1, attention_width=16, attention_heads=2, views=3),
    quantizer=QuantizerConfig(codebook_size=32, code_dim=4, scales=(1, 2, 4)),
    decoder=DecoderConfig(width=24, depth=2, heads=2, channels=8, multipliers=(1, 2), blocks=1, plane_channels=5),
    field=FieldConfig(hidden=8, hidden_layers=1),
)


def model(config: VQVAEConfig = MICRO, seed: int = 0) -> VQVAE:
    """With the gates and projections that start at zero opened, so that everything has a say."""
    torch.manual_seed(seed)
    made = VQVAE(config)
    for name, parameter in made.named_parameters():
        if name.endswith(("modulation.weight", "mid_attention.proj_out.weight")):
            torch.nn.init.normal_(parameter, std=0.1)
    return made


def views(objects: int = 2, config: VQVAEConfig = MICRO, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (objects, config.encoder.views, config.encoder.in_channels, config.resolution, config.resolution)
    return torch.randn(shape, generator=generator)


def test_shapes() -> None:
    made, x = model(), views()
    planes, quantized = made(x)
    assert planes.shape == (2, 3, 5, 8, 8)
    assert quantized.f_hat.shape == (6, 4, 4, 4)
    assert made.tokens(x).shape == (2, MICRO.tokens) == (2, 63)
    assert made.field(planes).query(torch.zeros(2, 7, 3)).rgb.shape == (2, 7, 3)


@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_presets_build(preset: str) -> None:
    config = PRESETS[preset]
    with torch.device("meta"):
        made = VQVAE(config)
    assert made.config.tokens == 2040
    assert made.decoder.pos_embed.shape == (1, 768, config.decoder.width)


def test_equal_seeds_give_equal_weights() -> None:
    first, second, third = (dict(model(seed=seed).named_parameters()) for seed in (3, 3, 4))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["encoder.conv_in.weight"], third["encoder.conv_in.weight"])


@torch.no_grad()
def test_tokens_regenerate_exactly_what_the_decoder_was_given() -> None:
    made, x = model().eval(), views()
    _, f_hat = made.quantizer.encode_with_f_hat(made.latent(x))
    planes, quantized = made(x)
    assert torch.equal(quantized.f_hat, f_hat)
    assert torch.equal(made.decode_tokens(made.tokens(x)), planes)


def test_without_quantization_the_latent_passes_through() -> None:
    made, x = model().eval(), views()
    planes, quantized = made(x, quantize=False)
    f = made.latent(x)
    assert torch.equal(quantized.f_hat, f)
    assert quantized.loss == 0
    assert quantized.tokens == []
    assert torch.equal(planes, made.decode(f))


def test_normalized_latents_have_unit_planes_whatever_the_encoder_gives() -> None:
    quantizer = dataclasses.replace(MICRO.quantizer, latent_norm="rms")
    made, x = model(dataclasses.replace(MICRO, quantizer=quantizer)).eval(), views()
    f = made.latent(x)
    torch.testing.assert_close(f.square().mean((1, 2, 3)), torch.ones(len(f)), atol=1e-4, rtol=0)
    with torch.no_grad():
        for parameter in made.quant_conv.parameters():
            parameter *= 1000
    torch.testing.assert_close(made.latent(x), f, atol=1e-4, rtol=1e-4)
    assert torch.equal(unit_rms(torch.zeros(1, 2, 3, 3)), torch.zeros(1, 2, 3, 3))


def training_loss(made: VQVAE, x: Tensor) -> Tensor:
    planes, quantized = made(x)
    points = torch.linspace(-0.4, 0.4, 60).view(1, 20, 3).expand(len(x), -1, -1)
    sample = made.field(planes).query(points)
    return sample.rgb.square().mean() + sample.raw.square().mean() + quantized.loss


def gradients(made: VQVAE, x: Tensor) -> dict[str, Tensor]:
    made.zero_grad()
    training_loss(made, x).backward()
    return {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("in_stream", [False, True])
def test_every_parameter_learns(in_stream: bool) -> None:
    decoder = dataclasses.replace(MICRO.decoder, tokens_in_stream=in_stream)
    made = model(dataclasses.replace(MICRO, decoder=decoder))
    found = gradients(made, views())
    silent = [name for name, _ in made.named_parameters() if name not in found or not found[name].any()]
    # Three scales use three of the four φ.
    assert [name for name in silent if not name.startswith("quantizer.phi.")] == []


def test_recomputed_activations_give_the_same_gradients_with_less_memory() -> None:
    made, x = model(), views()
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    found = []
    for recompute in (False, True):
        made.checkpoint_activations = recompute
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = training_loss(made, x)
        found.append((sum(kept), gradients(made, x)))
        kept.clear()
        assert loss.isfinite()
    (plain_kept, plain), (recomputed_kept, recomputed) = found
    assert plain.keys() == recomputed.keys()
    for name in plain:
        assert torch.equal(plain[name], recomputed[name]), name
    assert recomputed_kept < 0.7 * plain_kept


@pytest.mark.parametrize("recompute", [False, True])
def test_autocast_leaves_the_quantizer_and_the_planes_in_full_precision(recompute: bool) -> None:
    made, x = model(), views()
    made.checkpoint_activations = recompute
    seen: list[torch.dtype] = []
    made.encoder.conv_out.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        planes, quantized = made(x)
        loss = training_loss(made, x)
    assert seen == [torch.bfloat16] * 2
    assert {planes.dtype, quantized.f_hat.dtype, quantized.loss.dtype} == {torch.float32}
    loss.backward()
    assert all(p.dtype == torch.float32 and p.grad.isfinite().all() for p in made.parameters() if p.grad is not None)
    torch.testing.assert_close(loss, training_loss(made, x), rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ((2, 3, 10, 32, 32), r"takes 3 views of 10 channels and 16×16 pixels .* not 3 views of 10 channels and 32×32"),
        ((2, 4, 10, 16, 16), r"not 4 views"),
        ((2, 3, 9, 16, 16), r"of 9 channels"),
        ((3, 10, 16, 16), r"not a tensor of shape \(3, 10, 16, 16\)"),
    ],
)
def test_views_that_do_not_fit_are_one_sentence(shape: tuple[int, ...], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        model()(torch.zeros(shape))


@pytest.mark.parametrize(
    "tokens", [torch.zeros(1, 62, dtype=torch.long), torch.full((1, 63), 32), torch.full((1, 63), -1)]
)
def test_tokens_of_another_vqvae_are_refused(tokens: Tensor) -> None:
    with pytest.raises(UserError, match=r"do not fit|not of this codebook"):
        model().decode_tokens(tokens)
