"""Drawing codes: the kept candidates, the distribution, and the fast way against the plain one."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from sar3d.ar.decoding_config import DECODINGS, Decoding, decoding
from sar3d.ar.draw import (
    Candidates,
    RowSettings,
    SamplingNoise,
    candidates_of,
    draw,
    draw_plain,
    guidance_of,
    mix,
    most_probable,
    smooth_temperature,
)
from sar3d.errors import UserError


def draw_alike(logits: Tensor, uniform: Tensor, settings: Decoding) -> tuple[Tensor, Candidates]:
    """The fast way, all rows by the same settings."""
    size = logits.shape[-1]
    return draw(logits, uniform, RowSettings.of([settings] * len(logits), size), candidates_of(settings, size))


WAYS = [draw_plain, draw_alike]


def kept_codes(way, logits: list[float], settings: Decoding) -> list[int]:
    """Codes that some uniform number gives, most probable first."""
    uniform = torch.linspace(0, 1, 2001, dtype=torch.float64)[:-1]
    drawn, _ = way(torch.tensor(logits).expand(len(uniform), -1), uniform, settings)
    return list(dict.fromkeys(drawn.tolist()))


def logs(*probabilities: float) -> list[float]:
    return [math.log(p) for p in probabilities]


@pytest.mark.parametrize("way", WAYS)
class TestKept:
    def test_top_k_keeps_the_most_probable(self, way) -> None:
        assert kept_codes(way, logs(0.1, 0.4, 0.2, 0.3), Decoding(top_k=2, top_p=1)) == [1, 3]

    def test_zero_keeps_all_codes(self, way) -> None:
        assert kept_codes(way, logs(0.1, 0.4, 0.2, 0.3), Decoding(top_k=0, top_p=1)) == [1, 3, 2, 0]

    def test_more_than_all_codes_keeps_all(self, way) -> None:
        assert kept_codes(way, logs(0.1, 0.4, 0.2, 0.3), Decoding(top_k=99, top_p=1)) == [1, 3, 2, 0]

    @pytest.mark.parametrize(("top_p", "tokens"), [(0.39, [1]), (0.41, [1, 3]), (0.69, [1, 3]), (0.71, [1, 3, 2])])
    def test_top_p_keeps_the_fewest_that_reach_it(self, way, top_p: float, tokens: list[int]) -> None:
        assert kept_codes(way, logs(0.1, 0.4, 0.2, 0.3), Decoding(top_k=0, top_p=top_p)) == tokens

    def test_top_p_counts_within_the_top_k(self, way) -> None:
        # Within the two most probable the first has 4/7 = 0.57.
        assert kept_codes(way, logs(0.1, 0.4, 0.2, 0.3), Decoding(top_k=2, top_p=0.5)) == [1]
        assert kept_codes(way, logs(0.1, 0.4, 0.2, 0.3), Decoding(top_k=0, top_p=0.5)) == [1, 3]

    def test_a_tiny_top_p_keeps_one(self, way) -> None:
        assert kept_codes(way, logs(0.1, 0.4, 0.2, 0.3), Decoding(top_k=0, top_p=1e-9)) == [1]

    def test_equal_codes_go_by_number(self, way) -> None:
        assert kept_codes(way, [0.0] * 6, Decoding(top_k=3, top_p=1)) == [0, 1, 2]
        assert kept_codes(way, [0.0] * 6, Decoding(top_k=1, top_p=1)) == [0]

    def test_low_temperature_sharpens_before_top_p(self, way) -> None:
        assert kept_codes(way, logs(0.1, 0.4, 0.2, 0.3), Decoding(top_k=0, top_p=0.9, temperature=0.05)) == [1]


@pytest.mark.parametrize("way", WAYS)
def test_codes_come_as_often_as_they_are_probable(way) -> None:
    probabilities = torch.tensor([0.05, 0.4, 0.25, 0.3])
    uniform = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    drawn, _ = way(probabilities.log().expand(10_000, -1), uniform, Decoding(top_k=3, top_p=1))
    wanted = torch.tensor([0.0, 0.4, 0.25, 0.3]) / 0.95
    torch.testing.assert_close(drawn.bincount(minlength=4) / 10_000, wanted, atol=2e-4, rtol=0)


@pytest.mark.parametrize("way", WAYS)
def test_the_ends_of_the_unit_interval_give_kept_codes(way) -> None:
    logits = torch.randn(50, 40, generator=torch.Generator().manual_seed(0))
    for edge in (0.0, 1 - 2**-53):
        drawn, candidates = way(logits, torch.full((50,), edge, dtype=torch.float64), Decoding(top_k=7, top_p=0.6))
        among = (candidates.tokens == drawn[:, None]) & candidates.kept
        assert among.any(-1).all()


SETTINGS = [*DECODINGS.values(), Decoding(top_k=0, top_p=1), Decoding(top_k=0, top_p=0.8, temperature=0.7)]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("levels", [None, 8.0, 1.0])
def test_fast_is_plain(settings: Decoding, levels: float | None) -> None:
    """With continuous logits, and with rounded ones, where many are equal."""
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(300, 1024, generator=generator)
    if levels:
        logits = (logits * levels).round() / levels
    uniform = torch.rand(300, generator=generator, dtype=torch.float64)
    plain, plain_candidates = draw_plain(logits, uniform, settings)
    fast, fast_candidates = draw_alike(logits, uniform, settings)
    assert torch.equal(fast, plain)
    assert torch.equal(fast_candidates.tokens, plain_candidates.tokens)
    assert torch.equal(fast_candidates.kept, plain_candidates.kept)


def test_rows_with_settings_of_their_own_draw_as_if_alone() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = (3 * torch.randn(300, 64, generator=generator) * 4).round() / 4
    uniform = torch.rand(300, generator=generator, dtype=torch.float64)
    rows = [SETTINGS[i % len(SETTINGS)] for i in range(300)]
    together, _ = draw(logits, uniform, RowSettings.of(rows, 64), 64)
    for i, settings in enumerate(rows):
        alone, _ = draw_plain(logits[i : i + 1], uniform[i : i + 1], settings)
        assert together[i] == alone, (i, settings)


def test_the_keys_used_on_a_gpu_order_as_a_stable_sort() -> None:
    from sar3d.ar.draw import _keys

    logits = torch.tensor([[0.0, -0.0, 1.5, -math.inf, 1.5, -2.0, -1e-40, 3e38, -2.0]])
    tokens = _keys(logits).topk(9).indices
    assert torch.equal(tokens, logits.sort(dim=-1, descending=True, stable=True).indices)


@pytest.mark.parametrize("k", [1, 2, 5, 31, 32, 40])
def test_most_probable_is_the_head_of_a_stable_sort(k: int) -> None:
    logits = torch.randint(0, 6, (200, 32), generator=torch.Generator().manual_seed(k)).float()
    tokens, ordered = most_probable(logits, k)
    wanted, order = logits.sort(dim=-1, descending=True, stable=True)
    assert torch.equal(ordered, wanted[:, :k])
    assert torch.equal(tokens, order[:, :k])


def test_guidance_grows_from_nothing_to_its_strength() -> None:
    found = [guidance_of(Decoding(guidance=4.0), scale, 10) for scale in range(10)]
    assert found[0] == 0
    assert found[-1] == 4
    assert all(abs(b - a - 4 / 9) < 1e-12 for a, b in itertools.pairwise(found))
    assert guidance_of(Decoding(), 0, 1) == 0


class TestNoise:
    def test_is_a_samples_own(self) -> None:
        together, alone = SamplingNoise([3, 7, 3], 20), SamplingNoise([7], 20)
        assert torch.equal(together.uniform[1], alone.uniform[0])
        assert torch.equal(together.uniform[0], together.uniform[2])
        assert not torch.equal(together.uniform[0], together.uniform[1])
        assert torch.equal(together.gumbel(4, 5)[1], alone.gumbel(4, 5)[0])
        assert torch.equal(together.gumbel(6, 5)[1], alone.gumbel(6, 5)[0])

    def test_gumbel_noise_has_its_distribution(self) -> None:
        noise = SamplingNoise([0], 1).gumbel(200, 500)
        assert abs(noise.mean() - 0.5772) < 0.02
        assert abs(noise.var() - math.pi**2 / 6) < 0.05


class TestMix:
    def mixed(self, ratio: float, noise: Tensor) -> tuple[Tensor, Tensor]:
        logits = torch.tensor(logs(0.1, 0.4, 0.2, 0.3)).expand(len(noise), -1)
        _, candidates = draw_alike(logits, torch.zeros(len(noise), dtype=torch.float64), Decoding(top_k=3, top_p=0.6))
        return mix(candidates, noise, torch.eye(4), ratio)

    def test_only_kept_codes_take_part_and_their_weights_sum_to_one(self) -> None:
        vectors, chosen = self.mixed(0.0, SamplingNoise([0], 1).gumbel(1000, 3)[0])
        torch.testing.assert_close(vectors.sum(-1), torch.ones(1000))
        assert (vectors[:, [0, 2]] == 0).all()
        assert torch.equal(chosen, vectors.argmax(-1))
        assert set(chosen.tolist()) == {1, 3}

    def test_the_greatest_weights_follow_the_distribution(self) -> None:
        _, chosen = self.mixed(0.0, SamplingNoise([1], 1).gumbel(20_000, 3)[0])
        assert abs((chosen == 1).float().mean() - 4 / 7) < 0.015

    def test_the_finest_scale_is_nearly_hard(self) -> None:
        noise = SamplingNoise([2], 1).gumbel(1000, 3)[0]
        assert smooth_temperature(1.0) == pytest.approx(0.0135)
        assert smooth_temperature(0.0) == 0.27
        hard, soft = (self.mixed(ratio, noise)[0].amax(-1).mean() for ratio in (1.0, 0.0))
        assert hard > 0.99 > soft


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"guidance": -1.0}, "guidance"),
        ({"guidance": math.nan}, "guidance"),
        ({"guidance": math.inf}, "guidance"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"temperature": 0.0}, "top_k=1"),
        ({"temperature": math.nan}, "temperature"),
    ],
)
def test_values_out_of_range_are_named(changes: dict[str, float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        decoding("released", **changes)


def test_settings_by_name() -> None:
    assert decoding("released") == Decoding(4.0, 10, 0.5)
    assert decoding("wild", top_k=3) == Decoding(8.0, 3, 0.5)
    with pytest.raises(UserError, match=r"'best'.*released"):
        decoding("best")
