"""From a field to a textured GLB: seconds of each part, and looking for the surface where it is against everywhere.

    python benchmarks/bench_export.py [--device cuda] [--model DIR --planes FILE] [--grid 192] [--quick]

Plain asks the field at all points of the grid before marching cubes; ours leaves out what lies far from the surface
and must find the same surface. The rest (simplifying, cutting, baking, writing) is the same work for both. Without a
trained model a field is fitted to a colored solid for some seconds.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measuring import seconds_of

from sar3d.export.config import ExportSettings
from sar3d.export.export import export_object
from sar3d.export.lattice import dense_lattice, surface_lattice
from sar3d.export.level import silhouette_level
from sar3d.vqvae.config import FieldConfig, VolumeConfig
from sar3d.vqvae.field import Field, FieldMLP, TriplaneField


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--grid", type=int, default=192)
    parser.add_argument("--texture", type=int, default=1024)
    parser.add_argument("--faces", type=int, default=30_000)
    parser.add_argument("--steps", type=int, default=200, help="of fitting, without a model")
    parser.add_argument("--repeats", type=int, default=3, help="the least time of these counts")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; torch's own choice by default")
    parser.add_argument("--model", type=Path, help="folder of a trained VQVAE, with --planes")
    parser.add_argument("--planes", type=Path, help="its planes (B, 3, C, R, R) of an object, saved by torch")
    parser.add_argument("--quick", action="store_true", help="a few seconds: 48³, texture 128²")
    given = parser.parse_args(arguments)
    if given.quick:
        given.grid, given.texture, given.faces, given.steps, given.repeats = 48, 128, 2000, 30, 1
    if given.threads:
        torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    log(f"{given.device}, {torch.get_num_threads()} CPU threads, torch {torch.__version__}")
    field = trained(given.model, given.planes, given.device) if given.model else fitted(given.steps, given.device)
    result = surface(field, given.grid, given.device, given.repeats)
    settings = ExportSettings(formats=("glb",), grid=given.grid, texture=given.texture, faces=given.faces)
    return result | whole(field, settings, given.device, given.repeats, result["plain_seconds"] - result["seconds"])


def log(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def trained(folder: Path, planes: Path, device: str) -> Field:
    """The field of the first object of a trained model."""
    from sar3d.hub import from_pretrained

    model = from_pretrained(folder, device).requires_grad_(False)
    triplane = torch.load(planes, map_location=device, weights_only=True)[:1]
    return TriplaneField(triplane, model.field_mlp, model.config.field)


def fitted(steps: int, device: str) -> Field:
    """A small field fitted to a ball and a box with a pattern of colors."""
    config = FieldConfig(density_scale=20.0)
    planes = (0.1 * torch.randn(1, 3, 16, 32, 32, device=device)).requires_grad_()
    mlp = FieldMLP(48, config).to(device)
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
    return TriplaneField(planes.detach(), mlp.requires_grad_(False), config)


def solid(points: Tensor) -> tuple[Tensor, Tensor]:
    """Raw density and color of the solid; its raw density runs from -10 outside to 10 inside."""
    ball = (points - points.new_tensor([0.1, 0.0, -0.05])).norm(dim=-1) - 0.22
    box = ((points - points.new_tensor([-0.15, 0.05, 0.1])).abs() - points.new_tensor([0.12, 0.1, 0.2])).amax(-1)
    rgb = 0.5 + 0.4 * torch.sin(25 * points + points.new_tensor([0.0, 1.0, 2.0]))
    return (-400 * torch.minimum(ball, box)).clamp(-10, 10), rgb


def surface(field: Field, grid: int, device: str, repeats: int) -> dict[str, float]:
    """Raw densities around the surface, both ways."""
    level = silhouette_level(field, device)
    found, asked = surface_lattice(field, grid, level, device)
    differing = int(((found > level) != (dense_lattice(field, grid, device) > level)).sum())
    seconds, plain = float("inf"), float("inf")
    for _ in range(repeats):
        seconds = min(seconds, seconds_of(device, lambda: surface_lattice(field, grid, level, device)))
        plain = min(plain, seconds_of(device, lambda: dense_lattice(field, grid, device)))
    share = asked / grid**3
    log(
        f"grid {grid}³: plain {plain:.2f} s, ours {seconds:.2f} s, {plain / seconds:.1f} times as fast; the field is asked at "
        f"{100 * share:.1f} % of the points, and {differing} of them come out on the other side of the level"
    )
    return {
        "ratio": plain / seconds,
        "seconds": seconds,
        "plain_seconds": plain,
        "asked": share,
        "differing": float(differing),
    }


def whole(field: Field, settings: ExportSettings, device: str, repeats: int, more: float) -> dict[str, float]:
    """The textured GLB; `more` is what the plain grid would add to its time."""
    best: dict[str, float] = {}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            parts = export_object(field, folder, settings=settings, volume=VolumeConfig(), device=device)
            size = (Path(folder) / "object.glb").stat().st_size
        if not best or sum(parts.values()) < sum(best.values()):
            best = parts
    total = sum(best.values())
    breakdown = ", ".join(f"{name} {value:.2f}" for name, value in best.items())
    log(
        f"field to GLB, {settings.faces} faces, texture {settings.texture}²: {total:.2f} s ({breakdown}), {size / 1e6:.1f} MB; "
        f"with the plain grid {total + more:.2f} s, {(total + more) / total:.1f} times as long"
    )
    return {"total": total, "total_ratio": (total + more) / total, **{f"part_{k}": v for k, v in best.items()}}


if __name__ == "__main__":
    main()
