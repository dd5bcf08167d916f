"""The surface of fields whose surface is known."""

import math

import numpy as np
import pytest
import torch
import trimesh
from solids import Solid, ball, rod, torus, union, without

from sar3d.errors import ObjectError
from sar3d.export.lattice import dense_lattice, surface_lattice
from sar3d.export.level import best_threshold, raw_level, silhouette_level
from sar3d.export.mesh import Mesh, extract_mesh, simplified, surface_of, vertex_colors

GRID = 64
VOXEL = 0.9 / (GRID - 1)


def as_trimesh(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)


def extract(solid: Solid, **settings: object) -> Mesh:
    return extract_mesh(solid, **{"grid": GRID, "level": solid.level, **settings})  # type: ignore[arg-type]


def test_a_ball_lies_where_it_is():
    center = (0.08, -0.05, 0.1)
    mesh = extract(Solid(ball(0.3, center)))
    off = np.linalg.norm(mesh.vertices - center, axis=1) - 0.3
    assert np.abs(off).max() < 0.05 * VOXEL
    found = as_trimesh(mesh)
    assert found.is_watertight
    assert found.volume == pytest.approx(4 / 3 * math.pi * 0.3**3, rel=0.01)
    outward = (mesh.vertices - center) / np.linalg.norm(mesh.vertices - center, axis=1, keepdims=True)
    assert (mesh.normals() * outward).sum(axis=1).min() > 0.99


def test_a_torus_has_a_hole():
    found = as_trimesh(extract(Solid(torus(0.3, 0.08))))
    assert found.is_watertight
    assert found.euler_number == 0
    assert found.volume == pytest.approx(2 * math.pi**2 * 0.3 * 0.08**2, rel=0.02)


@pytest.mark.parametrize("distance", [ball(0.3), torus(0.35, 0.015), union(ball(0.1), ball(0.05, (0.3, 0.3, 0.3)))])
def test_looking_only_where_the_surface_is_finds_what_looking_everywhere_finds(distance):
    solid = Solid(distance)
    exact = dense_lattice(solid, 90)
    solid.asked = 0
    found, asked = surface_lattice(solid, 90, 0.0)
    assert asked == solid.asked < 0.4 * 90**3
    inside = exact > 0
    assert torch.equal(found > 0, inside)
    for dim in range(3):
        line = inside.movedim(dim, 0)
        crossing = line[1:] != line[:-1]
        ours, theirs = found.movedim(dim, 0), exact.movedim(dim, 0)
        torch.testing.assert_close(ours[1:][crossing], theirs[1:][crossing])
        torch.testing.assert_close(ours[:-1][crossing], theirs[:-1][crossing])


def test_what_is_thinner_than_a_brick_is_followed_from_where_it_begins():
    needle = Solid(union(ball(0.1, (-0.3, 0, 0)), rod(0.008, -0.3, 0.42)), greatest=3.0)
    mesh = extract(needle, grid=128)
    assert mesh.vertices[:, 0].max() == pytest.approx(0.42, abs=0.01)
    assert as_trimesh(mesh).body_count == 1


def test_hollows_that_nobody_can_look_into_are_closed():
    shell = extract(Solid(without(ball(0.35), ball(0.2))))
    assert np.linalg.norm(shell.vertices, axis=1).min() > 0.34
    bowl = extract(Solid(without(without(ball(0.35), ball(0.2)), rod(0.08, 0.0, 0.5))))
    assert np.linalg.norm(bowl.vertices, axis=1).min() < 0.21


def test_floaters_go_and_the_largest_piece_stays():
    crumbs = Solid(union(ball(0.2, (-0.2, 0, 0)), ball(0.03, (0.3, 0, 0))))
    assert as_trimesh(extract(crumbs, floaters=0.0)).body_count == 2
    assert as_trimesh(extract(crumbs, floaters=0.001)).body_count == 2
    kept = as_trimesh(extract(crumbs, floaters=0.05))
    assert kept.body_count == 1
    assert kept.bounds[1, 0] < 0.01
    dust = Solid(union(*(ball(0.05, (x, y, z)) for x in (-0.3, 0, 0.3) for y in (-0.3, 0, 0.3) for z in (-0.3, 0.3))))
    assert len(extract(dust, floaters=0.9).faces) > 0


def test_a_mesh_is_simplified_and_keeps_its_shape():
    full = extract(Solid(torus(0.3, 0.08)))
    small = simplified(full, 1500)
    assert len(small.faces) <= 1500 < len(full.faces) / 4
    assert as_trimesh(small).is_watertight
    assert as_trimesh(small).volume == pytest.approx(as_trimesh(full).volume, rel=0.01)
    assert len(simplified(full, len(full.faces)).faces) == len(full.faces)


def test_pieces_that_touch_stay_closed_when_simplified():
    touching = Solid(union(ball(0.2, (0.1, 0.0, -0.1)), torus(0.3, 0.05), rod(0.04, -0.4, 0.0)))
    full = extract(touching, grid=96)
    for faces in (8000, 2000, 500):
        small = simplified(full, faces)
        ends = np.sort(small.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
        _, borders = np.unique(ends, axis=0, return_counts=True)
        assert (borders % 2 == 0).all()
        assert len(np.unique(np.sort(small.faces, axis=1), axis=0)) == len(small.faces)


def test_an_object_that_fills_its_cube_is_closed_at_the_faces():
    mesh = extract(Solid(ball(0.55)))
    assert as_trimesh(mesh).is_watertight
    assert np.abs(mesh.vertices).max() == pytest.approx(0.45, abs=1e-3)
    assert np.abs(mesh.vertices).max() <= 0.45


@pytest.mark.parametrize(
    ("solid", "kind"),
    [
        (Solid(ball(-1.0)), "empty_field"),
        (Solid(ball(2.0)), "solid_field"),
        (Solid(ball(0.3), steepness=0.0), "empty_field"),
    ],
    ids=["empty", "solid", "fog"],
)
def test_a_field_without_a_surface_is_an_object_error(solid, kind):
    for level in (None, 30.0):
        with pytest.raises(ObjectError) as error:
            extract_mesh(solid, grid=32, level=level)
        assert error.value.kind == kind


def test_a_surface_without_area_is_an_object_error():
    values = np.full((9, 9, 9), -1e30, np.float32)
    values[4, 4, 4] = 1e-3
    with pytest.raises(ObjectError, match="no area"):
        surface_of(values, 0.0, 0.9)


def test_the_level_is_a_density():
    solid = Solid(ball(0.3), steepness=20.0)
    for density in (1.0, 9.0, 60.0):
        raw = raw_level(solid, density)
        assert float(solid.density(torch.tensor(raw))) == pytest.approx(density, rel=1e-4)
        mesh = extract(solid, level=density)
        radius = np.linalg.norm(mesh.vertices, axis=1).mean()
        assert radius == pytest.approx(0.3 - raw / 20, abs=0.1 * VOXEL)


def test_of_all_thresholds_the_one_with_the_likest_silhouette_is_found():
    generator = torch.Generator().manual_seed(0)
    greatest = torch.randn(200, generator=generator)
    opacity = torch.sigmoid(3 * (greatest - 0.4) + torch.randn(200, generator=generator))
    costs = [float((opacity - (greatest > t).float()).square().sum()) for t in greatest]
    found = best_threshold(opacity, greatest)
    assert found is not None
    cost = float((opacity - (greatest > found).float()).square().sum())
    assert cost == pytest.approx(min(costs), rel=1e-4)
    assert best_threshold(0.4 * opacity, greatest) is None
    assert best_threshold(torch.ones(200), greatest) is None


@pytest.mark.parametrize("steepness", [15.0, 60.0, 400.0])
def test_the_surface_of_a_foggy_ball_is_as_wide_as_the_ball_looks(steepness):
    solid = Solid(ball(0.25), steepness=steepness, greatest=3.0)
    radius = np.linalg.norm(extract_mesh(solid, grid=GRID).vertices, axis=1).mean()
    depth = torch.linspace(-0.45, 0.45, 400)
    across = torch.linspace(0, 0.45, 400)
    points = torch.stack([depth.expand(400, 400), across[:, None].expand(400, 400), torch.zeros(400, 400)], -1)
    thickness = solid.density(solid.query(points.view(1, -1, 3)).raw).view(400, 400).mean(1) * 0.9
    half = float(across[(1 - torch.exp(-thickness)) > 0.5].max())
    assert radius == pytest.approx(half, abs=1.5 * VOXEL)
    assert silhouette_level(solid) == pytest.approx((0.25 - radius) * steepness, abs=0.2)


def test_vertices_have_the_colors_of_the_field():
    solid = Solid(ball(0.3))
    mesh = extract(solid)
    truth = solid.color(torch.from_numpy(mesh.vertices)).numpy() * 255
    assert np.abs(vertex_colors(solid, mesh) - truth).max() < 1.5
