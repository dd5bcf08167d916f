"""Textures against colors that are known everywhere."""

import dataclasses

import numpy as np
import pytest
import torch
from solids import Solid, ball, torus

from sar3d.errors import ObjectError
from sar3d.export.mesh import extract_mesh, simplified, vertex_colors
from sar3d.export.texture import Unwrapped, bake, surface_points, unwrap

SIZE = 256


@pytest.fixture(scope="module")
def solid() -> Solid:
    return Solid(ball(0.3))


@pytest.fixture(scope="module")
def unwrapped(solid: Solid) -> Unwrapped:
    return unwrap(extract_mesh(solid, grid=48, level=solid.level, faces=1500))


def bilinear(texture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    place = np.clip(uv * len(texture) - 0.5, 0, len(texture) - 1.001)
    x, y = np.floor(place).astype(int).T
    u, v = (place - np.floor(place)).T[..., None]
    t = texture.astype(float)
    top, bottom = t[y, x] * (1 - u) + t[y, x + 1] * u, t[y + 1, x] * (1 - u) + t[y + 1, x + 1] * u
    return top * (1 - v) + bottom * v


def anywhere(unwrapped: Unwrapped, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Surface points and their places in the texture."""
    rng = np.random.default_rng(0)
    faces = unwrapped.faces[rng.integers(0, len(unwrapped.faces), count)]
    shares = rng.dirichlet((1, 1, 1), count)
    return tuple(np.einsum("nk,nkc->nc", shares, values[faces]) for values in (unwrapped.vertices, unwrapped.uv))


def truth(solid: Solid, points: np.ndarray) -> np.ndarray:
    return solid.color(torch.from_numpy(points)).numpy() * 255


def test_charts_fill_the_square_without_overlap(unwrapped):
    assert unwrapped.uv.min() >= 0
    assert unwrapped.uv.max() <= 1
    corners = unwrapped.uv[unwrapped.faces]
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    areas = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / 2
    covered, _, _ = surface_points(unwrapped, 1024)
    assert areas > 0.3
    assert covered.mean() == pytest.approx(areas, rel=0.01)


def test_cutting_leaves_the_surface_as_it_is(unwrapped):
    radius = np.linalg.norm(unwrapped.vertices, axis=1)
    assert np.abs(radius - 0.3).max() < 0.01
    assert (unwrapped.normals * unwrapped.vertices / radius[:, None]).sum(1).min() > 0.97
    corners = unwrapped.vertices[unwrapped.faces].astype(float)
    volume = np.einsum("fi,fi->f", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6
    assert volume == pytest.approx(4 / 3 * np.pi * 0.3**3, rel=0.02)


def test_every_point_of_the_surface_shows_its_color(solid, unwrapped):
    texture = bake(solid, unwrapped, SIZE)
    points, uv = anywhere(unwrapped, 4000)
    error = np.abs(bilinear(texture, uv) - truth(solid, points))
    assert error.mean() < 0.7
    assert np.percentile(error, 99) < 4  # at seams a filter mixes in half a texel of the neighborhood


def test_between_the_charts_nothing_dark_is_left(solid, unwrapped):
    texture = bake(solid, unwrapped, SIZE)
    covered, _, _ = surface_points(unwrapped, SIZE)
    assert not covered.all()
    assert texture.min() >= texture[covered].min() > 40


def test_a_mesh_that_covers_no_texel_is_an_object_error(solid, unwrapped):
    point = dataclasses.replace(unwrapped, uv=np.zeros_like(unwrapped.uv))
    with pytest.raises(ObjectError, match="no texel"):
        bake(solid, point, SIZE)


def test_a_texture_shows_more_than_the_colors_of_few_vertices():
    stripes = Solid(torus(0.3, 0.1), color=lambda points: 0.5 + 0.4 * torch.sin(40 * points))
    mesh = simplified(extract_mesh(stripes, grid=48, level=stripes.level), 800)
    cut = unwrap(mesh)
    points, uv = anywhere(cut, 3000)
    baked = np.abs(bilinear(bake(stripes, cut, 512), uv) - truth(stripes, points)).mean()
    rng = np.random.default_rng(0)
    faces = mesh.faces[rng.integers(0, len(mesh.faces), 3000)]
    shares = rng.dirichlet((1, 1, 1), 3000)
    places = np.einsum("nk,nkc->nc", shares, mesh.vertices[faces])
    plain = np.einsum("nk,nkc->nc", shares, vertex_colors(stripes, mesh)[faces].astype(float))
    by_vertex = np.abs(plain - truth(stripes, places)).mean()
    assert baked < 0.7 * by_vertex
