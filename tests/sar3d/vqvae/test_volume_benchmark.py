"""The renderer's benchmark, run small: its claims about agreement hold; and the memory of a whole picture."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from sar3d.vqvae.cameras import rays_of
from sar3d.vqvae.config import FieldConfig, VolumeConfig
from sar3d.vqvae.field import FieldMLP, TriplaneField
from sar3d.vqvae.occupancy import occupancy_of
from sar3d.vqvae.volume import render


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    path = Path(__file__).resolve().parents[3] / "benchmarks" / "bench_volume.py"
    spec = importlib.util.spec_from_file_location("bench_volume", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_quick_benchmark_shows_the_same_picture_and_the_same_gradients(
    bench: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    result = bench.main(["--quick", "--threads", "1"])
    assert result["psnr"] > 40
    assert result["gradient_difference"] < 1e-3
    assert 0.02 < result["occupied"] < 0.5
    assert "times as fast as plain" in capsys.readouterr().out


@pytest.mark.slow
@torch.no_grad()
def test_a_picture_of_512_pixels_takes_less_than_2_gb(bench: ModuleType) -> None:
    """80 + 80 samples of a published-size field that is nowhere empty, so that nothing can be skipped."""
    torch.manual_seed(0)
    config = FieldConfig(density_scale=0.01)
    field = TriplaneField(torch.randn(1, 3, 32, 128, 128), FieldMLP(96, config).requires_grad_(False), config)
    rays = rays_of(torch.from_numpy(bench.camera()).float()[None], 512, 512)
    occupancy = occupancy_of(field, resolution=64)
    assert occupancy.occupied.float().mean() > 0.99
    for grid in (None, occupancy):
        assert (
            bench.peak_memory("cpu", lambda grid=grid: render(field, rays, VolumeConfig(80, 80), occupancy=grid)) < 2000
        )
