"""The published VQVAE checkpoints (published.md, checkpoints): tensor names, and the configuration that they tell."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from sar3d.errors import UserError
from sar3d.hub.files import Tensors, load_strictly
from sar3d.hub.names import Table, ours_to_theirs, theirs_to_ours
from sar3d.hub.shapes import Shapes
from sar3d.vqvae.config import PLANES, DecoderConfig, EncoderConfig, FieldConfig, QuantizerConfig, VQVAEConfig
from sar3d.vqvae.model import VQVAE, Autoencoder

_MID = "encoder.mid.attn_1"
_CROSS = f"{_MID}.transformer_blocks.0"
_LATENT = "decoder.superresolution"
_SR = f"{_LATENT}.conv_sr"
_DIT = "decoder.vit_decoder"
HEADS = "decoder.triplane_decoder.decoder"
"""What reads the triplane."""
_FIELD = f"{HEADS}.net"

AUTOENCODER_NAMES: Table = (
    ("encoder.conv_in", "encoder.conv_in"),
    ("encoder.down.*.block.*.nin_shortcut", "encoder.levels.*.blocks.*.shortcut"),
    ("encoder.down.*.block.*", "encoder.levels.*.blocks.*"),
    ("encoder.down.*.downsample", "encoder.levels.*.downsample"),
    ("encoder.mid.block_1", "encoder.mid_block1"),
    ("encoder.mid.block_2", "encoder.mid_block2"),
    (f"{_MID}.norm", "encoder.mid_attention.norm"),
    (f"{_MID}.proj_in", "encoder.mid_attention.proj_in"),
    (f"{_CROSS}.norm1", "encoder.mid_attention.norm1"),
    (f"{_CROSS}.attn1.to_out.0", "encoder.mid_attention.cross_view.to_out"),
    (f"{_CROSS}.attn1", "encoder.mid_attention.cross_view"),
    (f"{_CROSS}.norm2", "encoder.mid_attention.norm2"),
    (f"{_CROSS}.attn2.to_out.0", "encoder.mid_attention.in_view.to_out"),
    (f"{_CROSS}.attn2", "encoder.mid_attention.in_view"),
    (f"{_CROSS}.norm3", "encoder.mid_attention.norm3"),
    (f"{_CROSS}.ff.net.0.proj", "encoder.mid_attention.feed_forward.proj_in"),
    (f"{_CROSS}.ff.net.2", "encoder.mid_attention.feed_forward.proj_out"),
    (f"{_MID}.proj_out", "encoder.mid_attention.proj_out"),
    ("encoder.norm_out", "encoder.norm_out"),
    ("encoder.conv_out", "encoder.conv_out"),
    ("encoder.fusion_layer", "encoder.fusion"),
    (f"{_LATENT}.quant_conv", "quant_conv"),
    (f"{_LATENT}.quantize.embedding.weight", "quantizer.codebook"),
    (f"{_LATENT}.quantize.quant_resi.qresi_ls.*", "quantizer.phi.*"),
    (f"{_LATENT}.quantize.ema_vocab_hit_SV", "quantizer.hits"),
    (f"{_LATENT}.post_quant_conv", "decoder.post_quant_conv"),
    (f"{_LATENT}.ldm_upsample.proj", "decoder.token_conv"),
    (f"{_DIT}.pos_embed", "decoder.pos_embed"),
    (f"{_DIT}.blocks.*.attn", "decoder.blocks.*.attention"),
    (f"{_DIT}.blocks.*.mlp.mlp", "decoder.blocks.*.mlp"),
    (f"{_DIT}.blocks.*.adaLN_modulation.1", "decoder.blocks.*.modulation"),
    (f"{_SR}.conv_in", "decoder.upsampler.conv_in"),
    (f"{_SR}.mid.block_1", "decoder.upsampler.mid_block1"),
    (f"{_SR}.mid.attn_1", "decoder.upsampler.mid_attention"),
    (f"{_SR}.mid.block_2", "decoder.upsampler.mid_block2"),
    (f"{_SR}.up.*.block.*.nin_shortcut", "decoder.upsampler.levels.*.blocks.*.shortcut"),
    (f"{_SR}.up.*.block.*", "decoder.upsampler.levels.*.blocks.*"),
    (f"{_SR}.up.*.upsample", "decoder.upsampler.levels.*.upsample"),
    (f"{_SR}.norm_out", "decoder.upsampler.norm_out"),
    (f"{_SR}.conv_out", "decoder.upsampler.conv_out"),
)
"""Published prefix, our prefix, of everything but what reads the triplane."""

NAMES: Table = (*AUTOENCODER_NAMES, (_FIELD, "field_mlp.net"))
"""Published prefix, our prefix."""

W_AVG = "decoder.w_avg"
"""A buffer of zeros that the published classes inherit and never read."""

HITS = "quantizer.hits"
CALLS = "quantizer.calls"
"""How often the hits were updated: the published code does not save it, and may not save the hits."""


def infer_config(
    tensors: Tensors,
    source: str,
    *,
    decoder_heads: int | None = None,
    encoder_heads: int | None = None,
    scales: tuple[int, ...] | None = None,
    field: str = _FIELD,
) -> VQVAEConfig:
    """The configuration of published tensors, from names and shapes; rule `published`, density as published.md, rendering.

    Args:
        tensors: under their published names.
        source: named in errors.
        decoder_heads, encoder_heads: shapes do not tell them; None for `usual_heads`.
        scales: shapes tell the last one and how many; None for the published ten.
        field: prefix of the layers that tell the field's widths.

    Raises:
        UserError: a tensor that tells the configuration is missing, or shapes contradict each other.
    """
    shapes = Shapes(tensors, source, "published SAR3D VQVAE")
    encoder = _encoder(shapes, encoder_heads)
    quantizer = _quantizer(shapes, scales)
    side = quantizer.scales[-1]
    return VQVAEConfig(
        resolution=side * 2 ** (len(encoder.multipliers) - 1),
        encoder=encoder,
        quantizer=quantizer,
        decoder=_decoder(shapes, decoder_heads),
        field=FieldConfig(hidden=shapes(f"{field}.0.weight", 2)[0], hidden_layers=shapes.layers(field) - 1),
    )


def usual_heads(width: int) -> int:
    """Heads of an attention layer whose checkpoint does not tell: of 64, 32, 16 or 8 channels each, the most that
    still makes two heads (12 of 64 for the published decoder, 8 of 64 for its encoder).
    """
    return next((width // d for d in (64, 32, 16, 8) if width % d == 0 and width >= 2 * d), 1)


def _encoder(shapes: Shapes, heads: int | None) -> EncoderConfig:
    channels, in_channels = shapes("encoder.conv_in.weight", 4)[:2]
    levels = range(shapes.layers("encoder.down"))
    width = shapes(f"{_MID}.proj_in.weight", 4)[0]
    latent = shapes("encoder.conv_out.weight", 4)[0]
    return EncoderConfig(
        channels=channels,
        multipliers=tuple(shapes.rows(f"encoder.down.{i}.block.0.conv1.weight", channels, 4) for i in levels),
        blocks=shapes.layers("encoder.down.0.block"),
        attention_width=width,
        attention_heads=heads or usual_heads(width),
        views=shapes("encoder.fusion_layer.weight", 4)[1] // latent,
        in_channels=in_channels,
    )


def _quantizer(shapes: Shapes, scales: tuple[int, ...] | None) -> QuantizerConfig:
    codes, dim = shapes(f"{_LATENT}.quantize.embedding.weight", 2)
    tokens = shapes(f"{_DIT}.pos_embed", 3)[1]
    side = math.isqrt(tokens // PLANES)
    hits = shapes.tensors.get(f"{_LATENT}.quantize.ema_vocab_hit_SV")
    scales = scales or QuantizerConfig().scales
    if PLANES * scales[-1] ** 2 != tokens or (hits is not None and len(hits) != len(scales)):
        wanted = f"{len(hits)} scales" if hits is not None else "scales"
        raise UserError(
            f"{shapes.source} was trained with {wanted} up to {side}, not with {','.join(map(str, scales))}: "
            "give its scales with --scales"
        )
    phi = shapes.layers(f"{_LATENT}.quantize.quant_resi.qresi_ls")
    return QuantizerConfig(codebook_size=codes, code_dim=dim, scales=scales, phi=phi, rule="published")


def _decoder(shapes: Shapes, heads: int | None) -> DecoderConfig:
    width = shapes(f"{_DIT}.pos_embed", 3)[2]
    levels = range(shapes.layers(f"{_SR}.up"))
    widths = [shapes(f"{_SR}.up.{i}.block.0.conv1.weight", 4)[0] for i in levels]
    channels = math.gcd(*widths)
    return DecoderConfig(
        width=width,
        depth=shapes.layers(f"{_DIT}.blocks"),
        heads=heads or usual_heads(width),
        mlp_ratio=shapes.rows(f"{_DIT}.blocks.0.mlp.mlp.0.weight", width, 2),
        channels=channels,
        multipliers=tuple(w // channels for w in widths),
        blocks=shapes.layers(f"{_SR}.up.0.block"),
        plane_channels=shapes(f"{_SR}.conv_out.weight", 4)[0],
    )


def from_published(
    tensors: Tensors,
    source: str,
    *,
    decoder_heads: int | None = None,
    encoder_heads: int | None = None,
    scales: tuple[int, ...] | None = None,
) -> VQVAE:
    """Our model of published tensors, in evaluation mode; arguments and errors as `infer_config`.

    Raises:
        UserError: also for a tensor of an unknown name, and for biases of the fused MLP that are not zero.
    """
    config = infer_config(tensors, source, decoder_heads=decoder_heads, encoder_heads=encoder_heads, scales=scales)
    with torch.random.fork_rng(devices=[]):
        model = VQVAE(config)
    load_published(model, tensors, NAMES, source)
    return model.eval()


def load_published(model: Autoencoder, tensors: Tensors, names: Table, source: str) -> None:
    """Load published tensors into our model of their configuration. Raises `UserError` as `from_published` does."""
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        if name == W_AVG or _is_zero_bias(name, tensor, source):
            continue
        ours = theirs_to_ours(name, names)
        if ours is None:
            raise UserError(
                f"{source} has the tensor {name}, which no published SAR3D VQVAE has: it cannot be converted"
            )
        renamed[ours] = tensor
    fresh = model.state_dict()
    renamed.setdefault(HITS, fresh[HITS])
    renamed[CALLS] = fresh[CALLS]
    load_strictly(model, renamed, source)


def _is_zero_bias(name: str, tensor: Tensor, source: str) -> bool:
    """Whether it is a bias that some builds of the fused MLP save, which the model can do without."""
    if not (name.startswith(f"{_DIT}.blocks.") and name.endswith((".mlp.mlp.1.bias", ".mlp.mlp.3.bias"))):
        return False
    if tensor.any():
        raise UserError(
            f"{source} has the bias {name} that is not zero, and the model has no such bias: it cannot be converted"
        )
    return True


def to_published(model: VQVAE) -> dict[str, Tensor]:
    """The model's tensors under the published names, see `published_tensors`. Raises `UserError` as that does."""
    published, field = published_tensors(model, NAMES), model.config.field
    if (field.density_scale, field.density_shift) != (1.0, -1.0):
        raise UserError(
            "the model has another density activation, which the published format cannot hold: keep it in ours"
        )
    return published


def published_tensors(model: Autoencoder, names: Table) -> dict[str, Tensor]:
    """The model's tensors under the published names, all of them and no others.

    Codes of the `normalized` rule are written with unit norm, on which every path of the published code agrees.

    Raises:
        UserError: the model has something the published one has not.
    """
    config = model.config
    for has, what in (
        (config.encoder.kind != "views", "an encoder of points"),
        (
            config.encoder.kind == "views" and config.stem_stride != 1,
            f"a first convolution of stride {config.stem_stride}",
        ),
        (config.decoder.tokens_in_stream, "tokens in the decoder's stream"),
        (config.field.side != FieldConfig().side, f"a cube of side {config.field.side}"),
        (config.quantizer.latent_norm != "none", "normalized latents"),
        (config.quantizer.phi_ratio != QuantizerConfig().phi_ratio, "another ratio of φ"),
    ):
        if has:
            raise UserError(f"the model has {what}, which the published format cannot hold: keep it in ours")
    published: dict[str, Tensor] = {W_AVG: torch.zeros(512)}
    for name, tensor in model.state_dict().items():
        if name == CALLS:
            continue
        theirs = ours_to_theirs(name, names)
        if theirs is None:
            raise KeyError(name)
        published[theirs] = tensor.detach()
    if config.quantizer.rule == "normalized":
        codebook = f"{_LATENT}.quantize.embedding.weight"
        published[codebook] = F.normalize(published[codebook], dim=-1)
    return published
