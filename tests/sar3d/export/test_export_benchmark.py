"""The export's benchmark, run small: what it compares is equal, and its parts add up."""

import bench_export
import pytest
import torch


def test_quick_benchmark_finds_the_same_surface_both_ways(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    found = bench_export.main(["--quick", "--threads", "1"])
    torch.set_num_threads(threads)
    assert found["differing"] == 0
    assert found["asked"] < 0.6
    assert found["total"] == pytest.approx(sum(v for k, v in found.items() if k.startswith("part_")))
    assert {"part_mesh", "part_unwrap", "part_bake", "part_glb"} <= set(found)
    assert "times as fast" in capsys.readouterr().out
