"""The triangle arrays that parts are made of: smooth shading by groups, rigid transforms, joining."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_GRID_BITS = 17


@dataclass(frozen=True)
class ProceduralMesh:
    """Triangles in double precision, y up, front towards +z."""

    positions: Floats
    """(N, 3)"""
    normals: Floats
    """(N, 3), unit length, outward."""
    uvs: Floats
    """(N, 2), in units of length: a texture repeats every `paint.TILE` of them."""
    faces: Ints
    """(F, 3), counter-clockwise seen from outside."""

    def moved(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> "ProceduralMesh":
        return replace(self, positions=self.positions + np.array([x, y, z]))

    def turned(self, axis: Literal["x", "y", "z"], degrees: float) -> "ProceduralMesh":
        """Rotate about a world axis, right-handed."""
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
        rotation = np.eye(3)
        rotation[i, i], rotation[i, j], rotation[j, i], rotation[j, j] = c, -s, s, c
        return replace(self, positions=self.positions @ rotation.T, normals=self.normals @ rotation.T)

    def scaled(self, x: float, y: float, z: float) -> "ProceduralMesh":
        """Scale along the axes by positive factors."""
        factors = np.array([x, y, z])
        return replace(self, positions=self.positions * factors, normals=unit(self.normals / factors))


def unit(vectors: Floats) -> Floats:
    """Vectors (..., 3) at length one; zero vectors stay zero."""
    lengths = np.sqrt((vectors * vectors).sum(axis=-1, keepdims=True))
    return vectors / np.where(lengths > 0.0, lengths, 1.0)


def cross(a: Floats, b: Floats) -> Floats:
    """Cross products of (N, 3) vectors; np.cross takes several times as long for few of them."""
    (a0, a1, a2), (b0, b1, b2) = a.T, b.T
    return np.stack([a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0], axis=1)


def join(meshes: Sequence[ProceduralMesh]) -> ProceduralMesh:
    """All triangles in one mesh, in the given order."""
    starts = np.cumsum([0] + [len(m.positions) for m in meshes[:-1]])
    return ProceduralMesh(
        np.concatenate([m.positions for m in meshes]),
        np.concatenate([m.normals for m in meshes]),
        np.concatenate([m.uvs for m in meshes]),
        np.concatenate([m.faces + start for m, start in zip(meshes, starts, strict=True)]),
    )


def shade(positions: Floats, uvs: Floats, faces: Ints, groups: Ints) -> ProceduralMesh:
    """Area-weighted vertex normals (N, 3), shared by vertices of equal position and group (N,).

    Triangles without area (at poles and where a row is doubled for a crease) are dropped, and so are the vertices that
    no triangle uses.
    """
    corners = positions[faces]
    crosses = cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    extent = float(np.ptp(positions, axis=0).max())
    solid = np.sqrt((crosses * crosses).sum(axis=1)) > 1e-7 * extent * extent
    faces, crosses = faces[solid], crosses[solid]

    steps = np.round((positions - positions.min(axis=0)) / extent * ((1 << _GRID_BITS) - 1)).astype(np.int64)
    keys = ((groups << _GRID_BITS | steps[:, 0]) << _GRID_BITS | steps[:, 1]) << _GRID_BITS | steps[:, 2]
    _, shared = np.unique(keys, return_inverse=True)
    sums: Floats = np.stack(
        [np.bincount(shared[faces].ravel(), np.repeat(crosses[:, k], 3), shared.max() + 1) for k in range(3)], axis=1
    )
    used, renumbered = np.unique(faces, return_inverse=True)
    return ProceduralMesh(
        positions[used], unit(sums[shared])[used], uvs[used], renumbered.reshape(-1, 3).astype(np.int64)
    )
