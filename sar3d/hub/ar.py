"""The published transformer checkpoints (published.md, checkpoints): tensor names, and the configuration they tell."""

import re

import torch
from torch import Tensor

from sar3d.ar.config import ARConfig
from sar3d.ar.transformer import ARTransformer
from sar3d.conditions.kinds import ConditionKind
from sar3d.errors import UserError
from sar3d.hub.files import Tensors, load_strictly
from sar3d.hub.names import Table, ours_to_theirs, theirs_to_ours
from sar3d.hub.shapes import Shapes
from sar3d.vqvae.config import PLANES

_WHAT = "published SAR3D transformer"
_SELF, _CROSS = "blocks.*.attn", "blocks.*.cross_attn"
_OUR_SELF, _OUR_CROSS = "blocks.*.self_attn", "blocks.*.cross_attn"

NAMES: Table = (
    ("pos_start", "start_embed"),
    ("pos_1LC", "pos_embed"),
    ("lvl_embed.weight", "scale_embed"),
    ("plane_embed.weight", "plane_embed"),
    ("word_embed", "token_in"),
    ("pooler_emb", "cond_in"),
    (f"{_SELF}.scale_mul_1H11", f"{_OUR_SELF}.log_temperature"),
    (f"{_SELF}.mat_qkv", f"{_OUR_SELF}.qkv"),
    (_SELF, _OUR_SELF),
    (f"{_CROSS}.scale_mul_1H11", f"{_OUR_CROSS}.log_temperature"),
    (f"{_CROSS}.mat_q", f"{_OUR_CROSS}.q"),
    (f"{_CROSS}.mat_kv", f"{_OUR_CROSS}.kv"),
    (_CROSS, _OUR_CROSS),
    ("blocks.*.prenorm_ca_dino.g", "blocks.*.cross_norm.gain"),
    ("blocks.*.ffn.fc1", "blocks.*.mlp.0"),
    ("blocks.*.ffn.fc2", "blocks.*.mlp.2"),
    ("blocks.*.ada_lin.1", "blocks.*.modulation.linear"),
    ("head_nm.ada_lin.1", "head.modulation.linear"),
    ("head", "head.linear"),
)
"""Published prefix, our prefix."""

_CONSTANTS = re.compile(r"lvl_1L|plane_1L|attn_bias_for_masking|blocks\.\d+\.(cross_)?attn\.zero_k_bias")
"""Buffers that follow from the configuration; the published classes save some of them."""

_OUTER = {"pos_start": 2, "pos_1LC": 1}
"""Dimensions of size one in front of these published tensors that ours have not."""

_CONDITION_OF_WIDTH: dict[int, ConditionKind] = {1024: "image", 768: "text"}
"""Widths of the published condition encoders, DINOv2-L and CLIP ViT-L/14."""


def infer_config(
    tensors: Tensors,
    source: str,
    *,
    condition: ConditionKind | None = None,
    scales: tuple[int, ...] | None = None,
) -> ARConfig:
    """The configuration of published tensors, from names and shapes.

    Args:
        tensors: under their published names.
        source: named in errors.
        condition: the names and shapes of image and text models differ in the condition's width alone; None for the
            kind whose published encoder has it.
        scales: shapes tell how many there are and the tokens in all; None for the published ten.

    Raises:
        UserError: a tensor that tells the configuration is missing, or shapes contradict each other.
    """
    shapes = Shapes(tensors, source, _WHAT)
    tokens, width = shapes("pos_1LC", 3)[1:]
    context_dim = shapes("blocks.0.cross_attn.mat_kv.weight", 2)[1]
    config = ARConfig(
        condition=condition or _condition_of(context_dim, source),
        depth=shapes.layers("blocks"),
        width=width,
        heads=shapes("blocks.0.attn.scale_mul_1H11", 4)[1],
        mlp_ratio=shapes.rows("blocks.0.ffn.fc1.weight", width, 2),
        codebook_size=shapes("head.weight", 2)[0],
        code_dim=shapes("word_embed.weight", 2)[1],
        scales=scales or ARConfig().scales,
        context_dim=context_dim,
        pooled_dim=shapes("pooler_emb.weight", 2)[1],
    )
    _check_scales(config, shapes("lvl_embed.weight", 2)[0], tokens, source)
    return config


def _check_scales(config: ARConfig, levels: int, tokens: int, source: str) -> None:
    if config.tokens != tokens or len(config.scales) != levels:
        raise UserError(
            f"{source} was trained with {levels} scales of {tokens // PLANES} tokens a plane, not with "
            f"{','.join(map(str, config.scales))}: give its scales with --scales"
        )


def _condition_of(width: int, source: str) -> ConditionKind:
    """The kind whose published encoder gives tokens of this width. Raises `UserError` where there is none."""
    kind = _CONDITION_OF_WIDTH.get(width)
    if kind is None:
        raise UserError(
            f"{source} takes conditions of {width} channels, which does not tell whether they are images or texts: say so "
            "with --condition"
        )
    return kind


def empty_transformer(config: ARConfig, device: torch.device | str = "cpu") -> ARTransformer:
    """A transformer whose weights are still to be loaded: drawing a billion of them would take half a minute."""
    with torch.device("meta"):
        model = ARTransformer(config)
    return model.to_empty(device=device)


def from_published(
    tensors: Tensors,
    source: str,
    *,
    condition: ConditionKind | None = None,
    scales: tuple[int, ...] | None = None,
) -> ARTransformer:
    """Our model of published tensors, in evaluation mode; arguments and errors as `infer_config`.

    Raises:
        UserError: also for a tensor of an unknown name or of another shape.
    """
    config = infer_config(tensors, source, condition=condition, scales=scales)
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        if _CONSTANTS.fullmatch(name):
            continue
        ours = theirs_to_ours(name, NAMES)
        if ours is None:
            raise UserError(f"{source} has the tensor {name}, which no {_WHAT} has: it cannot be converted")
        renamed[ours] = _ours(name, tensor)
    model = empty_transformer(config, device=tensors["pos_1LC"].device)
    load_strictly(model, renamed, source)
    return model.eval()


def _ours(name: str, tensor: Tensor) -> Tensor:
    """The tensor without dimensions that its published name promises to be one; otherwise as it is, to be refused."""
    if name.endswith("scale_mul_1H11"):
        heads = tensor.shape[1:2]
        return tensor.reshape(heads) if tensor.shape == (1, *heads, 1, 1) else tensor
    outer = _OUTER.get(name, 0)
    return tensor.reshape(tensor.shape[outer:]) if set(tensor.shape[:outer]) == {1} else tensor


def to_published(model: ARTransformer) -> dict[str, Tensor]:
    """The model's parameters under the published names. The constants that the published classes also save are not
    among them, so these load with `strict=False`.

    Raises:
        UserError: the model draws its coarsest scales token by token, which no published one does.
    """
    if model.sequential is not None:
        raise UserError(
            f"a transformer with sequential_scales={model.config.sequential_scales} has layers that no {_WHAT} has: "
            "it cannot be converted"
        )
    published: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        theirs = ours_to_theirs(name, NAMES)
        if theirs is None:
            raise KeyError(name)
        tensor = tensor.detach()
        if theirs.endswith("scale_mul_1H11"):
            tensor = tensor[None, :, None, None]
        published[theirs] = tensor.reshape((1,) * _OUTER.get(theirs, 0) + tuple(tensor.shape))
    return published
