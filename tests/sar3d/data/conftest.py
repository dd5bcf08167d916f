"""Small datasets on disk for the tests of the loaders."""

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sar3d.camera_layout import CameraLayoutConfig, cameras
from sar3d.data.formats.rows import Row
from sar3d.data.formats.views import EncodedView, encode_view, make_rows, views_schema

SIZE = 16
WriteViews = Callable[..., list[str]]


@lru_cache(maxsize=4)
def pictures(size: int) -> list[EncodedView]:
    """Different made-up views: noise inside discs of several radii."""
    rng = np.random.default_rng(size)
    place = np.linalg.norm(np.indices((size, size)) - size / 2 + 0.5, axis=0)
    made = []
    for _ in range(97):
        inside = place < rng.uniform(0.2, 0.45) * size
        rgb = np.where(inside[..., None], rng.integers(0, 255, (size, size, 3)), 255).astype(np.uint8)
        normal = np.where(inside[..., None], rng.normal(size=(size, size, 3)), 0)
        depth = np.where(inside, rng.uniform(1.2, 2.2, (size, size)), 0)
        made.append(encode_view(rgb, np.where(inside, 255, 0).astype(np.uint8), depth, normal))
    return made


def object_rows(uid: str, size: int = SIZE, **layout: Any) -> list[Row]:
    """The rows of one made-up object."""
    digest = hashlib.sha256(f"content {uid}".encode()).hexdigest()
    cams = cameras(CameraLayoutConfig(radius=1.7, **layout), uid, np.zeros((1, 3)))
    pool, first = pictures(size), int(digest[:8], 16)
    encoded = {view: pool[(first + view) % len(pool)] for view in cams.view_ids}
    return make_rows(uid, digest, cams, encoded, np.eye(4))


@pytest.fixture(scope="session")
def write_views(tmp_path_factory: pytest.TempPathFactory) -> WriteViews:
    """Writes views of `objects` objects into `files` files with row groups of `group_rows` rows."""

    def write(objects: int, files: int = 1, group_rows: int = 8, size: int = SIZE, **layout: Any) -> list[str]:
        folder = tmp_path_factory.mktemp("views")
        schema = views_schema(size)
        made = []
        for part in range(files):
            numbers = range(part * objects // files, (part + 1) * objects // files)
            rows = [row for n in numbers for row in object_rows(f"object{n:03}", size, **layout)]
            path = Path(folder, f"part-{part:05}.parquet")
            with pq.ParquetWriter(path, schema, compression="zstd", compression_level=1) as writer:
                for first in range(0, len(rows), group_rows):
                    writer.write_table(pa.Table.from_pylist(rows[first : first + group_rows], schema=schema))
            made.append(str(path))
        return made

    return write


@pytest.fixture(scope="session")
def views24(write_views: WriteViews) -> list[str]:
    """24 objects of 4 view groups in 3 files; each row group holds the 8 rows of two objects."""
    return write_views(24, files=3)
