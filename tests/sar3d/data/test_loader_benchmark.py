"""The loaders' benchmark runs in its quick form, and what it says of bytes and losses holds at any speed."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[3] / "benchmarks" / "bench_loader.py"


def test_the_quick_benchmark_compares_the_loaders(capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("bench_loader", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)

    sys.modules["bench_loader"] = module
    spec.loader.exec_module(module)
    module.main(["--quick"])
    said = capsys.readouterr().out
    assert len(re.findall(r"ratio \d+\.\d+", said)) == 2
    assert "ours: depth 0.00005, alpha 0 of 255" in said
    fetched = re.search(r"bytes of the dataset: (\d+\.\d+)", said)
    assert fetched is not None
    assert 0.7 < float(fetched[1]) <= 1.2
    assert re.search(r"data wait \d+\.\d+ %", said)
