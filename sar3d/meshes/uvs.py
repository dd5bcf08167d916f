"""Texture coordinates, repaired where broken."""

import numpy as np
from numpy.typing import NDArray


def repaired_uvs(uvs: NDArray[np.floating], faces: NDArray[np.uint32]) -> tuple[NDArray[np.floating], int]:
    """(N, 2) with the mean of its faces' other corners in place of each one that is not finite (0 where these are not
    either), so that a picture is wrong around one corner only; and how many these were."""
    good = np.isfinite(uvs).all(axis=1)
    if good.all():
        return uvs, 0
    around = faces[~good[faces].all(axis=1)]
    known = np.where(good[:, None], uvs, 0.0)
    total, count = np.zeros((len(uvs), 2)), np.zeros(len(uvs))
    for corner in range(3):
        np.add.at(total, around[:, corner], known[around].sum(axis=1))
        np.add.at(count, around[:, corner], good[around].sum(axis=1))
    return np.where(good[:, None], uvs, total / np.maximum(count, 1)[:, None]), int((~good).sum())
