"""Meshes and point samples: from scenes, seeded per object, normalized, and packed for storage."""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import trimesh
from numpy.typing import NDArray

from sar3d.errors import ObjectError
from sar3d.meshes import Scene

Normalization = Literal["unit_box", "posed"]
NORMALIZATIONS: tuple[Normalization, ...] = ("unit_box", "posed")

Points = NDArray[np.float64]
"""(N, 3)"""

_STEPS = 65535
"""Steps of a packed coordinate over the longest side of a sample's box."""


@dataclass(frozen=True)
class SurfacePoints:
    """N points of a surface."""

    points: Points
    normals: Points
    """(N, 3), unit length, of the triangles that the points lie on."""


@dataclass(frozen=True)
class Fit:
    """`(points - center) / size`."""

    center: NDArray[np.float64]
    """(3,)"""
    size: float

    def __call__(self, points: Points) -> Points:
        return np.asarray((points - self.center) / self.size)


def mesh_of(scene: Scene) -> trimesh.Trimesh:
    """All triangles of a scene as one mesh, vertices of equal position shared. Raises `ObjectError` `no_faces`."""
    if scene.triangles == 0:
        raise ObjectError("no_faces", "the object has no triangles, so it has no surface to measure")
    counts = np.cumsum([0, *(len(p.positions) for p in scene.primitives)])
    vertices = np.concatenate([p.positions for p in scene.primitives]).astype(np.float64) + scene.offset
    faces = np.concatenate([p.faces.astype(np.int64) + n for p, n in zip(scene.primitives, counts, strict=False)])
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    return mesh


def box_fit(points: Points) -> Fit:
    """What centers the bounding box of points (N, 3) and scales its longest side to 1. Raises `ObjectError` `degenerate`."""
    low, high = points.min(axis=0), points.max(axis=0)
    size = float((high - low).max())
    if not (np.isfinite(size) and size > 0):
        raise ObjectError("degenerate", "all its points coincide, or some are not finite")
    return Fit((low + high) / 2, size)


def fits(made: Points, truth: Points, normalization: Normalization) -> tuple[Fit, Fit]:
    """How two shapes, given by the vertices that their faces use, are normalized: the made one's fit and the truth's."""
    true = box_fit(truth)
    return (box_fit(made) if normalization == "unit_box" else true), true


def used_vertices(mesh: trimesh.Trimesh) -> Points:
    """(N, 3): the vertices that belong to a triangle."""
    return np.asarray(mesh.vertices[np.unique(mesh.faces)], np.float64)


def fitted(mesh: trimesh.Trimesh, fit: Fit) -> trimesh.Trimesh:
    """The mesh with its vertices moved."""
    return trimesh.Trimesh(fit(np.asarray(mesh.vertices, np.float64)), mesh.faces, process=False)


def sample_surface(mesh: trimesh.Trimesh, count: int, uid: str, role: str, seed: int = 0) -> SurfacePoints:
    """Points spread evenly over the area of a mesh, the same for the same arguments.

    Args:
        count: how many.
        uid: of the object.
        role: what the sample is of, such as `made` or `truth`: two roles give independent samples.
        seed: of all samples.

    Raises:
        ObjectError: the mesh has no area (`degenerate`).
    """
    if not mesh.area > 0:
        raise ObjectError("degenerate", "its triangles have no area")
    points, faces = trimesh.sample.sample_surface(mesh, count, seed=_seed(uid, role, seed))
    return SurfacePoints(np.asarray(points, np.float64), np.asarray(mesh.face_normals[faces], np.float64))


def generator(uid: str, role: str, seed: int) -> np.random.Generator:
    """Random numbers that follow from an object, a purpose and a seed alone."""
    return np.random.default_rng(_seed(uid, role, seed))


def _seed(uid: str, role: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}\0{uid}\0{role}".encode()).digest()[:8], "big")


@dataclass(frozen=True)
class PackedPoints:
    """A sample as rows keep it: 16 bits a coordinate, precise to 1/131,070 of the longest side of its box."""

    data: bytes
    """(N, 3) little-endian uint16, row by row."""
    origin: tuple[float, float, float]
    step: float


def pack_points(points: Points) -> PackedPoints:
    """The inverse of `unpack_points`, up to rounding."""
    low = points.min(axis=0)
    step = float((points.max(axis=0) - low).max()) / _STEPS or 1.0
    x, y, z = (float(value) for value in low)
    return PackedPoints(np.round((points - low) / step).astype("<u2").tobytes(), (x, y, z), step)


def unpack_points(packed: PackedPoints) -> Points:
    """(N, 3)"""
    steps = np.frombuffer(packed.data, "<u2").reshape(-1, 3)
    return np.asarray(steps * packed.step + packed.origin, np.float64)
