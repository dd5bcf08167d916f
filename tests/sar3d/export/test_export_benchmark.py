"""The export's benchmark, run small: what it compares is equal, and its parts add up."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    path = Path(__file__).resolve().parents[3] / "benchmarks" / "bench_export.py"
    spec = importlib.util.spec_from_file_location("bench_export", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_quick_benchmark_finds_the_same_surface_both_ways(
    bench: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    found = bench.main(["--quick", "--threads", "1"])
    torch.set_num_threads(threads)
    assert found["differing"] == 0
    assert found["asked"] < 0.6
    assert found["total"] == pytest.approx(sum(v for k, v in found.items() if k.startswith("part_")))
    assert {"part_mesh", "part_unwrap", "part_bake", "part_glb"} <= set(found)
    assert "times as fast" in capsys.readouterr().out
