"""The part of a surface that is seen from outside. Game assets are full of interior shells, which dominate distances."""

import numpy as np
import trimesh
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from numpy.typing import NDArray

from sar3d.camera_layout import CameraLayoutConfig, cameras
from sar3d.metrics.shapes.points import Points, SurfacePoints, sample_surface

_OVERDRAWN = 4
"""Points drawn for each one that is wanted; where fewer than a quarter is visible, the sample is smaller."""
_TOLERANCE = 1e-4
"""By how much a point may lie behind the first surface on the ray to it; shapes are normalized to about 1."""


def visible_points(mesh: trimesh.Trimesh, count: int, uid: str, role: str, seed: int) -> SurfacePoints | None:
    """At most `count` points, spread evenly over what at least one of the 40 published cameras sees.

    Arguments and errors are those of `sample_surface`; the mesh is normalized. None where nothing is seen.
    """
    drawn = sample_surface(mesh, _OVERDRAWN * count, uid, f"visible {role}", seed)
    vertices = np.asarray(mesh.vertices)
    center = (vertices.min(axis=0) + vertices.max(axis=0)) / 2
    eyes = cameras(CameraLayoutConfig(), uid, vertices - center).c2w[:, :3, 3] + center
    kept = np.flatnonzero(seen_from(mesh, drawn.points, eyes))[:count]
    return SurfacePoints(drawn.points[kept], drawn.normals[kept]) if len(kept) else None


def seen_from(mesh: trimesh.Trimesh, points: Points, eyes: Points) -> NDArray[np.bool_]:
    """(N,) whether points (N, 3) on a mesh are seen from at least one of the places `eyes` (V, 3)."""
    scene = EmbreeScene()
    TriangleMesh(scene, np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.int32))
    seen = np.zeros(len(points), bool)
    for eye in eyes:
        hidden = np.flatnonzero(~seen)
        if not len(hidden):
            break
        away = points[hidden] - eye
        distance = np.linalg.norm(away, axis=1)
        origins = np.broadcast_to(eye, away.shape).astype(np.float32)
        first = scene.run(origins, (away / distance[:, None]).astype(np.float32), output=True)["tfar"]
        seen[hidden[first >= distance - _TOLERANCE]] = True
    return seen
