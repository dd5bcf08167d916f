"""The quantizer's benchmark, its agreement with the plain way, and the memory that encoding takes."""

import bench_quantizer
import pytest
import torch
from measuring import peak_memory

from sar3d.vqvae.config import QuantizerConfig
from sar3d.vqvae.quantizer import MultiScaleQuantizer


def test_quick_benchmark_finds_equal_tokens_and_gradients(capsys: pytest.CaptureFixture[str]) -> None:
    result = bench_quantizer.main(["--quick"])
    assert result["equal"] == 1
    assert result["gradient_difference"] < 1e-4
    assert "as fast" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("objects", "megabytes"),
    [(16, 300), pytest.param(64, 1000, marks=pytest.mark.slow)],
    ids=["16 objects", "64 objects"],
)
def test_memory_of_encoding_with_16384_codes(objects: int, megabytes: int) -> None:
    """About 120 MB, however many; the distances of all codes at once would be 50 MB an object."""
    torch.manual_seed(0)
    quantizer = MultiScaleQuantizer(QuantizerConfig()).eval()
    f = bench_quantizer.latents(objects, quantizer.config)
    assert peak_memory("cpu", lambda: quantizer.encode(f))[1] < megabytes
