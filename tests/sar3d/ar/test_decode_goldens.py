"""Decoding against numbers recorded from the published system, through the converter."""

from pathlib import Path

import goldens
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sar3d.ar import ARTransformer
from sar3d.ar.draw import RowSettings, draw, guidance_of
from sar3d.ar.sampling import DECODINGS, Generated, generate, generate_plain
from sar3d.conditions.condition import Condition
from sar3d.vqvae.config import QuantizerConfig
from sar3d.vqvae.quantizer import MultiScaleQuantizer, unpack

WAYS = [generate, generate_plain]


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Tensor]:
    return goldens.recorded(shared)


@pytest.fixture(scope="module")
def model(shared: Path) -> ARTransformer:
    return goldens.converted(shared)


@pytest.fixture(scope="module")
def quantizer(shared: Path) -> MultiScaleQuantizer:
    weights = load_file(shared / "goldens" / "tiny_vqvae.safetensors")
    prefix = "decoder.superresolution.quantize."
    made = MultiScaleQuantizer(QuantizerConfig(codebook_size=512, rule="published")).requires_grad_(False)
    made.codebook.copy_(weights[f"{prefix}embedding.weight"])
    for i, phi in enumerate(made.phi):
        phi.load_state_dict({k: weights[f"{prefix}quant_resi.qresi_ls.{i}.{k}"] for k in ("weight", "bias")})
    return made


@pytest.fixture(scope="module")
def conditions(golden: dict[str, Tensor]) -> tuple[Condition, Condition]:
    """The recorded prompts and the empty one."""
    return (
        Condition(golden["tokens"], golden["pooler"]),
        Condition(golden["empty_tokens"], golden["empty_pooler"]),
    )


@pytest.mark.parametrize("way", WAYS)
def test_greedy_tokens_and_guided_logits(way, model, quantizer, golden, conditions) -> None:
    logits: list[Tensor] = []
    made = way(
        model,
        quantizer,
        *conditions,
        [0, 0],
        DECODINGS["greedy"],
        precision="fp32",
        on_scale=lambda done: logits.append(done.logits()),
    )
    clear = golden["greedy_margin"] > 1e-3
    assert clear.float().mean() > 0.99
    assert torch.equal(made.tokens[clear], golden["greedy_tokens"][clear])
    recorded = golden["greedy_logits_cfg_first273"]
    torch.testing.assert_close(torch.cat(logits, 1)[:1, :273], recorded, atol=1e-2, rtol=0)


def test_recorded_samples_are_among_the_kept_codes(model, quantizer, golden, conditions) -> None:
    """Which one is drawn depends on the recorded random numbers; which ones could be does not."""
    condition, empty = conditions
    tokens, decoding = golden["sampled_tokens_seed42"], DECODINGS["released"]
    inputs, scales = quantizer.next_inputs(unpack(tokens, model.config.scales)), len(model.config.scales)
    lengths = model.config.lengths
    parts = (model(inputs, one).split(lengths, 1) for one in (condition, empty.expand(2)))
    for scale, (ours, nothing, drawn) in enumerate(zip(*parts, tokens.split(lengths, 1), strict=True)):
        t = guidance_of(decoding, scale, scales)
        guided = ((1 + t) * ours - t * nothing).flatten(0, 1)
        settings = RowSettings.of([decoding], guided.shape[-1]).repeated(len(guided))
        _, candidates = draw(guided, torch.zeros(len(guided), dtype=torch.float64), settings, decoding.top_k)
        among = ((candidates.tokens == drawn.flatten()[:, None]) & candidates.kept).any(-1)
        assert among.float().mean() > 0.999
        assert candidates.kept.sum(-1).float().mean() < decoding.top_k


@pytest.mark.parametrize("way", WAYS)
def test_recorded_smooth_settings_run(way, model, quantizer, conditions) -> None:
    from sar3d.ar.sampling import Decoding

    made: Generated = way(
        model, quantizer, *conditions, [1, 2], Decoding(1.5, 100, 0.95, smooth=True), precision="fp32"
    )
    assert made.f_hat.isfinite().all()
    assert len(made.tokens.unique()) > 100
