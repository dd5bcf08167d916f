"""The renderer that needs no OpenGL: Embree finds the surfaces, NumPy shades them.

Slower than the others but exact: blended surfaces are followed along each ray instead of being sorted as triangles.
"""

from dataclasses import dataclass

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from numpy.typing import NDArray

from sar3d.meshes.scene import Scene
from sar3d.render import packing, textures
from sar3d.render.base import (
    Backend,
    Floats,
    Frames,
    OneThread,
    RenderSettings,
    check_cameras,
    refuse_blank,
    refuse_empty_scene,
)
from sar3d.render.lighting import irradiance
from sar3d.render.sampling import Rect, covered_rect, resolve, sample_rays

MAX_LAYERS = 256
"""Surfaces followed along one ray; what lies behind the last one counts as background."""
STEP = 1e-5
"""How far behind a see-through hit the search goes on: above the error of a hit, below any gap worth drawing."""
OPAQUE_ENOUGH = 1 - 1 / 1024
"""Opacity at which nothing behind can change an 8-bit picture."""


@dataclass(frozen=True)
class _Geometry:
    """All batches as one mesh."""

    embree: EmbreeScene
    vertices: NDArray[np.float32]
    """(N, 14), see `packing.Batch`."""
    faces: NDArray[np.uint32]
    """(F, 3)"""
    texture: NDArray[np.int64]
    """(F,) index into `pyramids`, -1 = none."""
    blend: NDArray[np.bool_]
    """(F,)"""
    pyramids: list[textures.Pyramid]


@dataclass
class _Samples:
    """Accumulated along the rays of one view, flattened."""

    color: NDArray[np.float32]
    """(N, 4) linear light times opacity, and opacity, of the surfaces met so far."""
    geometry: NDArray[np.float32]
    """(N, 4) normal and depth of the first solid surface; 0 = none yet."""


@dataclass(frozen=True)
class _Hits:
    """What some rays met."""

    ray: NDArray[np.int64]
    """(M,) which ray."""
    face: NDArray[np.int64]
    """(M,)"""
    uv: NDArray[np.float32]
    """(M, 2) barycentric weights of the second and third corner."""
    depth: NDArray[np.float32]
    """(M,)"""


@dataclass(frozen=True)
class _View:
    """The rays of one view."""

    origin: NDArray[np.float64]
    """(3,)"""
    directions: NDArray[np.float64]
    """(N, 3), unit along the camera's forward axis."""
    steps: NDArray[np.float64]
    """(2, 3): change of the direction from one sample to the next, to the right and down."""


class RaycastRenderer:
    """See `sar3d.render.base.Renderer`."""

    name: Backend = "raycast"

    def __init__(self) -> None:
        self._thread = OneThread()

    def render(self, scene: Scene, c2w: Floats, intrinsics: Floats, settings: RenderSettings) -> Frames:
        """See `sar3d.render.base.Renderer.render`."""
        self._thread.check()
        c2w, intrinsics = check_cameras(c2w, intrinsics)
        refuse_empty_scene(scene)
        geometry, bounds = _geometry(scene), scene.bounds()
        frames = Frames.empty(len(c2w), settings.resolution)
        for view in range(len(c2w)):
            rect = covered_rect(bounds, c2w[view], intrinsics[view], settings.resolution)
            if rect[0] < rect[2] and rect[1] < rect[3]:
                _render_view(geometry, c2w[view], intrinsics[view], settings, rect, frames, view)
        refuse_blank(scene, frames, c2w, intrinsics)
        return frames

    def close(self) -> None:
        """Nothing outlives a call of `render`."""


def _geometry(scene: Scene) -> _Geometry:
    batches = packing.pack(scene)
    counts = np.cumsum([0, *(len(b.vertices) for b in batches)])
    vertices = np.concatenate([b.vertices for b in batches])
    faces = np.concatenate([b.faces + np.uint32(n) for b, n in zip(batches, counts, strict=False)])
    owner = np.repeat(np.arange(len(batches)), [len(b.faces) for b in batches])
    textured = [b.texture for b in batches if b.texture is not None]
    slots = np.cumsum([b.texture is not None for b in batches]) - 1
    slots[[b.texture is None for b in batches]] = -1
    embree = EmbreeScene()
    TriangleMesh(embree, np.ascontiguousarray(vertices[:, packing.COLUMNS["position"]]), faces.astype(np.int32))
    return _Geometry(
        embree=embree,
        vertices=vertices,
        faces=faces,
        texture=slots[owner],
        blend=np.array([b.blend for b in batches])[owner],
        pyramids=[textures.pyramid(t) for t in textured],
    )


def _render_view(
    geometry: _Geometry,
    c2w: NDArray[np.float64],
    intrinsics: NDArray[np.float64],
    settings: RenderSettings,
    rect: Rect,
    frames: Frames,
    view: int,
) -> None:
    directions = sample_rays(c2w, intrinsics, settings.resolution, rect)
    steps = np.stack([directions[0, 1] - directions[0, 0], directions[1, 0] - directions[0, 0]])
    rays = _View(c2w[:3, 3], directions.reshape(-1, 3), steps)
    samples = _trace(geometry, rays, settings.lit)
    shape = (*directions.shape[:2], 4)
    top, left, bottom, right = rect
    inside = (view, slice(top, bottom), slice(left, right))
    frames.rgb[inside], frames.alpha[inside] = resolve(samples.color.reshape(shape))
    centers = samples.geometry.reshape(shape)[1::2, 1::2]
    frames.normal[inside], frames.depth[inside] = centers[..., :3], centers[..., 3]


def _trace(geometry: _Geometry, view: _View, lit: bool) -> _Samples:
    count = len(view.directions)
    samples = _Samples(np.zeros((count, 4), np.float32), np.zeros((count, 4), np.float32))
    live = np.arange(count)
    start = np.zeros(count)
    last = np.full(count, -1)
    for _ in range(MAX_LAYERS):
        origins = view.origin + start[live, None] * view.directions[live]
        found = geometry.embree.run(origins.astype(np.float32), view.directions[live].astype(np.float32), output=True)
        hit = found["primID"] >= 0
        live = live[hit]
        if not len(live):
            break
        face = found["primID"][hit].astype(np.int64)
        depth = (start[live] + found["tfar"][hit]).astype(np.float32)
        uv = np.stack([found["u"][hit], found["v"][hit]], axis=1)
        # A grazing ray can meet the triangle it has just left once more, or one in its own plane far from where it is.
        fresh = (face != last[live]) & _within(geometry, face, view.origin + depth[:, None] * view.directions[live])
        start[live], last[live] = depth + STEP, face
        _shade(geometry, view, _Hits(live[fresh], face[fresh], uv[fresh], depth[fresh]), lit, samples)
        live = live[samples.color[live, 3] < OPAQUE_ENOUGH]
    return samples


def _within(geometry: _Geometry, face: NDArray[np.int64], points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(M,) whether points (M, 3) are no farther from a corner of their triangles than those triangles reach."""
    corner = geometry.vertices[geometry.faces[face, 0]]
    away = points - corner[:, packing.COLUMNS["position"]]
    reach = corner[:, packing.COLUMNS["params"]][:, 1]
    return np.asarray(np.sum(away * away, axis=1) <= reach.astype(np.float64) ** 2)


def _shade(geometry: _Geometry, view: _View, hits: _Hits, lit: bool, samples: _Samples) -> None:
    """Lay what was hit behind what the rays have met so far."""
    weights = np.concatenate([1 - hits.uv.sum(axis=1, keepdims=True), hits.uv], axis=1)
    corners = geometry.vertices[geometry.faces[hits.face]]
    values = np.einsum("nk,nkc->nc", weights, corners)
    directions = view.directions[hits.ray].astype(np.float32)
    normal = _facing(values[:, packing.COLUMNS["normal"]], directions)
    color = values[:, packing.COLUMNS["color"]] * _texel(geometry, view, hits, values[:, packing.COLUMNS["uv"]])
    cutoff, reach = corners[:, 0, packing.COLUMNS["params"]].T
    if lit:
        color[:, :3] *= np.where(reach < 0, 1, irradiance(normal))[:, None]
    solid = (cutoff < 0) | (color[:, 3] >= cutoff)
    alpha = np.where(geometry.blend[hits.face], np.clip(color[:, 3], 0, 1), solid)
    premultiplied = np.concatenate([color[:, :3], np.ones_like(color[:, :1])], axis=1) * alpha[:, None]
    samples.color[hits.ray] += (1 - samples.color[hits.ray, 3:]) * premultiplied
    first = solid & (samples.geometry[hits.ray, 3] == 0)
    samples.geometry[hits.ray[first]] = np.concatenate([normal, hits.depth[:, None]], axis=1)[first]


def _facing(normal: NDArray[np.float32], direction: NDArray[np.float32]) -> NDArray[np.float32]:
    """Unit normals turned to the camera; the direction to the camera where an interpolated normal vanishes."""
    size = np.linalg.norm(normal, axis=1, keepdims=True)
    ray = direction / np.linalg.norm(direction, axis=1, keepdims=True)
    unit = np.where(size > 1e-6, normal / np.maximum(size, 1e-6), -ray)
    away = np.sum(unit * ray, axis=1, keepdims=True) > 0
    return np.asarray(np.where(away, -unit, unit), np.float32)


def _texel(geometry: _Geometry, view: _View, hits: _Hits, uv: NDArray[np.float32]) -> NDArray[np.float32]:
    """(M, 4) linear RGBA; white where a face has no texture."""
    out = np.ones((len(uv), 4), np.float32)
    slots = geometry.texture[hits.face]
    for slot, pyramid in enumerate(geometry.pyramids):
        here = np.flatnonzero(slots == slot)
        if len(here):
            some = _Hits(hits.ray[here], hits.face[here], hits.uv[here], hits.depth[here])
            out[here] = textures.sample(pyramid, uv[here], _footprint(geometry, view, some, pyramid))
    return out


def _footprint(geometry: _Geometry, view: _View, hits: _Hits, pyramid: textures.Pyramid) -> NDArray[np.float32]:
    """(M,) longer side of one sample's patch of surface in texels, from the exact ray differentials."""
    corners = geometry.vertices[geometry.faces[hits.face]].astype(np.float64)
    position = corners[:, :, packing.COLUMNS["position"]]
    edges = position[:, 1:] - position[:, :1]
    texels = corners[:, :, packing.COLUMNS["uv"]] * pyramid.sizes[0]
    slopes = texels[:, 1:] - texels[:, :1]
    across = np.cross(edges[:, 0], edges[:, 1])
    area = np.maximum(np.sum(across * across, axis=1, keepdims=True), 1e-30)
    # Gradients of the two barycentric weights along the surface.
    gradients = np.stack([np.cross(edges[:, 1], across), np.cross(across, edges[:, 0])], axis=1) / area[:, None]
    direction = view.directions[hits.ray]
    facing = np.sum(direction * across, axis=1)
    facing = np.where(np.abs(facing) < 1e-12, 1e-12, facing)
    longest = np.zeros(len(hits.ray))
    for step in view.steps:
        slide = (across @ step / facing)[:, None]
        moved = hits.depth[:, None] * (step - slide * direction)
        texel_step = np.einsum("nk,nkc->nc", np.einsum("nkx,nx->nk", gradients, moved), slopes)
        longest = np.maximum(longest, np.linalg.norm(texel_step, axis=1))
    return longest.astype(np.float32)
