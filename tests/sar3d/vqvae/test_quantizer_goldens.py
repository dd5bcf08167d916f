"""The quantizer against numbers recorded from the published system (rule `published`)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor

from sar3d.vqvae.config import PLANES, QuantizerConfig
from sar3d.vqvae.quantizer import MultiScaleQuantizer, pack, unpack

CONFIG = QuantizerConfig(codebook_size=512, rule="published")
LENGTHS = [n * n for n in CONFIG.scales]


def recording(shared: Path, name: str) -> dict[str, Tensor]:
    with np.load(shared / "goldens" / name) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays}


def with_weights(codebook: Tensor, weights: list[Tensor], biases: list[Tensor]) -> MultiScaleQuantizer:
    quantizer = MultiScaleQuantizer(CONFIG)
    with torch.no_grad():
        quantizer.codebook.copy_(codebook)
        for phi, weight, bias in zip(quantizer.phi, weights, biases, strict=True):
            phi.load_state_dict({"weight": weight, "bias": bias})
    return quantizer


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Tensor]:
    return recording(shared, "quantizer.npz")


@pytest.fixture
def quantizer(golden: dict[str, Tensor]) -> MultiScaleQuantizer:
    return with_weights(golden["embedding"], list(golden["phi_w"]), list(golden["phi_b"]))


def per_plane(inputs: Tensor) -> Tensor:
    """Next inputs of objects, (B, M, D), as the recording has them: of planes, (B·3, M / 3, D)."""
    parts = inputs.split([PLANES * n for n in LENGTHS[1:]], 1)
    return torch.cat([rearrange(part, "b (p l) d -> (b p) l d", p=PLANES) for part in parts], 1)


def test_phi_of_each_scale(quantizer: MultiScaleQuantizer, golden: dict[str, Tensor]) -> None:
    assert list(quantizer.phi_of_scale) == golden["phi_index_per_scale"].tolist()


def test_training_path(quantizer: MultiScaleQuantizer, golden: dict[str, Tensor]) -> None:
    quantized = quantizer(golden["f"])
    assert torch.equal(torch.cat(quantized.tokens, 1), golden["train_idx"])
    torch.testing.assert_close(quantized.f_hat, golden["train_f_hat"], atol=1e-5, rtol=0)
    torch.testing.assert_close(quantized.loss, golden["train_loss"], atol=1e-6, rtol=0)


def test_encoding_path_uses_raw_codes(quantizer: MultiScaleQuantizer, golden: dict[str, Tensor]) -> None:
    tokens, f_hat = quantizer.encode_with_f_hat(golden["f"])
    assert torch.equal(torch.cat(tokens, 1), golden["encode_idx"])
    torch.testing.assert_close(f_hat, golden["encode_f_hat_last"], atol=1e-5, rtol=0)
    partial = torch.zeros_like(golden["f"])
    for scale in range(5):
        partial, _ = quantizer.step(partial, scale, quantizer.code_vectors(scale, tokens[scale], "encode"))
    torch.testing.assert_close(partial, golden["encode_f_hat_scale4"], atol=1e-5, rtol=0)


def test_generation_and_teacher_forcing_use_unit_codes(
    quantizer: MultiScaleQuantizer, golden: dict[str, Tensor]
) -> None:
    tokens = list(golden["encode_idx"].split(LENGTHS, 1))
    torch.testing.assert_close(quantizer.f_hat(tokens), golden["gen_f_hat"], atol=1e-5, rtol=0)
    inputs = per_plane(quantizer.next_inputs(tokens))
    torch.testing.assert_close(inputs, golden["var_input"], atol=1e-5, rtol=0)
    torch.testing.assert_close(inputs, golden["gen_next_inputs"], atol=1e-5, rtol=0)


def test_gradients(quantizer: MultiScaleQuantizer, golden: dict[str, Tensor], shared: Path) -> None:
    recorded = recording(shared, "quantizer_train.npz")
    f = golden["f"].clone().requires_grad_()
    quantized = quantizer(f)
    (quantized.loss + 1e-3 * (quantized.f_hat * recorded["w"]).sum()).backward()
    torch.testing.assert_close(quantized.f_hat, recorded["out"], atol=1e-5, rtol=0)
    torch.testing.assert_close(f.grad, recorded["grad_f"], atol=1e-7, rtol=0)
    torch.testing.assert_close(quantizer.codebook.grad, recorded["grad_embedding"], atol=1e-6, rtol=0)
    for i, phi in enumerate(quantizer.phi):
        torch.testing.assert_close(phi.weight.grad, recorded["grad_phi_w"][i], atol=1e-6, rtol=0)
        torch.testing.assert_close(phi.bias.grad, recorded["grad_phi_b"][i], atol=1e-6, rtol=0)


def test_hit_averages_and_usage_over_three_calls(
    quantizer: MultiScaleQuantizer, golden: dict[str, Tensor], shared: Path
) -> None:
    recorded, f = recording(shared, "quantizer_train.npz"), golden["f"]
    quantizer.train()
    for call, latent in enumerate((f, f.roll(1, 0) * 0.6, f.roll(2, 0) * 1.3)):
        quantizer(latent)
        hits, usage = recorded["ema_after_3calls"][call].float(), recorded["usages"][call].float()
        torch.testing.assert_close(quantizer.hits, hits, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(100 * quantizer.usage(rows=len(f)), usage, atol=1e-4, rtol=0)
    assert quantizer.calls * len(CONFIG.scales) == recorded["record_hit_after"]


def test_order_of_the_token_sequence(shared: Path) -> None:
    recorded = recording(shared, "encoder.npz")
    weights = load_file(shared / "goldens" / "tiny_vqvae.safetensors")
    prefix = "decoder.superresolution.quantize."
    phi = [f"{prefix}quant_resi.qresi_ls.{i}." for i in range(4)]
    quantizer = with_weights(
        weights[f"{prefix}embedding.weight"],
        [weights[f"{name}weight"] for name in phi],
        [weights[f"{name}bias"] for name in phi],
    )
    tokens = quantizer.encode(recorded["f"])
    assert torch.equal(pack(tokens), recorded["gt_BL"])
    again = unpack(recorded["gt_BL"], CONFIG.scales)
    assert all(torch.equal(one, other) for one, other in zip(again, tokens, strict=True))
    torch.testing.assert_close(quantizer.next_inputs(again), recorded["x_BLCv_wo_first_l"], atol=1e-5, rtol=0)
