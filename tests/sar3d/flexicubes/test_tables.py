"""The tables are those of the published system, and treat all directions alike."""

import hashlib
import itertools
import json
from collections import Counter

import numpy as np

from sar3d.flexicubes.tables import (
    CASES,
    CORNERS,
    EDGES,
    FACES,
    TABLES,
    ambiguous_faces,
    patches_of_case,
    problematic_face,
)

PATCHES = [patches_of_case(case) for case in range(CASES)]


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, separators=(",", ":")).encode()).hexdigest()


def test_patches_are_the_published_ones():
    assert digest(PATCHES) == "b9a2e177ea64c1ea3f478c33077f79f755e966373e04df21fe121004f623f698"
    assert Counter(map(len, PATCHES)) == {0: 2, 1: 162, 2: 82, 3: 8, 4: 2}
    assert Counter(len(patch) for case in PATCHES for patch in case) == {3: 144, 4: 66, 5: 72, 6: 52, 7: 24}
    assert PATCHES[1] == [[0, 3, 8]]
    assert PATCHES[6] == [[0, 1, 9], [4, 7, 8]]
    assert PATCHES[151] == [[1, 2, 4, 7, 9, 11], [5, 6, 10]]


def test_the_cases_with_an_ambiguous_face_in_one_patch_are_the_published_ones():
    found = []
    for case in range(CASES):
        face = problematic_face(case)
        if face is not None:
            axis, side, _ = FACES[face]
            found.append([case, axis, side])
    assert len(found) == 36
    assert digest(found) == "af90c073f1d1768d78d86f4c5af553ce90b8352364230f814da7137ac42bf37b"
    assert Counter(len(ambiguous_faces(case)) for case in range(CASES)) == {0: 136, 1: 72, 2: 30, 3: 16, 6: 2}


def test_the_complement_of_a_problematic_case_parts_its_patch_and_crosses_the_same_edges():
    for case in range(CASES):
        if problematic_face(case) is not None:
            assert (len(PATCHES[case]), len(PATCHES[255 - case])) == (1, 2)
            assert sorted(PATCHES[case][0]) == sorted(itertools.chain(*PATCHES[255 - case]))


def test_rotating_the_cube_maps_patches_to_patches():
    corner_at = {tuple(place): corner for corner, place in enumerate(CORNERS)}
    edge_of = {frozenset(ends): edge for edge, ends in enumerate(EDGES)}
    rotations = 0
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            matrix = np.eye(3, dtype=int)[list(order)] * np.array(signs)[:, None]
            if round(np.linalg.det(matrix)) != 1:
                continue
            rotations += 1
            turned = ((np.array(CORNERS) * 2 - 1) @ matrix.T + 1) // 2
            corner = [corner_at[tuple(place)] for place in turned.tolist()]
            edge = [edge_of[frozenset((corner[a], corner[b]))] for a, b in EDGES]
            for case in range(CASES):
                image = sum(1 << corner[c] for c in range(8) if case >> c & 1)
                assert sorted(sorted(edge[e] for e in patch) for patch in PATCHES[case]) == PATCHES[image]
    assert rotations == 24


def test_lookups_agree_with_the_patches():
    for case in range(CASES):
        assert TABLES.patch_count[case] == len(PATCHES[case])
        for edge, (a, b) in enumerate(EDGES):
            owner = TABLES.edge_patch[case, edge]
            assert (owner >= 0) == ((case >> a & 1) != (case >> b & 1))
            assert owner < 0 or edge in PATCHES[case][owner]
