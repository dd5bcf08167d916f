"""The transformer against numbers recorded from the published system, through the converter."""

from pathlib import Path

import goldens
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sar3d.ar import ARTransformer
from sar3d.ar.attention import scale_causal_attention
from sar3d.ar.blocks import modulate
from sar3d.conditions.condition import Condition
from sar3d.hub import convert_published
from sar3d.vqvae.quantizer import unpack

GUIDANCE = 4.0
"""Of the recorded generation."""


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Tensor]:
    return goldens.recorded(shared)


@pytest.fixture(scope="module")
def model(shared: Path) -> ARTransformer:
    return goldens.converted(shared)


@pytest.fixture(scope="module")
def condition(golden: dict[str, Tensor]) -> Condition:
    return Condition(golden["tokens"], golden["pooler"])


@pytest.mark.parametrize("kind", ["dense", "scales"])
def test_teacher_forced_logits_and_losses(
    model: ARTransformer, golden: dict[str, Tensor], condition: Condition, kind: str
) -> None:
    model.attention = kind  # type: ignore[assignment]
    logits = model(golden["var_input"], condition)
    torch.testing.assert_close(logits[:, ::12], golden["logits_tf_every12"], atol=2e-3, rtol=0)
    torch.testing.assert_close(logits[:1, :42], golden["logits_tf_first_42"], atol=2e-5, rtol=0)
    losses = F.cross_entropy(logits.transpose(1, 2), golden["gt_BL"], reduction="none")
    torch.testing.assert_close(losses, golden["ce_tf"], atol=2e-5, rtol=0)


def test_parts_of_a_block(model: ARTransformer, golden: dict[str, Tensor], condition: Condition) -> None:
    x, cond, block = golden["blk_x"], golden["blk_cond"], model.blocks[0]
    attend = scale_causal_attention("dense", model.config.ends[:2], x.device)
    context = block.cross_attn.keys_values(condition.tokens)
    scale, shift = model.head.modulation(cond)
    for name, found in {
        "blk_self_attn": block.self_attn(x, attend),
        "blk_cross_attn": block.cross_attn(x, context),
        "blk_rms": block.cross_norm(x),
        "blk_out": block(x, cond, condition.tokens, attend),
        "head_nm": modulate(x, shift, scale),
    }.items():
        torch.testing.assert_close(found, golden[name], atol=2e-5, rtol=0, msg=lambda m, name=name: f"{name}: {m}")


def test_guided_logits_choose_the_recorded_codes(
    shared: Path, model: ARTransformer, golden: dict[str, Tensor], condition: Condition
) -> None:
    """Teacher forcing with the greedily generated codes: what generation saw at every scale."""
    quantizer = convert_published(shared / "goldens" / "tiny_vqvae.safetensors").quantizer.requires_grad_(False)
    inputs = quantizer.next_inputs(unpack(golden["greedy_tokens"], model.config.scales))
    empty = Condition(golden["empty_tokens"], golden["empty_pooler"]).expand(2)
    given, ungiven = model(inputs, condition), model(inputs, empty)
    last = len(model.config.scales) - 1
    ratio = torch.cat([torch.full((n,), GUIDANCE * s / last) for s, n in enumerate(model.config.lengths)])[:, None]
    guided = (1 + ratio) * given - ratio * ungiven
    torch.testing.assert_close(guided[:1, :273], golden["greedy_logits_cfg_first273"], atol=1e-2, rtol=1e-3)
    clear = golden["greedy_margin"] > 1e-3
    assert clear.float().mean() > 0.9
    assert torch.equal(guided.argmax(-1)[clear], golden["greedy_tokens"][clear])
