"""The benchmark of decoding, run small: both ways give the same tokens, and what it claims of memory holds."""

import bench_decode
import pytest


def test_quick_benchmark_shows_equal_tokens_and_all_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    result = bench_decode.main(["--quick", "--threads", "1", "--sequential", "2"])
    assert result["equal_fp32_1"] > 0.99
    assert result["cache_ratio_fp32_1"] < 1
    assert result["memory_ratio_fp32_1"] > 0
    assert 0 < result["seconds_bf16_1"] < result["with_triplane_bf16_1"]
    printed = capsys.readouterr().out
    assert "times as fast as plain" in printed
    assert len(printed.split("fast  ms by scale:")[1].splitlines()[0].split()) == 10
