"""GLB and PLY files, read back by others."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import trimesh
from solids import Solid, ball, rod, torus, union
from validator import issues

from sar3d.export.files import glb_bytes, write_glb, write_ply
from sar3d.export.mesh import Mesh, extract_mesh, vertex_colors
from sar3d.export.texture import Unwrapped, bake, unwrap
from sar3d.export.turntable import FOV, render_views, turntable_poses
from sar3d.geometry import intrinsics
from sar3d.meshes import load_scene
from sar3d.meshes.scene import Scene
from sar3d.meshes.transform import Y_UP_TO_Z_UP
from sar3d.render import RenderSettings, make_renderer
from sar3d.vqvae.config import VolumeConfig
from sar3d.vqvae.occupancy import occupancy_of

SOLID = Solid(union(ball(0.2, (0.1, 0.0, -0.1)), torus(0.3, 0.05), rod(0.04, -0.4, 0.0)))
"""Different from all sides."""


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return extract_mesh(SOLID, grid=96, faces=8000)


@pytest.fixture(scope="module")
def unwrapped(mesh: Mesh) -> Unwrapped:
    return unwrap(mesh)


@pytest.fixture(scope="module")
def glb(unwrapped: Unwrapped, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("glb") / "object.glb"
    write_glb(path, unwrapped, bake(SOLID, unwrapped, 512))
    return path


def in_our_world(scene: Scene) -> Scene:
    turn = Y_UP_TO_Z_UP[:3, :3].T.astype(np.float32)
    parts = (dataclasses.replace(p, positions=p.positions @ turn, normals=p.normals @ turn) for p in scene.primitives)
    return Scene(tuple(parts))


def test_the_glb_has_no_issue_in_the_khronos_validator(glb):
    found = issues(glb)
    assert found["messages"] == []
    assert (found["numErrors"], found["numWarnings"]) == (0, 0)


def test_the_glb_looks_like_the_field_from_four_sides(glb):
    poses = turntable_poses(occupancy_of(SOLID, resolution=64), 4, 25.0)
    truth = render_views(SOLID, poses, 96, VolumeConfig(64, 64))
    lens = np.repeat(intrinsics(FOV)[None], 4, 0)
    renderer = make_renderer("raycast")
    seen = renderer.render(in_our_world(load_scene(glb)), poses, lens, RenderSettings(resolution=96)).rgb
    renderer.close()
    for ours, theirs in zip(seen, truth, strict=True):
        assert -10 * np.log10(np.square((ours - theirs.astype(float)) / 255).mean()) > 28
    turned = np.square((seen - np.roll(truth, 1, axis=0).astype(float)) / 255).mean((1, 2, 3))
    assert (-10 * np.log10(turned)).max() < 22


def test_trimesh_opens_the_glb_with_its_texture(glb, unwrapped):
    (opened,) = trimesh.load(glb).geometry.values()
    assert len(opened.faces) == len(unwrapped.faces)
    material = opened.visual.material
    assert material.baseColorTexture.size == (512, 512)
    assert (material.metallicFactor, material.roughnessFactor) == (0.0, 1.0)
    assert opened.volume > 0
    up = opened.vertices[:, 1]
    assert (up.min(), up.max()) == pytest.approx(
        (unwrapped.vertices[:, 2].min(), unwrapped.vertices[:, 2].max()), abs=1e-5
    )


def test_equal_meshes_give_equal_bytes(mesh, glb):
    again = unwrap(mesh)
    assert glb_bytes(again, bake(SOLID, again, 512)) == glb.read_bytes()


def test_meshes_of_many_vertices_have_wide_indices(tmp_path):
    large = extract_mesh(Solid(torus(0.3, 0.1)), grid=224)
    assert len(large.vertices) > 65535
    places = (large.vertices[:, :2] + 0.45) / 0.9
    cut = Unwrapped(large.vertices, large.normals(), large.faces, places.astype(np.float32))
    write_glb(tmp_path / "large.glb", cut, np.full((4, 4, 3), 90, np.uint8))
    (opened,) = trimesh.load(tmp_path / "large.glb", process=False).geometry.values()
    assert np.array_equal(opened.faces, large.faces)


def test_the_ply_has_colors_and_normals(mesh, tmp_path):
    colors = vertex_colors(SOLID, mesh)
    write_ply(tmp_path / "object.ply", mesh, colors)
    opened = trimesh.load(tmp_path / "object.ply", process=False)
    assert opened.volume > 0
    assert np.array_equal(opened.vertices.astype(np.float32), mesh.vertices)
    assert np.array_equal(opened.faces, mesh.faces)
    assert np.array_equal(opened.visual.vertex_colors[:, :3], colors)
    given = opened.metadata["_ply_raw"]["vertex"]["data"]
    assert np.stack([given[n] for n in ("nx", "ny", "nz")], -1).reshape(-1, 3) == pytest.approx(mesh.normals())
