"""The renderers against each other, on real objects: one that is wrong alone is found by the others."""

import json
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from unprojection import back_project

from sar3d.camera_layout import CameraLayoutConfig, cameras
from sar3d.geometry import intrinsics, look_at, project, spherical_to_cartesian
from sar3d.meshes import load_scene, normalize
from sar3d.meshes.scene import Material, Primitive, Scene, Texture
from sar3d.render import BACKENDS, Frames, Renderer, RenderSettings, available, make_renderer

SETTINGS = RenderSettings(resolution=256)
LENS = intrinsics(39.6)
log = logging.getLogger(__name__)

Statistics = dict[str, list[float]]


@pytest.fixture(scope="module")
def renderers() -> Iterator[list[Renderer]]:
    """The fast one first; pyrender only where it works."""
    made = [make_renderer(b) for b in BACKENDS if b != "pyrender" or available(b) is None]
    yield made
    for renderer in made:
        renderer.close()


def object_files(shared: Path) -> list[Path]:
    files = sorted((shared / "objects" / "glbs").glob("*.glb"))
    if not files:
        pytest.skip("the folder ../shared/objects/glbs with real objects is not here")
    return files


def scene_of(path: Path) -> Scene:
    return normalize(load_scene(path))[0]


def some_cameras(scene: Scene, uid: str, views: int) -> NDArray[np.float64]:
    """(views, 4, 4): cameras of the published layout, spread over its rings and poles."""
    points = np.concatenate([p.positions[np.unique(p.faces)] for p in scene.primitives])
    poses = cameras(CameraLayoutConfig(), uid, points).c2w
    start = sum(map(ord, uid)) % len(poses)
    return np.roll(poses, -start, axis=0)[:: len(poses) // views][:views]


def windows(images: NDArray) -> NDArray:
    """(V, H, W) → (9, V, H - 2, W - 2): every pixel's 3 x 3 neighborhood."""
    height, width = images.shape[1:]
    return np.stack([images[:, i : height - 2 + i, j : width - 2 + j] for i in range(3) for j in range(3)])


def interior(frames: Frames) -> NDArray[np.bool_]:
    """(V, H, W): away from outlines and depth edges."""
    depth = windows(frames.depth)
    inside = windows(frames.alpha == 255).all(axis=0) & (depth.min(axis=0) > 0)
    return np.pad(inside & (depth.max(axis=0) - depth.min(axis=0) < 0.02), ((0, 0), (1, 1), (1, 1)))


def compare(a: Frames, b: Frames, into: Statistics) -> None:
    solid_a, solid_b = a.alpha > 127, b.alpha > 127
    either = solid_a | solid_b
    into["iou"].append((solid_a & solid_b).sum() / either.sum())
    both = interior(a) & interior(b)
    into["interior"].append(both.sum() / either.sum())
    if not both.any():
        return
    into["depth"].append(float(np.median(np.abs(a.depth - b.depth)[both])))
    cosine = np.clip(np.sum(a.normal * b.normal, axis=-1)[both], -1, 1)
    into["normals"].append(float((np.degrees(np.arccos(cosine)) < 2).mean()))
    into["color"].append(float(np.abs(a.rgb.astype(int) - b.rgb)[both].mean()))


def check(name: str, found: Statistics) -> None:
    summary = {key: np.percentile(values, [0, 5, 50, 95, 100]).round(6).tolist() for key, values in found.items()}
    log.info("moderngl against %s, percentiles 0 5 50 95 100: %s", name, json.dumps(summary))
    assert np.median(found["iou"]) > 0.99
    assert np.percentile(found["iou"], 5) > 0.95
    assert np.median(found["depth"]) < 1e-3
    assert np.percentile(found["depth"], 95) < 1e-3
    assert np.percentile(found["normals"], 5) > 0.99
    assert np.median(found["color"]) < 1
    assert np.percentile(found["color"], 95) < 3


def agree(renderers: list[Renderer], files: list[Path], views: int) -> dict[str, Statistics]:
    found: dict[str, Statistics] = {r.name: defaultdict(list) for r in renderers[1:]}
    for path in files:
        scene = scene_of(path)
        c2w = some_cameras(scene, path.stem, views)
        lenses = np.tile(LENS, (views, 1, 1))
        reference, *others = (r.render(scene, c2w, lenses, SETTINGS) for r in renderers)
        for renderer, frames in zip(renderers[1:], others, strict=True):
            compare(reference, frames, found[renderer.name])
    for name, statistics in found.items():
        check(name, statistics)
    return found


def test_a_texture_seen_at_a_grazing_angle_is_filtered_alike(renderers: list[Renderer]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 4), dtype=np.uint8)
    positions = np.array([(-0.45, -0.45, 0), (0.45, -0.45, 0), (0.45, 0.45, 0), (-0.45, 0.45, 0)], np.float32)
    floor = Primitive(
        positions=positions,
        normals=np.tile(np.array([0, 0, 1], np.float32), (4, 1)),
        faces=np.array([[0, 1, 2], [0, 2, 3]], np.uint32),
        material=Material(texture=Texture(noise)),
        uvs=positions[:, :2] / 0.9,
    )
    c2w = look_at(spherical_to_cartesian(1.5, np.array([12.0, 60.0]), 30.0))
    first, *others = (r.render(Scene((floor,)), c2w, np.tile(LENS, (2, 1, 1)), SETTINGS) for r in renderers)
    inside = np.pad(windows(first.alpha == 255).all(axis=0), ((0, 0), (1, 1), (1, 1)))
    for frames in others:
        for view in (0, 1):
            assert np.abs(first.rgb[view].astype(int) - frames.rgb[view])[inside[view]].mean() < 1.5


def test_all_renderers_draw_the_same(renderers: list[Renderer], shared: Path) -> None:
    agree(renderers, object_files(shared)[::39], views=4)


@pytest.mark.acceptance(
    "Backends agree on all objects: depth, normals, alpha IoU on interior pixels (percentiles 0 5 50 95 100)"
)
@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_all_renderers_draw_the_same_for_all_objects(
    renderers: list[Renderer], shared: Path, record_property: Callable[[str, object], None]
) -> None:
    found = agree(renderers, object_files(shared), views=2)
    for name, statistics in found.items():
        assert np.median(statistics["interior"]) >= 0.7
        for key, values in statistics.items():
            record_property(f"{name} {key}", np.percentile(values, [0, 5, 50, 95, 100]).round(5).tolist())


@pytest.mark.acceptance("Back-projected depth of neighboring views lands on the same surface (median distance < 0.005)")
def test_two_views_depths_lie_on_one_surface(renderers: list[Renderer], shared: Path) -> None:
    distances = []
    for path in object_files(shared)[::60]:
        c2w = look_at(spherical_to_cartesian(1.9, np.array([10.0, 25.0]), np.array([15.0, 40.0])))
        frames = renderers[0].render(scene_of(path), c2w, np.tile(LENS, (2, 1, 1)), SETTINGS)
        points = back_project(frames.depth, c2w, np.tile(LENS, (2, 1, 1)))[0][frames.depth[0] > 0]
        image, depth = project(points, c2w[1], LENS)
        column, row = np.clip(np.floor(image * 256).astype(int), 0, 255).T
        seen = frames.depth[1, row, column]
        gap = np.abs(seen - depth)[seen > 0]
        assert len(gap) > 0.5 * len(points)
        distances.append(float(np.median(gap)))
    assert max(distances) < 0.005
