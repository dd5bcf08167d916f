"""The renderer's benchmark, run small: its claims about agreement hold; and the memory of a whole picture."""

import bench_volume
import pytest
import torch
from measuring import peak_memory

from sar3d.vqvae.cameras import rays_of
from sar3d.vqvae.config import FieldConfig, VolumeConfig
from sar3d.vqvae.field import FieldMLP, TriplaneField
from sar3d.vqvae.occupancy import occupancy_of
from sar3d.vqvae.volume import render


def test_quick_benchmark_shows_the_same_picture_and_the_same_gradients(capsys: pytest.CaptureFixture[str]) -> None:
    result = bench_volume.main(["--quick", "--threads", "1"])
    assert result["psnr"] > 40
    assert result["gradient_difference"] < 1e-3
    assert 0.02 < result["occupied"] < 0.5
    assert "times as fast as plain" in capsys.readouterr().out


@pytest.mark.slow
@torch.no_grad()
def test_a_picture_of_512_pixels_takes_less_than_2_gb() -> None:
    """80 + 80 samples of a published-size field that is nowhere empty, so that nothing can be skipped."""
    torch.manual_seed(0)
    config = FieldConfig(density_scale=0.01)
    field = TriplaneField(torch.randn(1, 3, 32, 128, 128), FieldMLP(96, config).requires_grad_(False), config)
    rays = rays_of(torch.from_numpy(bench_volume.camera()).float()[None], 512, 512)
    occupancy = occupancy_of(field, resolution=64)
    assert occupancy.occupied.float().mean() > 0.99
    settings = VolumeConfig(80, 80)
    for grid in (None, occupancy):
        _, megabytes = peak_memory(
            "cpu", lambda grid=grid: render(field, rays, settings, occupancy=grid), above_start=False
        )
        assert megabytes < 2000
