"""Gradients of pictures are those of the true, continuous picture, for faces large and small."""

import pytest
import torch
from raster_scenes import LENS, POSE, box, compared, occluding, silhouette, sphere, tensors, torus

from sar3d.render.raster import rasterize, vertex_normals


def check(result: tuple[float, float]) -> None:
    cosine, size = result
    assert cosine > 0.99
    assert 0.85 < size < 1.15


@pytest.mark.parametrize(("shape", "side"), [(box, 48), (lambda: sphere(1280), 48)], ids=["box", "ball"])
def test_silhouettes_move_the_mask(shape, side: int):
    check(compared(silhouette(shape()), side, fine=12))


def test_objects_that_occlude_each_other_move_the_colors():
    check(compared(occluding(torus()), 64, samples=2, fine=8))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "side"),
    [
        (lambda: sphere(320), 128),
        (lambda: sphere(1280), 64),
        (lambda: sphere(5120), 128),
        (lambda: sphere(20480), 128),
        (torus, 128),
        (box, 128),
    ],
    ids=["ball 320", "ball 1280", "ball 5120", "ball 20480", "torus", "box"],
)
def test_masks_of_all_sizes_of_faces(shape, side: int, record_property):
    result = compared(silhouette(shape()), side)
    record_property("cosine, size", f"{result[0]:.4f}, {result[1]:.3f}")
    check(result)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("behind", [torus, box])
def test_occlusion_at_full_size(behind, seed: int, record_property):
    result = compared(occluding(behind()), 128, samples=2, fine=10, seed=seed)
    record_property("cosine, size", f"{result[0]:.4f}, {result[1]:.3f}")
    check(result)


def test_depth_and_normals_have_the_gradient_of_the_surface():
    at, faces = tensors(sphere(1280))
    weights = torch.linspace(-1, 1, 3).double()

    def value(p: torch.Tensor) -> torch.Tensor:
        vertices = at * (1 + p[0]) + p[1:]
        raster = rasterize(vertices, faces, POSE, LENS, 16, 16)
        normals = raster.interpolate(vertex_normals(vertices, faces))
        return raster.depth.sum() + (normals * weights).sum()

    parameters = torch.zeros(4).double().requires_grad_()
    # So small a step moves no pixel's center to another face.
    assert torch.autograd.gradcheck(value, parameters, eps=1e-7, atol=1e-3)


def test_pictures_do_not_change_by_having_gradients():
    at, faces = tensors(torus())
    vertices = at.float().requires_grad_()
    raster = rasterize(vertices, faces, POSE, LENS, 32, 32)
    assert torch.equal(raster.with_silhouettes(raster.mask()), raster.mask())
    raster.with_silhouettes(raster.mask()).sum().backward()
    assert vertices.grad is not None
    assert vertices.grad.isfinite().all()
