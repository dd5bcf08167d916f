"""Splats and their PLY files for tests, and the plain way of drawing them."""

from pathlib import Path

import numpy as np
import torch

from sar3d.splats.render import Projected
from sar3d.splats.scene import Splats


def random_splats(count: int, seed: int = 0, size: float = 0.03) -> Splats:
    """In a ball of radius 0.45, of any shape, color and opacity."""
    random = np.random.default_rng(seed)
    means = random.normal(size=(count, 3))
    means *= 0.45 * random.random((count, 1)) ** (1 / 3) / np.linalg.norm(means, axis=1, keepdims=True)
    axes = np.linalg.qr(random.normal(size=(count, 3, 3)))[0] * (size * random.random((count, 1, 3)) + 0.002)
    return Splats(
        means=means.astype(np.float32),
        covariances=(axes @ axes.transpose(0, 2, 1)).astype(np.float32),
        opacities=random.random(count).astype(np.float32),
        sh=random.normal(0, 0.8, (count, 4, 3)).astype(np.float32),
        sh_frame=np.eye(3),
    )


def brute_force(splats: Projected, resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """Colors weighted by alpha, and alpha: every splat at every pixel, one splat after another, in float64."""
    pixels = np.arange(resolution) + 0.5
    color, clear = np.zeros((resolution, resolution, 3)), np.ones((resolution, resolution))
    values = [t.double().numpy() for t in (splats.center, splats.conic, splats.opacity, splats.color)]
    for (x, y), (xx, xy, yy), opacity, rgb in zip(*values, strict=True):
        dx, dy = pixels - x, (pixels - y)[:, None]
        alpha = np.minimum(opacity * np.exp(-0.5 * (xx * dx**2 + yy * dy**2) - xy * dx * dy), 0.99)
        alpha[alpha < 1 / 255] = 0
        color += (clear * alpha)[..., None] * rgb
        clear *= 1 - alpha
    return color, 1 - clear


def write_splats(
    path: Path,
    means: np.ndarray,
    scales: np.ndarray,
    quaternions: np.ndarray,
    opacities: np.ndarray,
    colors: np.ndarray,
    normals: bool = False,
) -> None:
    """A binary PLY as 3D Gaussian splatting writes it: degree 0, logits, logarithms.

    Args:
        scales: (N, 3) deviations.
        quaternions: (N, 4) w, x, y, z.
        colors: (N, 3) in [0, 1].
        normals: with the fields nx, ny, nz, zero, as the original program.
    """
    names = ["x", "y", "z", *(["nx", "ny", "nz"] if normals else []), "f_dc_0", "f_dc_1", "f_dc_2", "opacity"]
    names += ["scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    blocks = [means, *([np.zeros_like(means)] if normals else []), (colors - 0.5) / 0.28209479177387814]
    blocks += [np.log(opacities / (1 - opacities))[:, None], np.log(scales), quaternions]
    data = np.concatenate(blocks, axis=1).astype("<f4")
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(data)}\n"
    header += "".join(f"property float {name}\n" for name in names) + "end_header\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header.encode() + data.tobytes())


def as_tensors(color: np.ndarray, alpha: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(color).float(), torch.from_numpy(alpha).float()
