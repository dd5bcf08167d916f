"""From pieces of any origin to a checked `Scene` with one primitive per material and attribute set."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sar3d.errors import ObjectError
from sar3d.meshes.limits import MeshLimits
from sar3d.meshes.normals import repaired_normals
from sar3d.meshes.scene import Material, Primitive, Scene
from sar3d.meshes.uvs import repaired_uvs
from sar3d.meshes.warning_list import WarningList

_GREATEST_COORDINATE = 1e18
_OFFSET_RATIO = 256.0
"""Farther from the origin than so many of its own extents, an object is stored relative to its center."""


@dataclass(frozen=True)
class Piece:
    """Triangles in scene coordinates; shapes as in `Primitive`. Normals need not be of unit length, nor valid."""

    positions: NDArray[np.floating]
    normals: NDArray[np.floating]
    faces: NDArray[np.uint32]
    material: Material
    uvs: NDArray[np.float32] | None = None
    colors: NDArray[np.float32] | None = None


def assemble(pieces: Sequence[Piece], warnings: WarningList) -> Scene:
    """Merge the pieces that can be drawn together and check the whole.

    Raises ObjectError: `no_faces`, `non_finite`, `degenerate`.
    """
    if not pieces:
        raise ObjectError("no_faces", "it has no triangles")
    groups: dict[tuple[int, bool, bool], list[Piece]] = defaultdict(list)
    for piece in pieces:
        groups[(id(piece.material), piece.uvs is not None, piece.colors is not None)].append(piece)
    merged = [_merged(group) for group in groups.values()]
    offset = _offset(merged)
    scene = Scene(tuple(_primitive(piece, offset, warnings) for piece in merged), (offset[0], offset[1], offset[2]))
    low, high = scene.bounds()
    if not (high - low).max() > 0:
        raise ObjectError("degenerate", "all its points coincide")
    return scene


def check_totals(triangles: int, vertices: int, limits: MeshLimits) -> None:
    """Raises ObjectError `too_many_triangles` or `too_many_vertices`."""
    if triangles > limits.triangles:
        raise ObjectError("too_many_triangles", f"it has {triangles} triangles, more than {limits.triangles}")
    if vertices > limits.vertices:
        raise ObjectError("too_many_vertices", f"it has {vertices} vertices, more than {limits.vertices}")


def _merged(group: list[Piece]) -> Piece:
    if len(group) == 1:
        return group[0]
    starts = np.cumsum([0] + [len(piece.positions) for piece in group[:-1]])
    first = group[0]
    return Piece(
        positions=np.concatenate([piece.positions for piece in group]),
        normals=np.concatenate([piece.normals for piece in group]),
        faces=np.concatenate([p.faces + np.uint32(start) for p, start in zip(group, starts, strict=True)]),
        material=first.material,
        uvs=None if first.uvs is None else np.concatenate([p.uvs for p in group if p.uvs is not None]),
        colors=None if first.colors is None else np.concatenate([p.colors for p in group if p.colors is not None]),
    )


def _offset(pieces: Iterable[Piece]) -> tuple[float, float, float]:
    lows, highs = [], []
    for piece in pieces:
        if not np.abs(piece.positions).max() <= _GREATEST_COORDINATE:  # also catches NaN
            raise ObjectError("non_finite", f"it has positions that are not finite or beyond {_GREATEST_COORDINATE:g}")
        used = piece.positions[piece.faces.reshape(-1)]
        lows.append(used.min(axis=0))
        highs.append(used.max(axis=0))
    low, high = np.min(lows, axis=0).astype(np.float64), np.max(highs, axis=0).astype(np.float64)
    x, y, z = (low + high) / 2
    far = max(abs(x), abs(y), abs(z)) > _OFFSET_RATIO * (high - low).max()
    return (float(x), float(y), float(z)) if far else (0.0, 0.0, 0.0)


def _primitive(piece: Piece, offset: tuple[float, float, float], warnings: WarningList) -> Primitive:
    moved = piece.positions - np.asarray(offset) if any(offset) else piece.positions
    return Primitive(
        positions=np.ascontiguousarray(moved, np.float32),
        normals=np.ascontiguousarray(_repaired(piece, warnings), np.float32),
        faces=np.ascontiguousarray(piece.faces, np.uint32),
        material=piece.material,
        uvs=None if piece.uvs is None else np.ascontiguousarray(_mended_uvs(piece, piece.uvs, warnings), np.float32),
        colors=None if piece.colors is None else np.ascontiguousarray(piece.colors, np.float32),
    )


def _repaired(piece: Piece, warnings: WarningList) -> NDArray[np.floating]:
    normals, broken = repaired_normals(piece.normals, piece.positions, piece.faces)
    if broken:
        warnings.add(f"{broken} of its vertex normals are zero or not finite and were made from the faces around")
    return normals


def _mended_uvs(piece: Piece, uvs: NDArray[np.float32], warnings: WarningList) -> NDArray[np.floating]:
    mended, broken = repaired_uvs(uvs, piece.faces)
    if broken:
        warnings.add(f"{broken} of its texture coordinates are not finite; the mean of their neighbors was taken")
    return mended
