"""The multi-scale quantizer: one code on every path, statistics, codes from data, refusals."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sar3d.errors import UserError
from sar3d.vqvae.codebook import full_precision, nearest
from sar3d.vqvae.config import QuantizerConfig
from sar3d.vqvae.quantizer import MultiScaleQuantizer, pack, unpack
from sar3d.vqvae.scales import phi_of_scale

SMALL = QuantizerConfig(codebook_size=256, scales=(1, 2, 3, 5, 8))


def latents(rows: int, config: QuantizerConfig = SMALL, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    side = config.scales[-1]
    parts = [torch.randn(rows, config.code_dim, n, n, generator=generator) for n in (1, 2, 4, side)]
    return torch.stack([F.interpolate(part, (side, side), mode="bicubic") for part in parts]).sum(0)


def drifted(config: QuantizerConfig = SMALL) -> MultiScaleQuantizer:
    """With codes of lengths from 0.7 to 1.3, as an optimizer leaves them."""
    torch.manual_seed(0)
    quantizer = MultiScaleQuantizer(config)
    with torch.no_grad():
        quantizer.codebook.mul_(torch.empty(config.codebook_size, 1).uniform_(0.7, 1.3))
    return quantizer


def relative_error(f: Tensor, f_hat: Tensor) -> float:
    return ((f - f_hat).square().mean() / f.square().mean()).item()


@pytest.mark.parametrize("config", [SMALL, QuantizerConfig(codebook_size=1024)], ids=["five scales", "ten scales"])
def test_all_paths_agree_to_the_bit(config: QuantizerConfig) -> None:
    quantizer, f = drifted(config), latents(6, config)
    trained = quantizer(f.clone().requires_grad_())
    tokens, f_hat = quantizer.encode_with_f_hat(f)
    assert all(torch.equal(one, other) for one, other in zip(trained.tokens, tokens, strict=True))
    assert torch.equal(trained.f_hat, f_hat)
    assert torch.equal(quantizer.f_hat(unpack(pack(tokens), config.scales)), f_hat)
    one_object = [found[3:] for found in tokens]
    assert torch.equal(quantizer.f_hat(one_object), f_hat[3:])


def test_published_rule_does_not_agree_with_itself() -> None:
    quantizer, f = drifted(QuantizerConfig(codebook_size=256, scales=SMALL.scales, rule="published")), latents(3)
    trained, (tokens, f_hat) = quantizer(f), quantizer.encode_with_f_hat(f)
    assert not torch.equal(trained.f_hat, f_hat)
    assert not torch.equal(quantizer.f_hat(tokens), f_hat)


def test_decoding_scale_by_scale_gives_the_teacher_forcing_inputs() -> None:
    quantizer = drifted()
    tokens = quantizer.encode(latents(6))
    f_hat, inputs = torch.zeros(6, 8, 8, 8), []
    for scale, found in enumerate(tokens):
        f_hat, following = quantizer.step(f_hat, scale, quantizer.code_vectors(scale, found, "generate"))
        if following is not None:
            inputs.append(following.reshape(2, -1, 8))
    assert following is None
    assert torch.equal(torch.cat(inputs, 1), quantizer.next_inputs(tokens))
    assert torch.equal(f_hat, quantizer.f_hat(tokens))
    assert quantizer.next_inputs(tokens).shape == (2, sum(3 * n * n for n in SMALL.scales) - 3, 8)


def test_next_input_is_the_area_mean_of_the_latent_so_far() -> None:
    quantizer = drifted()
    tokens = quantizer.encode(latents(3))
    f_hat, following = quantizer.step(torch.zeros(3, 8, 8, 8), 0, quantizer.code_vectors(0, tokens[0], "generate"))
    wanted = F.adaptive_avg_pool2d(f_hat, 2).flatten(2).transpose(1, 2)
    torch.testing.assert_close(following, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 8, 10, 13])
def test_resampling_equals_the_librarys(n: int) -> None:
    quantizer = MultiScaleQuantizer(QuantizerConfig(codebook_size=128))
    scale = quantizer.config.scales.index(n)
    fine, coarse = torch.randn(4, 8, 16, 16), torch.randn(4, 8, n, n)
    pooled = (fine.flatten(2) @ quantizer.get_buffer(f"pool_{scale}")).view(4, 8, n, n)
    enlarged = (coarse.flatten(2) @ quantizer.get_buffer(f"up_{scale}")).view(4, 8, 16, 16)
    torch.testing.assert_close(pooled, F.interpolate(fine, (n, n), mode="area"), atol=1e-6, rtol=0)
    torch.testing.assert_close(enlarged, F.interpolate(coarse, (16, 16), mode="bicubic"), atol=1e-6, rtol=0)


def test_latent_gets_the_decoders_gradient_unchanged() -> None:
    quantizer, f = drifted(), latents(3).requires_grad_()
    weights = torch.randn(3, 8, 8, 8)
    (quantizer(f).f_hat * weights).sum().backward()
    assert f.grad is not None
    assert torch.equal(f.grad, weights)
    assert quantizer.codebook.grad is None


def test_training_the_loss_brings_codes_and_latents_together() -> None:
    quantizer, f = drifted(), latents(12)
    optimizer = torch.optim.Adam(quantizer.parameters(), 1e-2)
    before = relative_error(f, quantizer(f).f_hat)
    for _ in range(20):
        optimizer.zero_grad()
        quantizer(f).loss.backward()
        optimizer.step()
    assert relative_error(f, quantizer(f).f_hat) < 0.5 * before


def test_arithmetic_is_float32_under_autocast() -> None:
    quantizer, f = drifted(), latents(6)
    with torch.autocast("cpu", torch.bfloat16):
        quantized, tokens = quantizer(f), quantizer.encode(f)
        f_hat, inputs = quantizer.f_hat(tokens), quantizer.next_inputs(tokens)
    plain = quantizer(f)
    assert torch.equal(torch.cat(tokens, 1), torch.cat(plain.tokens, 1))
    assert torch.equal(quantized.f_hat, plain.f_hat)
    assert torch.equal(quantized.loss, plain.loss)
    assert torch.equal(f_hat, plain.f_hat)
    assert torch.equal(inputs, quantizer.next_inputs(tokens))


def test_switches_for_fast_products_are_off_inside_and_as_before_after() -> None:
    matmul, conv = torch.backends.mkldnn.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        with full_precision("cpu"):
            assert matmul.fp32_precision == conv.fp32_precision == "ieee"
        assert matmul.fp32_precision == "bf16"
    finally:
        matmul.fp32_precision = before


@pytest.mark.parametrize("codes", [1, 37, 128, 1000, 1024])
@pytest.mark.parametrize("elements", [1, 3000, 1 << 22])
def test_nearest_code_is_the_brute_force_one(codes: int, elements: int) -> None:
    generator = torch.Generator().manual_seed(codes)
    table = F.normalize(torch.randn(codes, 8, generator=generator), dim=1)
    queries = F.normalize(torch.randn(101, 8, generator=generator), dim=1)
    assert torch.equal(nearest(queries, table, elements), (queries @ table.t()).argmax(1))


def test_first_of_equally_near_codes_is_taken() -> None:
    table = torch.eye(8).repeat(64, 1)
    assert nearest(torch.eye(8), table).tolist() == list(range(8))
    assert nearest(torch.zeros(2, 8), table).tolist() == [0, 0]


def test_phi_of_scales() -> None:
    assert phi_of_scale(10, 4) == (0, 0, 1, 1, 1, 2, 2, 3, 3, 3)
    assert phi_of_scale(4, 4) == (0, 1, 2, 3)
    assert phi_of_scale(7, 4) == (0, 0, 1, 2, 2, 3, 3)
    assert phi_of_scale(1, 4) == (0,)
    assert phi_of_scale(6, 1) == (0,) * 6


def test_hits_follow_every_plane_and_call_and_are_saved() -> None:
    quantizer = drifted()
    quantizer.train()
    first, second = latents(6), latents(6, seed=1)
    expected = torch.zeros(len(SMALL.scales), SMALL.codebook_size)
    for f, keep in ((first, 0.0), (second, 0.9)):
        tokens = quantizer(f).tokens
        counts = torch.stack([found.flatten().bincount(minlength=SMALL.codebook_size).float() for found in tokens])
        expected = keep * expected + (1 - keep) * counts
    torch.testing.assert_close(quantizer.hits, expected)
    torch.testing.assert_close(quantizer.usage(), (expected > 0).float().mean(1))
    share = expected[0][expected[0] > 0] / expected[0].sum()
    torch.testing.assert_close(quantizer.perplexity()[0], (-(share * share.log()).sum()).exp())
    quantizer.eval()
    quantizer(second)
    torch.testing.assert_close(quantizer.hits, expected)
    restored = MultiScaleQuantizer(SMALL)
    restored.load_state_dict(quantizer.state_dict())
    assert torch.equal(restored.hits, quantizer.hits)
    assert restored.calls == 2


RANK = """
import sys, torch, torch.distributed as dist
from sar3d.vqvae.config import QuantizerConfig
from sar3d.vqvae.quantizer import MultiScaleQuantizer
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
torch.manual_seed(0)
quantizer = MultiScaleQuantizer(QuantizerConfig(codebook_size=64, scales=(1, 2, 4)))
f = torch.randn(6, 8, 4, 4)
quantizer(f[3 * rank : 3 * rank + 3])
alone = MultiScaleQuantizer(QuantizerConfig(codebook_size=64, scales=(1, 2, 4)))
alone.load_state_dict(quantizer.state_dict() | {"hits": torch.zeros(3, 64), "calls": torch.tensor(0)})
dist.destroy_process_group()
alone(f)
assert torch.equal(quantizer.hits, alone.hits), (quantizer.hits.sum(1), alone.hits.sum(1))
"""


def test_hits_of_two_ranks_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    arguments = [[sys.executable, "-c", RANK, str(rank), str(tmp_path / "rendezvous")] for rank in range(2)]
    ranks = [subprocess.Popen(a, stderr=subprocess.PIPE, text=True) for a in arguments]
    for rank in ranks:
        _, errors = rank.communicate(timeout=60)
        assert rank.returncode == 0, errors


@pytest.mark.parametrize("magnitude", [0.1, 1.0, 10.0])
def test_codes_from_data_quantize_latents_of_any_magnitude(magnitude: float) -> None:
    f, unseen = magnitude * latents(24), magnitude * latents(24, seed=1)
    random, fitted = drifted(), drifted()
    fitted.initialize(f, torch.Generator().manual_seed(0))
    assert relative_error(unseen, fitted(unseen).f_hat) < 0.2
    assert relative_error(unseen, random(unseen).f_hat) > 3 * relative_error(unseen, fitted(unseen).f_hat)
    torch.testing.assert_close(fitted.codebook.norm(dim=1), torch.ones(SMALL.codebook_size))


def test_initialization_is_determined_by_its_generator_and_begins_the_hits_anew() -> None:
    f, quantizers = latents(12), [drifted() for _ in range(3)]
    for quantizer, seed in zip(quantizers, (0, 0, 1), strict=True):
        quantizer.train()
        quantizer(f)
        quantizer.initialize(f, torch.Generator().manual_seed(seed))
        assert quantizer.hits.sum() == 0
        assert quantizer.calls == 0
    assert torch.equal(quantizers[0].codebook, quantizers[1].codebook)
    states = [quantizer.phi.state_dict() for quantizer in quantizers]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(quantizers[0].codebook, quantizers[2].codebook)


def test_initialization_uses_most_codes_at_the_finest_scale() -> None:
    quantizer, f = drifted(), latents(24)
    quantizer.initialize(f, torch.Generator().manual_seed(0))
    quantizer.train()
    quantizer(f)
    assert quantizer.usage()[-1] > 0.9
    assert quantizer.perplexity()[-1] > 0.5 * SMALL.codebook_size


def test_initialization_from_fewer_residuals_than_codes() -> None:
    config = QuantizerConfig(codebook_size=4096, scales=(1, 2, 4))
    quantizer, f = drifted(config), latents(3, config)
    quantizer.initialize(f, torch.Generator().manual_seed(0))
    torch.testing.assert_close(quantizer.codebook.norm(dim=1), torch.ones(4096))
    assert relative_error(f, quantizer(f).f_hat) < 0.05


def test_dead_codes_become_residuals_and_live_ones_stay() -> None:
    quantizer, f = drifted(), latents(12)
    with torch.no_grad():
        quantizer.codebook[100:] = F.normalize(torch.ones(8) + 0.01 * torch.randn(156, 8), dim=1)
    quantizer.train()
    quantizer(f)
    alive = quantizer.hits.sum(0) >= 1
    before, used = quantizer.codebook.detach().clone(), int(alive.sum())
    replaced = quantizer.reset_dead_codes(f, 1.0, torch.Generator().manual_seed(0))
    assert replaced == SMALL.codebook_size - used > 50
    assert torch.equal(quantizer.codebook[alive], before[alive])
    torch.testing.assert_close(quantizer.codebook[~alive].norm(dim=1), torch.ones(replaced))
    found = torch.cat([one.flatten() for one in quantizer(f).tokens]).unique()
    assert len(found) > used + replaced // 2
    assert quantizer.reset_dead_codes(f, 0.0, torch.Generator()) == 0


def test_a_replaced_code_that_stays_unused_is_dead_again() -> None:
    quantizer = drifted()
    assert quantizer.reset_dead_codes(latents(12), 0.5, torch.Generator().manual_seed(0)) == SMALL.codebook_size
    assert quantizer.reset_dead_codes(latents(12), 0.5, torch.Generator().manual_seed(0)) == 0
    quantizer.calls += 1
    quantizer(latents(3, seed=9))
    used = (quantizer.hits.sum(0) >= 0.5).sum()
    assert (
        quantizer.reset_dead_codes(latents(12), 0.5, torch.Generator().manual_seed(0)) == SMALL.codebook_size - used > 0
    )


def test_wrong_inputs_are_refused_in_one_sentence() -> None:
    quantizer = drifted()
    tokens = quantizer.encode(latents(3))
    with pytest.raises(UserError, match="16, 16"):
        quantizer(torch.zeros(3, 8, 16, 16))
    with pytest.raises(UserError, match="tokens of shape"):
        unpack(torch.zeros(1, 2040, dtype=torch.long), SMALL.scales)
    with pytest.raises(UserError, match="codebook of 256 codes"):
        quantizer.f_hat([tokens[0] + 256, *tokens[1:]])
    with pytest.raises(UserError, match="codebook of 256 codes"):
        quantizer.next_inputs([*tokens[:-1], tokens[-1] - 256])
    with pytest.raises(UserError, match="do not fit"):
        quantizer.f_hat(tokens[:-1])
    with pytest.raises(UserError, match="zero throughout"):
        quantizer.initialize(torch.zeros(3, 8, 8, 8), torch.Generator())
