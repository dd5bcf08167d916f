"""Shapes with parameters, and gradients of their pictures against differences of finer ones."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import trimesh
from torch import Tensor

from sar3d.geometry import intrinsics, look_at
from sar3d.render.raster import averaged, rasterize

POSE = torch.from_numpy(look_at([[1.1, -1.0, 0.7]]))
LENS = torch.from_numpy(intrinsics(39.6))[None]
STEP = 2e-3
"""Of a parameter, up and down."""


@dataclass(frozen=True)
class Shape:
    """A mesh whose vertices depend on parameters, and the values that its vertices show."""

    faces: Tensor
    vertices: Callable[[Tensor], Tensor]
    """Of parameters."""
    parameters: int
    values: Tensor
    """(N, C)"""
    background: Tensor
    """(C,)"""


def sphere(faces: int) -> trimesh.Trimesh:
    return trimesh.creation.icosphere(subdivisions={320: 2, 1280: 3, 5120: 4, 20480: 5}[faces], radius=0.35)


def torus() -> trimesh.Trimesh:
    return trimesh.creation.torus(0.3, 0.1, major_sections=96, minor_sections=48)


def box() -> trimesh.Trimesh:
    return trimesh.creation.box((0.5, 0.4, 0.3))


def tensors(mesh: trimesh.Trimesh) -> tuple[Tensor, Tensor]:
    return torch.tensor(np.asarray(mesh.vertices)), torch.tensor(np.asarray(mesh.faces))


def silhouette(mesh: trimesh.Trimesh) -> Shape:
    """Shows its mask alone; moved, scaled and bent."""
    at, faces = tensors(mesh)

    def vertices(p: Tensor) -> Tensor:
        x, y, z = at.unbind(-1)
        return torch.stack([x + p[4] * z * z, y + p[5] * torch.sin(3 * x), z], -1) * (1 + p[3]) + p[:3]

    return Shape(faces, vertices, 6, torch.ones(len(at), 1).double(), torch.zeros(1).double())


def occluding(behind: trimesh.Trimesh) -> Shape:
    """A ball in front of another object, both with colors: the ball moves and grows, the other moves."""
    front = trimesh.creation.icosphere(subdivisions=4, radius=0.15)
    (a, own), (b, other) = tensors(front), tensors(behind)

    def vertices(p: Tensor) -> Tensor:
        ball = a * (1 + p[3]) + p[:3] + torch.tensor([0.30, -0.22, 0.20]).double()
        return torch.cat([ball, b + p[4:7] + torch.tensor([-0.12, 0.12, -0.1]).double()])

    colors = [
        torch.stack([0.5 + 0.4 * torch.sin(9 * a[:, 0]), 0.5 + 0.4 * torch.cos(7 * a[:, 1]), 0.3 + a[:, 2]], -1),
        torch.stack([0.2 + b[:, 0], 0.6 + 0.3 * torch.sin(8 * b[:, 1]), 0.9 - b[:, 2]], -1),
    ]
    values = torch.cat([torch.cat(colors), torch.ones(len(a) + len(b), 1)], -1).double()
    return Shape(torch.cat([own, other + len(a)]), vertices, 7, values, torch.tensor([1.0, 1, 1, 0]).double())


def picture(shape: Shape, parameters: Tensor, side: int, samples: int) -> Tensor:
    """(side, side, C), the mean of `samples`² per pixel."""
    raster = rasterize(shape.vertices(parameters), shape.faces, POSE, LENS, side * samples, side * samples)
    values = raster.interpolate(shape.values)
    return averaged(raster.with_silhouettes(raster.picture(values, shape.background)), samples)[0]


def compared(shape: Shape, side: int, samples: int = 1, fine: int = 14, seed: int = 1) -> tuple[float, float]:
    """The cosine between the gradient and central differences of a supersampled picture, and the ratio of their sizes.

    What is differentiated is the picture's product with smooth random weights.
    """
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, shape.values.shape[1], 6, 6, generator=generator).double()
    weights = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic", align_corners=True)[0]
    weights = weights.permute(1, 2, 0)
    parameters = torch.zeros(shape.parameters).double().requires_grad_()
    (gradient,) = torch.autograd.grad((picture(shape, parameters, side, samples) * weights).sum(), parameters)
    differences = []
    with torch.no_grad():
        for step in STEP * torch.eye(shape.parameters).double():
            change = picture(shape, step, side, fine) - picture(shape, -step, side, fine)
            differences.append((change * weights).sum() / (2 * STEP))
    expected = torch.stack(differences)
    return float(torch.cosine_similarity(gradient, expected, 0)), float(gradient.norm() / expected.norm())
