"""The benchmark of metrics, run small: what it compares is equal."""

import bench_metrics
import pytest
import torch


def test_quick_benchmark_compares_equal_things(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    found = bench_metrics.main(["--quick", "--threads", "1"])
    torch.set_num_threads(threads)
    assert found["difference"] < 1e-9
    assert found["splat_difference"] < 1e-3, "a tile is left when nothing behind can show"
    assert capsys.readouterr().out.count("times as fast") == 2
