"""Look-up tables of FlexiCubes, generated from the adjacency of a cube's corners, edges and faces.

Corner c of a cube lies at (c & 1, c >> 1 & 1, c >> 2). A *case* is the number Σ 2^c over the corners inside the shape.
A *patch* is a closed loop of edges that the surface crosses; the mesh has one dual vertex for each.

Source: Shen et al. 2023, "Flexible Isosurface Extraction for Gradient-Based Mesh Optimization", section 4; Nielson 2004,
"Dual Marching Cubes". Tests compare the generated tables with the published ones.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CORNERS: tuple[tuple[int, int, int], ...] = tuple((c & 1, c >> 1 & 1, c >> 2) for c in range(8))
"""Position of each corner in the cube."""

EDGES: tuple[tuple[int, int], ...] = (
    (0, 1),
    (1, 5),
    (4, 5),
    (0, 4),
    (2, 3),
    (3, 7),
    (6, 7),
    (2, 6),
    (2, 0),
    (3, 1),
    (7, 5),
    (6, 4),
)
"""Corners of each edge, in the order of the published weights; the order of the two corners means nothing."""

FACES: tuple[tuple[int, int, tuple[int, int, int, int]], ...] = (
    (0, -1, (0, 2, 6, 4)),
    (0, 1, (1, 3, 7, 5)),
    (1, -1, (0, 1, 5, 4)),
    (1, 1, (2, 3, 7, 6)),
    (2, -1, (0, 1, 3, 2)),
    (2, 1, (4, 5, 7, 6)),
)
"""Axis, side and corners, in cyclic order, of each face."""

CASES = 256

_EDGE_OF = {frozenset(corners): edge for edge, corners in enumerate(EDGES)}


def patches_of_case(case: int) -> list[list[int]]:
    """Edges of each patch of a case, sorted; patches sorted by their edges.

    On a face of which two diagonal corners are inside, the surface keeps those corners apart.
    """
    neighbors: dict[int, list[int]] = {}
    for _, _, corners in FACES:
        for a, b in _joined(case, corners):
            neighbors.setdefault(a, []).append(b)
            neighbors.setdefault(b, []).append(a)
    patches, seen = [], set()
    for start in sorted(neighbors):
        if start in seen:
            continue
        patch, stack = set(), [start]
        while stack:
            edge = stack.pop()
            if edge not in patch:
                patch.add(edge)
                stack += neighbors[edge]
        seen |= patch
        patches.append(sorted(patch))
    return sorted(patches)


def _face_edges(corners: tuple[int, ...]) -> list[int]:
    """The edges of a face, each from a corner to the next."""
    return [_EDGE_OF[frozenset((corners[i], corners[(i + 1) % 4]))] for i in range(4)]


def _inside(case: int, corners: tuple[int, ...]) -> list[bool]:
    return [bool(case >> corner & 1) for corner in corners]


def _joined(case: int, corners: tuple[int, ...]) -> list[tuple[int, int]]:
    """Pairs of crossed edges of one face that the surface joins."""
    edges, inside = _face_edges(corners), _inside(case, corners)
    crossed = [edges[i] for i in range(4) if inside[i] != inside[(i + 1) % 4]]
    if len(crossed) == 4:
        return [(edges[i - 1], edges[i]) for i in range(4) if inside[i]]
    return [(crossed[0], crossed[1])] if crossed else []


def ambiguous_faces(case: int) -> list[int]:
    """Faces of which exactly two corners, diagonal ones, are inside."""
    found = []
    for face, (_, _, corners) in enumerate(FACES):
        a, b, c, d = _inside(case, corners)
        if a == c != b == d:
            found.append(face)
    return found


def problematic_face(case: int) -> int | None:
    """The ambiguous face all of whose edges belong to one patch (cases C16 and C19), or None.

    If the cube across it has such a patch as well, the same two dual vertices would be joined by two edges of the mesh.
    Both cubes then take the patches of their complements, which keep the face's *outside* corners apart instead.
    """
    for face in ambiguous_faces(case):
        edges = set(_face_edges(FACES[face][2]))
        if any(edges <= set(patch) for patch in patches_of_case(case)):
            return face
    return None


@dataclass(frozen=True)
class Tables:
    """Everything that extraction looks up by case."""

    patch_count: NDArray[np.int64]
    """(256,) dual vertices."""
    edge_patch: NDArray[np.int64]
    """(256, 12) number of the patch that an edge belongs to; -1 where the surface does not cross it."""
    problem: NDArray[np.int64]
    """(256, 3) step to the cube across the problematic face; zero where there is none."""


def build_tables() -> Tables:
    """The tables of all 256 cases."""
    count = np.zeros(CASES, np.int64)
    owner = np.full((CASES, len(EDGES)), -1, np.int64)
    problem = np.zeros((CASES, 3), np.int64)
    for case in range(CASES):
        for patch, members in enumerate(patches_of_case(case)):
            count[case] += 1
            owner[case, members] = patch
        face = problematic_face(case)
        if face is not None:
            axis, side, _ = FACES[face]
            problem[case, axis] = side
    return Tables(count, owner, problem)


TABLES = build_tables()
