"""The quantizer's benchmark, its agreement with the plain way, and the memory that encoding takes."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from sar3d.vqvae.config import QuantizerConfig
from sar3d.vqvae.quantizer import MultiScaleQuantizer


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    path = Path(__file__).resolve().parents[3] / "benchmarks" / "bench_quantizer.py"
    spec = importlib.util.spec_from_file_location("bench_quantizer", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_quick_benchmark_finds_equal_tokens_and_gradients(
    bench: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    result = bench.main(["--quick"])
    assert result["equal"] == 1
    assert result["gradient_difference"] < 1e-4
    assert "as fast" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("objects", "megabytes"),
    [(4, 100), pytest.param(64, 1000, marks=pytest.mark.slow)],
    ids=["4 objects", "64 objects"],
)
def test_memory_of_encoding_with_16384_codes(bench: ModuleType, objects: int, megabytes: int) -> None:
    torch.manual_seed(0)
    quantizer = MultiScaleQuantizer(QuantizerConfig()).eval()
    f = bench.latents(objects, quantizer.config)
    assert bench.peak_memory("cpu", lambda: quantizer.encode(f)) < megabytes
