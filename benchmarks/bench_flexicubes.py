"""Meshes from fields, pictures of meshes, and a training step's memory, against the plain dense ways.

    python benchmarks/bench_flexicubes.py [--resolution 128] [--device cuda] [--quick]

Extraction: a bumpy ball in training mode, forward and backward. Plain lists cubes and makes edges unique by sorting.
Rasterizer: the ball's triangles at 256², forward alone and forward with backward of colored, antialiased pictures.
One thread on a CPU unless `--threads` says otherwise; times are the least of some repeats measured in turn.
Where a GPU is at hand the same is measured there.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measuring import peak_memory, seconds_of
from plain_flexicubes import cubes_of, plain_extract

from sar3d.flexicubes import FlexiMesh, extract, regular_grid
from sar3d.geometry import intrinsics, look_at
from sar3d.render.raster import averaged, rasterize


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--resolution", type=int, default=128, help="cubes along a side of the grid")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="one of them alone")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a few seconds: a grid of 32")
    given = parser.parse_args(arguments)
    if given.quick:
        given.resolution, given.repeats = 32, 1
    torch.set_num_threads(given.threads)
    devices = [given.device] if given.device else ["cpu"] + ["cuda"] * torch.cuda.is_available()
    result: dict[str, float] = {}
    for device in devices:
        log(f"{device}, {torch.get_num_threads()} CPU threads, torch {torch.__version__}")
        mesh, measured = extraction(given.resolution, device, given.repeats)
        measured |= pictures(mesh, device, given.repeats)
        result |= {f"{device}_{name}": value for name, value in measured.items()}
    return result


def log(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def ball(resolution: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Grid, field and weights of a ball with bumps."""
    grid = regular_grid(resolution, 0.9, device=device)[None]
    sdf = grid.norm(dim=-1) - 0.34 + 0.02 * torch.sin(20 * grid).prod(-1)
    generator = torch.Generator().manual_seed(0)
    weights = 0.1 * torch.randn(1, *3 * (resolution,), 21, generator=generator)
    return grid, sdf, weights.to(device)


def extraction(resolution: int, device: str, repeats: int) -> tuple[FlexiMesh, dict[str, float]]:
    """Seconds and megabytes of both ways, and how far they differ."""
    inputs = [t.requires_grad_() for t in ball(resolution, device)]
    cubes = cubes_of(resolution, device)

    def ours() -> tuple[Tensor, Tensor]:
        (mesh,) = extract(inputs[0], inputs[1], inputs[2], training=True)
        return mesh.vertices, mesh.l_dev

    def plain() -> tuple[Tensor, Tensor]:
        points, sdf, weights = inputs[0].view(-1, 3), inputs[1].view(-1), inputs[2].view(-1, 21)
        vertices, _, deviation = plain_extract(points, sdf, weights, cubes)
        return vertices, deviation

    def step(way: Callable[[], tuple[Tensor, Tensor]]) -> list[Tensor]:
        vertices, deviation = way()
        return list(torch.autograd.grad(vertices.square().sum() + deviation.sum(), inputs))

    ways = {"ours": ours, "plain": plain}
    measured: dict[str, float] = {}
    gradients = {}
    for name, way in ways.items():
        gradients[name], measured[f"{name}_megabytes"] = peak_memory(device, lambda way=way: step(way))
    measured["difference"] = max(
        float((a - b).norm() / b.norm()) for a, b in zip(gradients["ours"], gradients["plain"], strict=True)
    )
    gradients.clear()
    for _ in range(repeats):
        for name, way in ways.items():
            forward = seconds_of(device, way)
            both = seconds_of(device, lambda way=way: step(way))
            for part, seconds in (("forward", forward), ("backward", both - forward)):
                key = f"{name}_{part}"
                measured[key] = min(measured.get(key, float("inf")), seconds)
    (mesh,) = extract(*(t.detach() for t in inputs), training=True)
    log(f"grid of {resolution}³ to {len(mesh.vertices)} vertices and {len(mesh.faces)} faces, training mode")
    for name in ways:
        log(
            f"  {name:5s} forward {measured[f'{name}_forward']:.3f} s, backward {measured[f'{name}_backward']:.3f} s, "
            f"peak {measured[f'{name}_megabytes']:.0f} MB"
        )
    log(f"  gradients differ by {measured['difference']:.1e} of their size")
    return mesh, measured


def pictures(mesh: FlexiMesh, device: str, repeats: int, side: int = 256) -> dict[str, float]:
    """Milliseconds of pictures of a mesh."""
    c2w = torch.from_numpy(look_at([[1.2, -1.0, 0.6]])).float().to(device)
    lens = torch.from_numpy(intrinsics(39.6)).float()[None].to(device)
    vertices = mesh.vertices.clone().requires_grad_()

    def forward() -> object:
        with torch.no_grad():
            return rasterize(vertices, mesh.faces, c2w, lens, side, side)

    def step(samples: int) -> Tensor:
        raster = rasterize(vertices, mesh.faces, c2w, lens, samples * side, samples * side)
        picture = raster.with_silhouettes(raster.picture(raster.interpolate(vertices), 1.0))
        (gradient,) = torch.autograd.grad(averaged(picture, samples).square().sum(), vertices)
        return gradient

    ways = {"raster": forward, "raster_step": lambda: step(1), "raster_step_2x": lambda: step(2)}
    measured: dict[str, float] = {}
    for _ in range(max(2, repeats)):
        for name, way in ways.items():
            measured[name] = min(measured.get(name, float("inf")), 1e3 * seconds_of(device, way))
    log(
        f"{len(mesh.faces)} triangles at {side}²: visible faces {measured['raster']:.1f} ms; with colors, silhouettes and "
        f"gradients {measured['raster_step']:.1f} ms, {measured['raster_step_2x']:.1f} ms with 2 × 2 samples per pixel"
    )
    return measured


if __name__ == "__main__":
    main()
