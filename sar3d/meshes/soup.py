"""Polygons of the plain formats as pieces of a scene: cut into triangles, shared vertices where normals are given."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sar3d.errors import ObjectError
from sar3d.meshes.assemble import Piece
from sar3d.meshes.limits import MeshLimits
from sar3d.meshes.normals import flat_geometry
from sar3d.meshes.scene import Material

Integers = NDArray[np.int64]
_Z_UP_TO_Y_UP = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])


@dataclass(frozen=True)
class Triangles:
    """Triangles of one material. All arrays but `positions` are of the T x 3 corners."""

    positions: NDArray[np.float64]
    """(N, 3) of the whole object."""
    corners: Integers
    """(T, 3) place in `positions`."""
    material: Material
    uvs: NDArray[np.float32] | None = None
    """(T, 3, 2), v counted from the lower edge."""
    normals: NDArray[np.float64] | None = None
    """(T, 3, 3); None for flat ones."""
    colors: NDArray[np.float32] | None = None
    """(T, 3, 4) linear."""
    keys: Integers | None = None
    """(T, 3) equal where corners have everything in common; None: where they have the position. They become one vertex
    if there are normals."""


def piece_of(triangles: Triangles) -> Piece:
    """Vertices are shared by `keys` where the file gives normals; flat normals leave none to share."""
    corners = triangles.corners.reshape(-1)
    if triangles.normals is None:
        _, normals, faces = flat_geometry(triangles.positions, triangles.corners.astype(np.uint32))
        first: Integers | slice = slice(None)
    else:
        if triangles.keys is None:
            first, places = _by_number(corners, len(triangles.positions))
        else:
            _, first, places = np.unique(triangles.keys.reshape(-1), return_index=True, return_inverse=True)
        faces = places.reshape(-1, 3).astype(np.uint32)
        normals = triangles.normals.reshape(-1, 3)[first]
    uvs = None if triangles.uvs is None else triangles.uvs.reshape(-1, 2)[first]
    return Piece(
        positions=triangles.positions[corners[first]],
        normals=normals,
        faces=faces,
        material=triangles.material,
        uvs=None if uvs is None else np.stack([uvs[:, 0], 1.0 - uvs[:, 1]], axis=1),
        colors=None if triangles.colors is None else triangles.colors.reshape(-1, 4)[first],
    )


def _by_number(numbers: Integers, count: int) -> tuple[Integers, Integers]:
    """(where each number that occurs does so first, the rank of each number), as `np.unique` but without sorting."""
    first = np.full(count, -1)
    first[numbers[::-1]] = np.arange(len(numbers))[::-1]
    used = first >= 0
    return first[used], (np.cumsum(used) - 1)[numbers]


def turned(piece: Piece, up: str) -> Piece:
    """As it is for `up="y"`; z up becomes y up, (x, y, z) -> (x, z, -y)."""
    if up == "y":
        return piece
    return Piece(
        positions=piece.positions @ _Z_UP_TO_Y_UP.T,
        normals=piece.normals @ _Z_UP_TO_Y_UP.T,
        faces=piece.faces,
        material=piece.material,
        uvs=piece.uvs,
        colors=piece.colors,
    )


def check_corners(corners: Integers, points: int) -> None:
    """Raises ObjectError `index_out_of_range`."""
    if len(corners) and (corners.min() < 0 or corners.max() >= points):
        wrong = int(corners.max()) if corners.max() >= points else int(corners.min())
        raise ObjectError("index_out_of_range", f"a face refers to vertex {wrong} of {points}")


def check_triangles(sizes: Integers, limits: MeshLimits) -> None:
    """Raises ObjectError `too_many_triangles` before polygons are cut."""
    count = int((sizes - 2).sum())
    if count > limits.triangles:
        raise ObjectError("too_many_triangles", f"it has {count} triangles, more than {limits.triangles}")
