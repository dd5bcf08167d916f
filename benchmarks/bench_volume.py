"""Rendering whole images with empty space skipped, and a training step's rays, against the plain ways.

    python benchmarks/bench_volume.py [--device cuda] [--resolution 512] [--model DIR --planes FILE] [--quick]

Image: `--coarse` + `--fine` samples on every ray. Plain asks the published field (three planes sampled, concatenated,
MLP) at every sample. "uniform" is the same march with our field, "skipping" leaves out empty and hidden space.
Training: forward and backward of the rays of 8 objects. Without a trained model a field is fitted to a colored solid
for some seconds. Says ratios of times measured in turn, PSNR against plain, and peak memory.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measuring import peak_memory, seconds_of

from sar3d.geometry import intrinsics, look_at
from sar3d.vqvae.cameras import rays_of
from sar3d.vqvae.config import FieldConfig, VolumeConfig
from sar3d.vqvae.field import FieldMLP, PlainTriplaneField, TriplaneField
from sar3d.vqvae.occupancy import occupancy_of
from sar3d.vqvae.volume import Rays, Rendering, render


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--coarse", type=int, default=80)
    parser.add_argument("--fine", type=int, default=80)
    parser.add_argument("--grid", type=int, default=128, help="cells of the occupancy along a side")
    parser.add_argument("--steps", type=int, default=200, help="of fitting, without a model")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; torch's own choice by default")
    parser.add_argument("--model", type=Path, help="folder of a trained VQVAE, with --planes")
    parser.add_argument("--planes", type=Path, help="its planes (B, 3, C, R, R) of an object, saved by torch")
    parser.add_argument("--quick", action="store_true", help="a few seconds: 48 pixels, 24 + 24 samples")
    given = parser.parse_args(arguments)
    if given.quick:
        given.resolution, given.coarse, given.fine, given.grid, given.steps = 48, 24, 24, 48, 60
    if given.threads:
        torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    log(f"{given.device}, {torch.get_num_threads()} CPU threads, torch {torch.__version__}")
    if given.model:
        planes, mlp, config = trained(given.model, given.planes, given.device)
    else:
        planes, mlp, config = fitted(given.steps, given.device)
    volume = VolumeConfig(given.coarse, given.fine)
    result = image(planes, mlp, config, volume, given.resolution, given.grid, given.repeats)
    return result | training(given.device, given.repeats if given.quick else 9)


def log(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def trained(folder: Path, planes: Path, device: str) -> tuple[Tensor, FieldMLP, FieldConfig]:
    """The field of the first object of a trained model."""
    from sar3d.hub import from_pretrained

    model = from_pretrained(folder, device).requires_grad_(False)
    triplane = torch.load(planes, map_location=device, weights_only=True)[:1]
    return triplane, model.field_mlp, model.config.field


def fitted(steps: int, device: str) -> tuple[Tensor, FieldMLP, FieldConfig]:
    """A small field fitted to a ball and a box with a pattern of colors."""
    config = FieldConfig(density_scale=20.0)
    planes = (0.1 * torch.randn(1, 3, 32, 64, 64, device=device)).requires_grad_()
    mlp = FieldMLP(96, config).to(device)
    optimizer = torch.optim.Adam([planes, *mlp.parameters()], lr=1e-2)
    for _ in range(steps):
        points = 0.9 * (torch.rand(1, 8192, 3, device=device) - 0.5)
        raw, rgb = solid(points)
        found = TriplaneField(planes, mlp, config).query(points)
        shape = (found.raw[..., 0] - raw).square().mean()
        color = (found.rgb - rgb).square()[raw > -9].mean()
        optimizer.zero_grad()
        (0.05 * shape + 5 * color).backward()
        optimizer.step()
    log(f"fitted a triplane to a solid in {steps} steps: mean error of the raw density {shape.item() ** 0.5:.2f}")
    return planes.detach(), mlp.requires_grad_(False), config


def solid(points: Tensor) -> tuple[Tensor, Tensor]:
    """Raw density and color of the solid; its raw density runs from -10 outside to 10 inside."""
    ball = (points - points.new_tensor([0.1, 0.0, -0.05])).norm(dim=-1) - 0.22
    box = ((points - points.new_tensor([-0.15, 0.05, 0.1])).abs() - points.new_tensor([0.12, 0.1, 0.2])).amax(-1)
    rgb = 0.5 + 0.4 * torch.sin(25 * points + points.new_tensor([0.0, 1.0, 2.0]))
    return (-400 * torch.minimum(ball, box)).clamp(-10, 10), rgb


def camera() -> NDArray[np.float64]:
    """From the front, right and above."""
    return np.concatenate([look_at([1.2, -1.0, 0.6]).reshape(16), intrinsics(39.6).reshape(9)])


@torch.no_grad()
def image(
    planes: Tensor, mlp: FieldMLP, config: FieldConfig, volume: VolumeConfig, side: int, grid: int, repeats: int
) -> dict[str, float]:
    """One picture, three ways."""
    device = planes.device
    rays = rays_of(torch.from_numpy(camera()).float()[None].to(device), side, side)
    plain, ours = PlainTriplaneField(planes, mlp, config), TriplaneField(planes, mlp, config)
    occupancy = occupancy_of(ours, resolution=grid, device=device)
    ways: dict[str, Callable[[], Rendering]] = {
        "plain": lambda: render(plain, rays, volume),
        "uniform": lambda: render(ours, rays, volume),
        "skipping": lambda: render(ours, rays, volume, occupancy=occupancy),
    }
    measured = {name: peak_memory(device, way, above_start=False) for name, way in ways.items()}
    memory = {name: megabytes for name, (_, megabytes) in measured.items()}
    pictures = {name: found.rgb for name, (found, _) in measured.items()}
    seconds: dict[str, float] = {}
    for _ in range(repeats):
        for name, way in ways.items():
            seconds[name] = min(seconds.get(name, float("inf")), seconds_of(device, way))
        grid_seconds = seconds_of(device, lambda: occupancy_of(ours, resolution=grid, device=device))
        seconds["grid"] = min(seconds.get("grid", float("inf")), grid_seconds)
    error = (pictures["plain"] - pictures["skipping"]).square().mean()
    result = {
        "ratio": seconds["plain"] / seconds["skipping"],
        "ratio_uniform": seconds["uniform"] / seconds["skipping"],
        "ratio_with_grid": seconds["plain"] / (seconds["skipping"] + seconds["grid"]),
        "psnr": float(-10 * error.clamp(min=1e-12).log10()),
        "megabytes": memory["skipping"],
        "plain_megabytes": memory["plain"],
        "occupied": float(occupancy.occupied.float().mean()),
    }
    log(
        f"image {side}², {volume.coarse} + {volume.fine} samples: plain {seconds['plain']:.2f} s, uniform "
        f"{seconds['uniform']:.2f} s, skipping {seconds['skipping']:.2f} s, its grid of {grid}³ {seconds['grid']:.2f} s"
        f" ({100 * result['occupied']:.1f} % occupied)"
    )
    log(
        f"  skipping is {result['ratio']:.1f} times as fast as plain ({result['ratio_with_grid']:.1f} with its grid, "
        f"{result['ratio_uniform']:.1f} against uniform), PSNR {result['psnr']:.1f} dB, "
        f"peak memory {result['megabytes']:.0f} MB (plain {result['plain_megabytes']:.0f} MB)"
    )
    return result


def training(device: str, repeats: int) -> dict[str, float]:
    """Forward and backward of 8 objects × 256 rays × 32 samples, triplanes 3 × 16 × 32²."""
    config = FieldConfig(hidden=48, hidden_layers=2, density_scale=20.0)
    planes = torch.randn(8, 3, 16, 32, 32, device=device, requires_grad=True)
    mlp = FieldMLP(48, config).to(device)
    directions = torch.nn.functional.normalize(torch.randn(8, 256, 3, device=device), dim=-1)
    rays = Rays(0.15 * torch.randn(8, 256, 3, device=device) - 1.7 * directions, directions)

    def step(kind: type[PlainTriplaneField]) -> Callable[[], list[Tensor]]:
        def run() -> list[Tensor]:
            found = render(kind(planes, mlp, config), rays, VolumeConfig(32, 0))
            loss = (found.rgb - 0.3).square().mean() + found.opacity.mean() + found.depth.mean()
            return list(torch.autograd.grad(loss, [planes, *mlp.parameters()]))

        return run

    ways = {"plain": step(PlainTriplaneField), "fast": step(TriplaneField)}
    gradients = {name: way() for name, way in ways.items()}
    seconds: dict[str, float] = {}
    for _ in range(repeats):
        for name, way in ways.items():
            seconds[name] = min(seconds.get(name, float("inf")), seconds_of(device, way))
    pairs = zip(gradients["plain"], gradients["fast"], strict=True)
    difference = max(float((a - b).norm() / a.norm()) for a, b in pairs)
    log(
        f"training rays, 8 × 256 × 32: plain {1e3 * seconds['plain']:.1f} ms, fast {1e3 * seconds['fast']:.1f} ms, "
        f"{seconds['plain'] / seconds['fast']:.2f} times as fast; gradients differ by {difference:.1e} of their length"
    )
    ratio = seconds["plain"] / seconds["fast"]
    return {"training_ratio": ratio, "training_ms": 1e3 * seconds["fast"], "gradient_difference": difference}


if __name__ == "__main__":
    main()
