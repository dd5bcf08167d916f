"""Extraction: the published recordings, gradients, closed surfaces, batches, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from sar3d.flexicubes import (
    FlexiMesh,
    extract,
    regular_grid,
    sign_consistency,
    surface_presence,
)

RESOLUTION = 24


def noise(seed: int, resolution: int, batch: int = 1, smooth: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """A deformed grid, a field of noise that also reaches the border, and random weights."""
    generator = torch.Generator().manual_seed(seed)
    sdf = torch.randn(batch, *3 * (resolution + 1,), generator=generator)
    if smooth:
        sdf = torch.nn.functional.avg_pool3d(sdf[:, None], 3, 1, 1)[:, 0]
    shift = torch.rand(*sdf.shape, 3, generator=generator) - 0.5
    weights = torch.randn(batch, *3 * (resolution,), 21, generator=generator)
    return regular_grid(resolution, 1.0) + 0.9 * shift / resolution, sdf, weights


def oriented(faces: NDArray[np.int64]) -> list[tuple[int, ...]]:
    """Triangles in an order of their own, each from its least corner."""
    return sorted(tuple(np.roll(face, -int(face.argmin()))) for face in faces)


def is_closed(mesh: FlexiMesh) -> bool:
    """Whether every edge lies in exactly two triangles, once each way."""
    count = len(mesh.vertices)
    a, b = torch.cat([mesh.faces[:, [i, (i + 1) % 3]] for i in range(3)]).unbind(-1)
    there, times = (a * count + b).unique(return_counts=True)
    return bool((times == 1).all()) and torch.equal(there, (b * count + a).unique())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", ["uniform", "random"])
def test_meshes_equal_the_published_recordings(shared: Path, kind: str, training: bool):
    with np.load(shared / "goldens" / f"flexi_sphere8_{kind}.npz") as file:
        golden = dict(file)
    resolution = int(golden["res"])
    points = (1, *3 * (resolution + 1,))
    (mesh,) = extract(
        torch.from_numpy(golden["grid_deformed"]).view(*points, 3),
        torch.from_numpy(golden["sdf"]).view(points),
        torch.from_numpy(golden["weights"]).view(1, *3 * (resolution,), 21),
        training=training,
    )
    vertices, faces, l_dev = (golden[f"{name}_train{int(training)}"] for name in ("verts", "faces", "L_dev"))
    distance = np.linalg.norm(mesh.vertices.numpy()[:, None] - vertices[None], axis=-1)
    theirs = distance.argmin(1)
    assert sorted(theirs) == list(range(len(vertices)))
    assert distance.min(1).max() < 1e-5
    assert oriented(theirs[mesh.faces.numpy()]) == oriented(faces)
    np.testing.assert_allclose(np.sort(mesh.l_dev.numpy()), np.sort(l_dev), atol=1e-6)


def test_sign_consistency_equals_the_published_recording(shared: Path):
    with np.load(shared / "goldens" / "sdf_reg.npz") as golden:
        sdf, loss = torch.from_numpy(golden["sdf"]), float(golden["loss"])
    assert float(sign_consistency(sdf.view(2, 5, 5, 5))) == pytest.approx(loss, abs=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_gradients_are_those_of_the_function(training: bool):
    positions, sdf, weights = (t.double().requires_grad_() for t in noise(0, 4))

    def values(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        (mesh,) = extract(*inputs, training=training)
        return mesh.vertices, mesh.l_dev

    assert torch.autograd.gradcheck(values, (positions, sdf, weights), fast_mode=True)
    (mesh,) = extract(positions, sdf, weights, training=training)
    (gradient,) = torch.autograd.grad(mesh.vertices.square().sum() + mesh.l_dev.sum(), weights)
    reached = gradient.reshape(-1, 21).abs().amax(0) > 0
    assert reached[:20].all()
    assert bool(reached[20]) == training


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
def test_every_entry_of_the_gradient_is_that_of_the_function(training: bool):
    inputs = tuple(t.double().requires_grad_() for t in noise(0, 4))

    def values(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        (mesh,) = extract(*inputs, training=training)
        return mesh.vertices, mesh.l_dev

    assert torch.autograd.gradcheck(values, inputs)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("smooth", [False, True])
def test_noise_gives_closed_surfaces(smooth: bool, training: bool):
    for seed in range(3):
        (mesh,) = extract(*noise(seed, RESOLUTION, smooth=smooth), training=training)
        assert mesh.valid
        assert len(mesh.faces) > 10_000
        assert mesh.faces.unique().equal(torch.arange(len(mesh.vertices)))
        assert is_closed(mesh)


def test_triangles_face_outward():
    grid = regular_grid(16, 2.0)[None]
    (mesh,) = extract(grid, grid.norm(dim=-1) - 0.7, torch.zeros(1, 16, 16, 16, 21), training=True)
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    assert (torch.linalg.cross(b - a, c - a) * (a + b + c)).sum(-1).min() > 0
    assert (mesh.vertices.norm(dim=-1) - 0.7).abs().max() < 0.02
    volume = (torch.linalg.cross(a, b) * c).sum() / 6
    assert float(volume) == pytest.approx(4 / 3 * np.pi * 0.7**3, rel=0.05)


def test_surfaces_are_closed_at_the_border_and_positive_values_there_count():
    resolution = 8
    grid = regular_grid(resolution, 2.0)[None]
    weights = torch.zeros(1, *3 * (resolution,), 21)
    column = grid[..., :2].norm(dim=-1) - 0.5  # through top and bottom of the grid
    (mesh,) = extract(grid, column, weights, training=False)
    assert mesh.valid
    assert is_closed(mesh)
    assert mesh.vertices[:, 2].abs().max() <= 1
    raised = column.clone()
    raised[..., -1] = 0.5
    (shorter,) = extract(grid, raised, weights, training=False)
    assert shorter.vertices[:, 2].max() < mesh.vertices[:, 2].max() - 0.01


@pytest.mark.parametrize("training", [False, True])
def test_a_batch_equals_its_objects_alone(training: bool):
    positions, sdf, weights = noise(1, 8, batch=3)
    sdf[0], sdf[2] = sdf[0].abs(), -sdf[2].abs()
    together = extract(positions, sdf, weights, training=training)
    assert [mesh.valid for mesh in together] == [False, True, False]
    for i, mesh in enumerate(together):
        (alone,) = extract(positions[i : i + 1], sdf[i : i + 1], weights[i : i + 1], training=training)
        assert alone.valid == mesh.valid
        for name in ("vertices", "faces", "l_dev"):
            assert torch.equal(getattr(mesh, name), getattr(alone, name)), name
        assert mesh.valid == (len(mesh.faces) > 0) == (len(mesh.vertices) > 0)


def test_objects_of_a_batch_do_not_touch_each_other():
    inputs = noise(2, 8, batch=3)
    for i, mesh in enumerate(extract(*inputs, training=True)):
        (alone,) = extract(*(t[i : i + 1] for t in inputs), training=True)
        assert torch.equal(mesh.vertices, alone.vertices)
        assert torch.equal(mesh.faces, alone.faces)
        assert torch.equal(mesh.l_dev, alone.l_dev)


def test_a_missing_surface_is_pulled_back():
    sdf = torch.stack(
        [torch.full((5, 5, 5), 0.3), torch.full((5, 5, 5), -0.3), torch.linspace(-1, 1, 125).view(5, 5, 5)]
    )
    sdf[0, 2, 2, 2] = 0.1
    sdf.requires_grad_()
    loss = surface_presence(sdf, margin=0.05)
    torch.testing.assert_close(loss, torch.tensor([0.15, 0.35, 0.0]))
    (gradient,) = torch.autograd.grad(loss.sum(), sdf)
    assert gradient[0, 2, 2, 2] == 1
    assert gradient[1].sum() == -1
    assert gradient[2].abs().sum() == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, s, w: (x.half(), s.half(), w.half()), "float32"),
        (lambda x, s, w: (x, s.double(), w), "float64"),
        (lambda x, s, w: (x, s, w[..., :20]), "weights must be"),
        (lambda x, s, w: (x[:, :-1], s, w), "positions must be"),
        (lambda x, s, w: (x, s[:, :-1], w), "sdf must be"),
        (lambda x, s, w: (x, s.index_fill(1, torch.tensor([2]), torch.nan), w), "finite"),
    ],
)
def test_what_does_not_fit_is_refused(change, said: str):
    with pytest.raises(ValueError, match=said):
        extract(*change(*noise(0, 4)), training=True)
