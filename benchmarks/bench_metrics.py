"""Metrics against the plain way: chamfer distances, sets of shapes, FID-Inception, the splat renderer.

Every ratio is measured within one run. On a busy machine read CPU seconds and ratios, not wall seconds.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from measuring import peak_memory, seconds_of

from sar3d.geometry import intrinsics, look_at
from sar3d.metrics.confidence import bootstrap, half_subsamples, mmd_of
from sar3d.metrics.features.inception import Inception
from sar3d.metrics.features.kernel import kernel_blocks, kernel_of
from sar3d.metrics.features.resize import prepare
from sar3d.metrics.shapes.chamfer import dense_rows, distance_rows
from sar3d.metrics.shapes.points import Points
from sar3d.metrics.shapes.sets import SetDistances, coverage
from sar3d.splats.render import Projected, SplatSettings, draw, project
from sar3d.splats.scene import Splats

OBJECTS = 600
"""Of the published protocol."""


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, for a test")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    quick = given.quick
    found = matrix(256 if quick else 2048, 3 if quick else 12, given.device)
    found |= intervals(40 if quick else OBJECTS, 50 if quick else 1000)
    if not quick:
        found |= inception(8, given.device)
    found |= splats(2_000 if quick else 100_000, 64 if quick else 512, 500 if quick else 10_000, given.device)
    return found


def say(text: str) -> None:
    print(text, flush=True)


def cpu_seconds(work: Callable[[], object]) -> float:
    """Of this process, all threads together."""
    start = time.process_time()
    work()
    return time.process_time() - start


def cloud(points: int, seed: int) -> Points:
    """On the surface of an ellipsoid in the unit box."""
    random = np.random.default_rng(seed)
    directions = random.normal(size=(points, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return np.asarray(directions * 0.5 * random.uniform(0.3, 1.0, 3))


def matrix(points: int, side: int, device: str) -> dict[str, float]:
    """One block of the matrix of chamfer distances, by trees and by all pairs of points."""
    rows, columns = ([cloud(points, seed + i) for i in range(side)] for seed in (0, 1000))
    block: list[np.ndarray] = []
    held = peak_memory("cpu", lambda: block.append(distance_rows(rows, columns)))[1]
    tree = min(cpu_seconds(lambda: distance_rows(rows, columns)) for _ in range(3)) / side**2
    plain = cpu_seconds(lambda: block.append(dense_rows(rows[:1], columns, device="cpu"))) / side
    difference = float(np.abs(block[0][:1] - block[1]).max())
    whole = tree * OBJECTS**2
    say(
        f"chamfer distance of {points} points: trees {tree * 1e3:.2f} ms, all pairs {plain * 1e3:.2f} ms of CPU, "
        f"{plain / tree:.1f} times as fast, difference {difference:.0e}; {OBJECTS} × {OBJECTS} take {whole / 60:.1f} "
        f"CPU-minutes, a block holds {held:.0f} MB"
    )
    if device != "cpu":
        seconds = seconds_of(device, lambda: dense_rows(rows, columns, device=device)) / side**2
        say(f"on {device}: {seconds * 1e3:.2f} ms, the whole matrix {seconds * OBJECTS**2 / 60:.1f} minutes")
    return {"pair_ms": tree * 1e3, "tree_ratio": plain / tree, "difference": difference, "matrix_minutes": whole / 60}


def intervals(objects: int, resamples: int) -> dict[str, float]:
    """Intervals of MMD, COV and a kernel distance."""
    random = np.random.default_rng(0)
    uids = [f"u{i}" for i in range(objects)]
    distances = SetDistances(uids, uids, random.random((objects, objects)))
    mmd = cpu_seconds(lambda: bootstrap(mmd_of(distances), objects, resamples))
    cov = cpu_seconds(lambda: half_subsamples(coverage, distances, resamples))
    pictures = [random.normal(size=(2, 64)) for _ in range(objects)]
    blocks = kernel_blocks(pictures, pictures[::-1])
    kid = cpu_seconds(lambda: bootstrap(kernel_of(blocks), objects, resamples))
    say(
        f"{resamples} resamples of {objects} objects, CPU seconds: MMD {mmd:.2f}, COV by halves {cov:.2f}, kernel distance "
        f"from blocks {kid:.2f}"
    )
    return {"mmd_seconds": mmd, "cov_seconds": cov, "kid_seconds": kid}


def inception(count: int, device: str) -> dict[str, float]:
    """Features of pictures, the clean resize included."""
    network = Inception().to(device)
    images = np.random.default_rng(0).integers(0, 256, (count, 512, 512, 3)).astype(np.uint8)
    resize = cpu_seconds(lambda: prepare(images)) / count
    x = prepare(images)
    with torch.inference_mode():
        network(x.to(device))
        seconds = seconds_of(device, lambda: network(x.to(device))) / count
        used = cpu_seconds(lambda: network(x.to(device))) / count
    say(
        f"FID-Inception: {1 / seconds:.1f} pictures/s ({used:.3f} CPU-s each) and {resize:.3f} CPU-s for the resize; 14,400 "
        f"pictures {14400 * (used + resize) / 60:.0f} CPU-minutes"
    )
    return {"pictures_per_second": 1 / seconds, "resize_seconds": resize}


def splats(count: int, side: int, few: int, device: str) -> dict[str, float]:
    """The renderer, and its ratio to compositing every splat at every pixel."""
    settings = SplatSettings(side)
    pose, lens = look_at([0.3, -1.6, 0.4]), intrinsics(39.6)
    many = scattered(count, 0.006)
    flat = project(many, pose, lens, settings, device)
    draw(flat, side)
    whole = min(seconds_of(device, lambda: draw(project(many, pose, lens, settings, device), side)) for _ in range(3))
    used = cpu_seconds(lambda: draw(project(many, pose, lens, settings, device), side))
    part = project(scattered(few, 0.015), pose, lens, settings, device)
    small = min(side, 128)
    ours = cpu_seconds(lambda: draw(part, small))
    pictures: list[torch.Tensor] = []
    plain = cpu_seconds(lambda: pictures.append(composite(part, small)))
    difference = float((pictures[0] - draw(part, small)[0]).abs().max())
    say(
        f"{count} splats at {side}²: {whole:.2f} s ({used:.2f} CPU-s); {few} at {small}²: ours {ours:.2f}, every splat at every "
        f"pixel {plain:.2f} CPU-s, {plain / ours:.0f} times as fast, difference {difference:.0e}"
    )
    return {"splat_seconds": whole, "splat_ratio": plain / ours, "splat_difference": difference}


def scattered(count: int, size: float) -> Splats:
    """In a ball of radius 0.45, half opaque on average."""
    random = np.random.default_rng(0)
    means = random.normal(size=(count, 3))
    means *= 0.45 * random.random((count, 1)) ** (1 / 3) / np.linalg.norm(means, axis=1, keepdims=True)
    deviations = (size * random.random((count, 1, 1)) + 0.002) ** 2
    return Splats(
        means=means.astype(np.float32),
        covariances=(deviations * np.eye(3)).astype(np.float32),
        opacities=random.random(count).astype(np.float32),
        sh=random.normal(0, 0.8, (count, 1, 3)).astype(np.float32),
        sh_frame=np.eye(3),
    )


def composite(flat: Projected, side: int) -> torch.Tensor:
    """The plain way: all splats at all pixels, a row of pixels at a time."""
    pixels = torch.arange(side, device=flat.center.device) + 0.5
    dx = pixels - flat.center[:, :1]
    rows = []
    for y in pixels:
        dy = (y - flat.center[:, 1])[:, None]
        xx, xy, yy = (flat.conic[:, i, None] for i in range(3))
        alpha = flat.opacity[:, None] * torch.exp(-0.5 * (xx * dx * dx + yy * dy * dy) - xy * dx * dy)
        alpha = torch.where(alpha >= 1 / 255, alpha.clamp_max(0.99), 0)
        clear = (1 - alpha).cumprod(0)
        weights = alpha * torch.cat([torch.ones_like(clear[:1]), clear[:-1]])
        rows.append(weights.T @ flat.color)
    return torch.stack(rows)


if __name__ == "__main__":
    main()
