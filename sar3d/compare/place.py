"""From the frame of a file to our world, and turning there."""

import dataclasses
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from sar3d.compare.load import Loaded
from sar3d.errors import ObjectError
from sar3d.meshes import Scene
from sar3d.meshes.scene import Material, Primitive
from sar3d.splats import Splats

SIDE = 0.9
"""Longest side of a placed object's box."""

Matrix = NDArray[np.float64]
"""(4, 4)"""


@dataclass(frozen=True)
class Placed:
    """A mesh or splats in our world; one of the two."""

    scene: Scene | None
    splats: Splats | None
    matrix: Matrix
    """From the coordinates of the file to the world."""


def standing(vertices: NDArray[np.floating], faces: NDArray[np.integer]) -> Placed:
    """Triangles of our own, vertices (V, 3) in the world and faces (F, 3), as they stand."""
    normals = np.zeros((len(vertices), 3), np.float32)
    primitive = Primitive(vertices.astype(np.float32), normals, faces.astype(np.uint32), Material())
    return Placed(Scene((primitive,)), None, np.eye(4))


def place(loaded: Loaded) -> Placed:
    """Turned as its layout declares, its box centered and its longest side `SIDE`.

    Raises `ObjectError` `degenerate` where all points coincide. ValueError for pictures, which have no place.
    """
    return fitted(_declared(loaded, 1.0))


def fitted(placed: Placed) -> Placed:
    """With its box centered and its longest side `SIDE`. Raises `ObjectError` `degenerate` where all points coincide."""
    low, high = _box(placed)
    longest = float((high - low).max())
    if not (longest > 0 and np.isfinite(SIDE / longest)):
        raise ObjectError("degenerate", "all its points coincide")
    scale = SIDE / longest
    return moved(placed, _affine(scale * np.eye(3), -scale * (low + high) / 2))


def posed(loaded: Loaded) -> Placed | None:
    """As its layout declares, with the size and position of the file; None where the files do not keep them."""
    return None if loaded.layout.units is None else _declared(loaded, loaded.layout.units)


def turned(placed: Placed, degrees: float) -> Placed:
    """Turned about the vertical axis, counter-clockwise seen from above."""
    angle = np.radians(degrees)
    linear = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1.0]])
    return moved(placed, _affine(linear, np.zeros(3)))


def moved(placed: Placed, matrix: Matrix) -> Placed:
    """Moved by a similarity of the world."""
    return Placed(
        scene=None if placed.scene is None else transformed(placed.scene, matrix),
        splats=None if placed.splats is None else placed.splats.placed(matrix),
        matrix=matrix @ placed.matrix,
    )


def transformed(scene: Scene, matrix: Matrix) -> Scene:
    """A scene moved by a similarity, which may mirror: faces then are turned, so that their fronts stay outside."""
    linear = matrix[:3, :3]
    mirrored = np.linalg.det(linear) < 0
    rotation = linear / abs(np.linalg.det(linear)) ** (1 / 3)
    # Vertices are stored relative to the offset; adding it to them first would round their digits away.
    shift = linear @ np.asarray(scene.offset) + matrix[:3, 3]
    primitives = tuple(
        dataclasses.replace(
            p,
            positions=(p.positions.astype(np.float64) @ linear.T + shift).astype(np.float32),
            normals=(p.normals.astype(np.float64) @ rotation.T).astype(np.float32),
            faces=np.ascontiguousarray(p.faces[:, ::-1]) if mirrored else p.faces,
        )
        for p in scene.primitives
    )
    return Scene(primitives)


def _declared(loaded: Loaded, scale: float) -> Placed:
    if loaded.scene is None and loaded.splats is None:
        raise ValueError("pictures have no place in the world")
    linear = loaded.layout.frame.to_world(loaded.elevation, loaded.azimuth)
    return moved(Placed(loaded.scene, loaded.splats, np.eye(4)), _affine(scale * linear, np.zeros(3)))


def _box(placed: Placed) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    low, high = placed.splats.bounds() if placed.splats is not None else cast(Scene, placed.scene).bounds()
    return low, high


def _affine(linear: NDArray[np.float64], shift: NDArray[np.float64]) -> Matrix:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = linear, shift
    return matrix
