"""A scene as few large vertex arrays: triangles that share a texture become one batch, whatever their materials."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sar3d.meshes.scene import Primitive, Scene, Texture

COLUMNS = {"position": slice(0, 3), "normal": slice(3, 6), "uv": slice(6, 8), "params": slice(8, 10)}
COLUMNS["color"] = slice(10, 14)
WIDTH = 14
OPAQUE_CUTOFF = -1.0
"""Stands for "ignore alpha" where MASK has its cutoff."""
SOLID_ALPHA = 0.5
"""From this alpha on, a BLEND surface has depth and normal."""


@dataclass(frozen=True)
class Batch:
    """Triangles drawn in one call."""

    vertices: NDArray[np.float32]
    """(N, 14): position 3, normal 3, uv 2, params 2 (alpha cutoff or -1; reach, negative if unlit), linear RGBA 4.

    A vertex's reach is the length of its longest edge: no triangle at it leads farther. By it the shaders tell the
    samples of a triangle seen edge-on whose interpolated values have left the triangle.
    """
    faces: NDArray[np.uint32]
    """(F, 3)"""
    texture: Texture | None
    blend: bool
    """Composited back to front; the cutoff then says from which alpha on it has depth and normal."""


def pack(scene: Scene) -> list[Batch]:
    """Batches in order of first appearance, the opaque ones first."""
    groups: dict[tuple[bool, int], list[Primitive]] = {}
    for p in scene.primitives:
        if len(p.faces):
            textured = p.material.texture is not None and p.uvs is not None
            key = (p.material.alpha_mode == "BLEND", id(p.material.texture) if textured else 0)
            groups.setdefault(key, []).append(p)
    batches = []
    for (blend, texture), primitives in sorted(groups.items(), key=lambda item: item[0][0]):
        counts = np.cumsum([0, *(len(p.positions) for p in primitives)])
        faces = [p.faces + np.uint32(offset) for p, offset in zip(primitives, counts, strict=False)]
        batches.append(
            Batch(
                vertices=np.concatenate([_vertices(p) for p in primitives]),
                faces=np.ascontiguousarray(np.concatenate(faces), np.uint32),
                texture=primitives[0].material.texture if texture else None,
                blend=blend,
            )
        )
    return batches


def _vertices(p: Primitive) -> NDArray[np.float32]:
    material = p.material
    cutoff = {"OPAQUE": OPAQUE_CUTOFF, "MASK": material.alpha_cutoff, "BLEND": SOLID_ALPHA}[material.alpha_mode]
    out = np.zeros((len(p.positions), WIDTH), np.float32)
    out[:, COLUMNS["position"]] = p.positions
    out[:, COLUMNS["normal"]] = p.normals
    if p.uvs is not None:
        out[:, COLUMNS["uv"]] = p.uvs
    out[:, COLUMNS["params"]] = np.stack([np.full(len(out), cutoff), _reach(p) * (-1 if material.unlit else 1)], axis=1)
    out[:, COLUMNS["color"]] = material.base_color
    if p.colors is not None:
        out[:, COLUMNS["color"]] *= p.colors
    return out


def _reach(p: Primitive) -> NDArray[np.float32]:
    """(N,): the longest edge at each vertex, with room for rounding; never 0."""
    reach = np.zeros(len(p.positions), np.float32)
    for a, b in ((0, 1), (1, 2), (2, 0)):
        ends = p.faces[:, a], p.faces[:, b]
        length = np.linalg.norm(p.positions[ends[0]] - p.positions[ends[1]], axis=1)
        for end in ends:
            np.maximum.at(reach, end, length)
    return reach * np.float32(1.01) + np.float32(1e-5)


def back_to_front(
    batches: list[Batch], centroids: list[NDArray[np.float32]], forward: NDArray[np.float64]
) -> list[tuple[int, NDArray[np.uint32]]]:
    """The blended triangles from the farthest to the nearest by their centroids' depth along `forward` (3,).

    Runs of (batch index, faces (F, 3)): as many draw calls as the order needs. `centroids` (F, 3) per batch.
    """
    if not batches:
        return []
    depth = np.concatenate([c @ forward for c in centroids])
    owner = np.repeat(np.arange(len(batches)), [len(b.faces) for b in batches])
    faces = np.concatenate([b.faces for b in batches])
    order = np.argsort(-depth, kind="stable")
    owner, faces = owner[order], faces[order]
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    return [(int(owner[s]), run) for s, run in zip(starts, np.split(faces, starts[1:]), strict=True)]


def centroids(batch: Batch) -> NDArray[np.float32]:
    """(F, 3)"""
    return np.asarray(batch.vertices[:, COLUMNS["position"]][batch.faces].mean(axis=1), np.float32)


ORDERS = np.concatenate([np.eye(3), -np.eye(3)])
"""Directions of view for which opaque triangles are sorted once per object."""


def near_to_far(batch: Batch) -> NDArray[np.uint32]:
    """(len(ORDERS), F, 3): the faces by their centroids' depth along each direction of `ORDERS`.

    Most hidden samples then fail the depth test before they are shaded. The sort is stable, so that of equal triangles
    the first is drawn first in every order.
    """
    depth = centroids(batch) @ ORDERS.T
    return np.ascontiguousarray(batch.faces[np.argsort(depth, axis=0, kind="stable").T])


def nearest_order(forward: NDArray[np.float64]) -> int:
    """Index of the direction of `ORDERS` closest to the direction of view (3,)."""
    return int(np.argmax(ORDERS @ forward))
