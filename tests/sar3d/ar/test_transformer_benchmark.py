"""The training step's benchmark, run small: the ways of attending agree."""

import bench_ar_step
import pytest


@pytest.mark.parametrize(("options", "tolerance"), [(["--precision", "fp32"], 1e-5), (["--precision", "bf16"], 0.05)])
def test_quick_benchmark_shows_that_the_ways_of_attending_agree(
    options: list[str], tolerance: float, capsys: pytest.CaptureFixture[str]
) -> None:
    result = bench_ar_step.main(["--quick", "--threads", "1", *options])
    assert result["scales_logits_difference"] < tolerance
    assert result["scales_gradient_difference"] < tolerance
    assert result["scales_tokens_per_second"] > 0
    assert "times as fast as dense" in capsys.readouterr().out
