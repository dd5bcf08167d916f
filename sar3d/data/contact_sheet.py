"""A contact sheet of view groups: one object a band, its color, depth and normal pictures in three lines."""

import io
from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sar3d.data.formats.views import Views, decode_row

OBJECTS = 6
VIEWS = 8
CELL = 128


def contact_sheet(rows: Iterable[dict[str, Any]], objects: int = OBJECTS, views: int = VIEWS) -> bytes | None:
    """PNG of the first view group of the first `objects` objects; None if there is no row."""
    firsts: dict[str, dict[str, Any]] = {}
    for row in rows:
        firsts.setdefault(row["uid"], row)
        if len(firsts) >= objects:
            break
    if not firsts:
        return None
    bands = [_band(decode_row(row), views) for row in firsts.values()]
    width = max(b.shape[1] for b in bands)
    padded = [np.pad(b, ((0, 0), (0, width - b.shape[1]), (0, 0)), constant_values=255) for b in bands]
    out = io.BytesIO()
    Image.fromarray(np.concatenate(padded)).save(out, "PNG")
    return out.getvalue()


def depth_picture(depth: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(H, W) z-depth to (H, W, 3) grey: near is dark, far is light, background white."""
    seen = depth > 0
    near, far = (depth[seen].min(), depth[seen].max()) if seen.any() else (0.0, 1.0)
    grey = np.where(seen, 40 + 180 * (depth - near) / max(far - near, 1e-6), 255)
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)


def normal_picture(normal: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(H, W, 3) unit normals to colors, background white."""
    seen = (normal**2).sum(axis=-1, keepdims=True) > 0.25
    return np.where(seen, (normal + 1) * 127.5, 255).astype(np.uint8)


def _band(views: Views, count: int) -> NDArray[np.uint8]:
    columns = []
    for i in islice(range(len(views.rgb)), count):
        pictures = (views.rgb[i], depth_picture(views.depth[i]), normal_picture(views.normal[i]))
        columns.append(np.concatenate([_cell(p) for p in pictures]))
    return np.concatenate(columns, axis=1)


def _cell(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(picture).resize((CELL, CELL), Image.Resampling.BOX))
