"""The training step's benchmark, run small: the ways of attending agree."""

import importlib.util
from pathlib import Path

import pytest


@pytest.mark.parametrize(("options", "tolerance"), [(["--precision", "fp32"], 1e-5), (["--precision", "bf16"], 0.05)])
def test_quick_benchmark_shows_that_the_ways_of_attending_agree(
    options: list[str], tolerance: float, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(__file__).resolve().parents[3] / "benchmarks" / "bench_ar_step.py"
    spec = importlib.util.spec_from_file_location("bench_ar_step", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    result = module.main(["--quick", "--threads", "1", *options])
    assert result["scales_logits_difference"] < tolerance
    assert result["scales_gradient_difference"] < tolerance
    assert result["scales_tokens_per_second"] > 0
    assert "times as fast as dense" in capsys.readouterr().out
