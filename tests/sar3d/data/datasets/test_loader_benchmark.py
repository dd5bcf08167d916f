"""The loaders' benchmark runs in its quick form, and what it says of bytes and losses holds at any speed."""

import re

import bench_loader
import pytest


def test_the_quick_benchmark_compares_the_loaders(capsys: pytest.CaptureFixture[str]) -> None:
    bench_loader.main(["--quick"])
    said = capsys.readouterr().out
    assert len(re.findall(r"ratio \d+\.\d+", said)) == 2
    assert "ours: depth 0.00005, alpha 0 of 255" in said
    fetched = re.search(r"bytes of the dataset: (\d+\.\d+)", said)
    assert fetched is not None
    assert 0.7 < float(fetched[1]) <= 1.2
    assert re.search(r"data wait \d+\.\d+ %", said)
