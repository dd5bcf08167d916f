"""Rows of systems: what they keep comes back, and a summary is a query over them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sar3d.metrics.features.networks import PictureFeatures, SetNames
from sar3d.metrics.rows import (
    feature_columns,
    features_of,
    point_columns,
    points_of,
    set_names_of,
    system_row,
    system_schema,
)


def test_a_row_keeps_features_and_points(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    features = PictureFeatures(*(random.normal(size=(3, c)).astype(np.float16) for c in (8, 4)))
    points = random.random((50, 3))
    names = SetNames("fid", "kid", "frechet_inception_192")
    columns = feature_columns(names, features) | point_columns(points, "mesh")
    row = system_row(uid="a", system="ours", numbers={"psnr": 20.0}, absent={}, warnings=["mirrored"], **columns)
    table = pa.Table.from_pylist([row], system_schema())
    pq.write_table(table, tmp_path / "rows.parquet")
    (back,) = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    found = features_of(back)
    assert np.array_equal(found.full, features.full)
    assert np.array_equal(found.fast, features.fast)
    assert set_names_of(back) == names
    assert np.abs(points_of(back) - points).max() < 1e-5
    assert dict(back["numbers"]) == {"psnr": 20.0}
