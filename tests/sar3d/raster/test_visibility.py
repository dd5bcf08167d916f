"""What pixels show: against Embree and OpenGL on real objects, and at the edges of what can be drawn."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from raster_scenes import LENS, POSE, sphere, tensors

from sar3d.geometry import camera_rays, intrinsics, look_at
from sar3d.meshes import load_scene, normalize
from sar3d.meshes.scene import Material, Scene
from sar3d.render import RenderSettings, make_renderer
from sar3d.render.raster import Raster, rasterize, to_screen, visible_faces

SIDE = 256


def objects(shared: Path, count: int) -> list[Path]:
    listed = json.loads((shared / "objects" / "manifest.json").read_text())
    listed.sort(key=lambda entry: hashlib.sha256(entry["uid"].encode()).hexdigest())
    return [shared / "objects" / entry["file"] for entry in listed[:count]]


def check_object(path: Path) -> None:
    """Coverage, depth and faces of two views agree with those of two other renderers."""
    scene, _ = normalize(load_scene(path))
    plain = tuple(dataclasses.replace(p, material=Material(), uvs=None, colors=None) for p in scene.primitives)
    positions = np.concatenate([p.positions for p in plain])
    starts = np.cumsum([0, *(len(p.positions) for p in plain)])
    faces = np.concatenate([p.faces.astype(np.int64) + n for p, n in zip(plain, starts, strict=False)])
    seed = int(path.stem[:8], 16)
    c2w = look_at(np.random.default_rng(seed).normal(size=(2, 3)) @ np.diag([1, 1, 0.5]) + [1.4, -0.9, 0.5])
    lenses = np.broadcast_to(intrinsics(39.6), (2, 3, 3)).copy()
    raster = rasterize(
        torch.from_numpy(positions),
        torch.from_numpy(faces),
        torch.from_numpy(c2w),
        torch.from_numpy(lenses),
        SIDE,
        SIDE,
    )
    depth = raster.picture(raster.depth[:, None]).numpy()[..., 0]
    check_opengl(Scene(plain), c2w, lenses, depth)
    check_embree(positions, faces, c2w, lenses, raster, depth)


def check_opengl(scene: Scene, c2w, lenses, depth) -> None:
    renderer = make_renderer("moderngl")
    theirs = renderer.render(scene, c2w, lenses, RenderSettings(SIDE)).depth
    renderer.close()
    assert ((depth > 0) != (theirs > 0)).mean() < 1e-3
    both = (depth > 0) & (theirs > 0)
    assert (np.abs(depth - theirs)[both] > 1e-4).mean() < 1e-3


def check_embree(positions, faces, c2w, lenses, raster: Raster, depth) -> None:
    embree = EmbreeScene()
    TriangleMesh(embree, positions.astype(np.float32), faces.astype(np.int32))
    origins, directions = camera_rays(c2w, lenses, SIDE, SIDE)
    found = embree.run(
        origins.reshape(-1, 3).astype(np.float32), directions.reshape(-1, 3).astype(np.float32), output=True
    )
    hit = found["primID"].reshape(depth.shape).astype(np.int64)
    forward = c2w[:, None, None, :3, 2]
    distance = found["tfar"].reshape(depth.shape) * (directions * forward).sum(-1)
    face = np.full(depth.shape, -1)
    face.flat[raster.pixel.numpy()] = raster.face.numpy()
    assert ((hit >= 0) != (face >= 0)).mean() < 1e-3
    both = (hit >= 0) & (face >= 0)
    near = np.zeros(depth.shape, bool)
    near.flat[raster.pixel.numpy()] = close_to_an_edge(raster)
    assert (np.abs(distance - depth)[both & (hit == face)] < 1e-4).all()
    assert ((hit == face) | (np.abs(distance - depth) < 1e-4) | near)[both].all()


def close_to_an_edge(raster: Raster) -> np.ndarray:
    """(K,) whether the pixel's center lies within 1/64 pixel of its face's edges."""
    at = raster.screen[..., :2]
    area = torch.linalg.det(torch.cat([at, torch.ones(len(at), 3, 1)], -1)).abs()
    length = (at.roll(-1, 1) - at.roll(-2, 1)).norm(dim=-1)
    return ((raster.shares * area[:, None] / length).amin(-1) < 1 / 64).numpy()


def test_real_objects_look_as_others_draw_them(shared: Path):
    for path in objects(shared, 6):
        check_object(path)


@pytest.mark.slow
def test_120_real_objects_look_as_others_draw_them(shared: Path):
    for path in objects(shared, 120):
        check_object(path)


def test_faces_that_share_edges_neither_overlap_nor_gape():
    # A fan of triangles around points that lie exactly on pixels' centers and rows.
    angles = torch.linspace(0, 2 * torch.pi, 25)[:-1]
    rim = torch.stack([8 + 6.5 * angles.cos(), 8 + 6.5 * angles.sin()], -1).round(decimals=1)
    flat = torch.cat([torch.tensor([[8.5, 8.5]]), rim])
    screen = torch.cat([flat, torch.ones(len(flat), 1)], -1)[None]
    ring = torch.arange(1, 25)
    faces = torch.stack([torch.zeros_like(ring), ring, ring % 24 + 1], -1)
    times = sum((visible_faces(screen, face[None], 16, 16) >= 0).int() for face in faces)
    assert times.max() == 1
    assert torch.equal(times.bool(), visible_faces(screen, faces, 16, 16) >= 0)
    assert times[0, 3:13, 3:13].min() == 1


def test_the_nearer_face_is_seen_and_ties_go_to_the_lower_number():
    square = torch.tensor([[0.0, 0, 2], [8, 0, 2], [0, 8, 2], [0, 0, 1], [8, 0, 1], [0, 8, 1]])[None]
    near, far = torch.tensor([3, 4, 5]), torch.tensor([0, 1, 2])
    for faces in (torch.stack([near, far]), torch.stack([far, near])):
        seen = visible_faces(square, faces, 8, 8)
        assert set(seen.unique().tolist()) == {-1, int((faces[1] == near).all())}
    assert set(visible_faces(square, torch.stack([far, near, near]), 8, 8).unique().tolist()) == {-1, 1}
    assert set(visible_faces(square, torch.stack([far.flip(0), far]), 8, 8).unique().tolist()) == {-1, 0}


def test_the_order_of_faces_and_of_views_does_not_matter():
    vertices, faces = tensors(sphere(1280))
    poses = torch.from_numpy(look_at([[1.1, -1.0, 0.7], [0.2, 1.4, -0.5]]))
    screen = to_screen(vertices.float(), poses, LENS.expand(2, 3, 3), 64, 64)
    seen = visible_faces(screen, faces, 64, 64)
    order = torch.randperm(len(faces))
    assert torch.equal(torch.where(seen < 0, -1, faces.new_tensor(order.argsort().tolist())[seen]),
                       visible_faces(screen, faces[order], 64, 64))  # fmt: skip
    assert torch.equal(visible_faces(screen[1:], faces, 64, 64)[0], seen[1])


def test_little_memory_at_a_time_gives_the_same(monkeypatch: pytest.MonkeyPatch):
    vertices, faces = tensors(sphere(1280))
    poses = torch.from_numpy(look_at([[1.1, -1.0, 0.7], [0.2, 1.4, -0.5]]))
    screen = to_screen(vertices.float(), poses, LENS.expand(2, 3, 3), 64, 64)
    seen = visible_faces(screen, faces, 64, 64)
    monkeypatch.setattr("sar3d.render.raster.visibility.CANDIDATES", 100)
    assert torch.equal(visible_faces(screen, faces, 64, 64), seen)


@pytest.mark.parametrize(
    "vertices",
    [
        [[0.0, 0, 0], [0, 0, 0], [0, 0, 0]],
        [[-0.2, 0.0, 0], [0.0, 0, 0], [0.2, 0, 0]],
        [[2.2, -2.0, 1.4], [2.3, -2.0, 1.4], [2.2, -2.1, 1.5]],
        [[2.2, -2.0, 1.4], [0.1, 0, 0], [0, 0.1, 0]],
        [[9.0, 9, 0], [9.1, 9, 0], [9, 9.1, 0]],
    ],
    ids=["a point", "a line", "behind the camera", "through the camera's plane", "beside the picture"],
)
def test_what_cannot_be_seen_is_not_drawn(vertices):
    at = torch.tensor(vertices, requires_grad=True)
    raster = rasterize(at, torch.tensor([[0, 1, 2]]), POSE, LENS, 32, 32)
    assert raster.mask().sum() == 0
    (raster.with_silhouettes(raster.mask()).sum() + raster.depth.sum()).backward()
    assert at.grad is not None
    assert at.grad.isfinite().all()


def test_empty_meshes_and_pictures_of_one_pixel():
    nothing = rasterize(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64), POSE, LENS, 4, 5)
    assert nothing.picture(nothing.interpolate(torch.zeros(0, 2)), 0.5).equal(torch.full((1, 4, 5, 2), 0.5))
    vertices, faces = tensors(sphere(320))
    assert rasterize(vertices.float(), faces, POSE, LENS, 1, 1).mask().equal(torch.ones(1, 1, 1, 1))
    with pytest.raises(ValueError, match="finite"):
        rasterize(torch.full((3, 3), torch.nan), torch.tensor([[0, 1, 2]]), POSE, LENS, 4, 4)
    with pytest.raises(ValueError, match="float32"):
        rasterize(vertices.half(), faces, POSE, LENS, 4, 4)
