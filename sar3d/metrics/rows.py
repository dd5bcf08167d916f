"""The table of an evaluation: one row for each object and system. Every summary is a query over it (docs/evaluate.md)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from sar3d.metrics.features.networks import PictureFeatures, SetNames
from sar3d.metrics.shapes.points import PackedPoints, Points, pack_points, unpack_points


def system_schema() -> pa.Schema:
    """Schema of the rows."""
    text, number = pa.string(), pa.float64()
    fields = [
        pa.field("uid", text, metadata={"about": "object"}),
        pa.field("system", text, metadata={"about": "what made it: ours, a baseline, another system"}),
        pa.field("protocol", text, metadata={"about": "published, heldout or quick"}),
        pa.field(
            "shift", text, metadata={"about": "value of the manifest's column that names a shift; empty for none"}
        ),
        pa.field("prompt", text, metadata={"about": "text or view that was asked for"}),
        pa.field("seed", pa.int64()),
        pa.field("numbers", pa.map_(text, number), metadata={"about": "value by metric"}),
        pa.field("absent", pa.map_(text, text), metadata={"about": "reason by metric that has no value"}),
        pa.field("seconds", pa.map_(text, number), metadata={"about": "latency by part"}),
        pa.field("device", text, metadata={"about": "what the latency was measured on"}),
        pa.field(
            "distances",
            pa.list_(text),
            metadata={"about": "names of the Fréchet, the kernel and the fast Fréchet distance of the features"},
        ),
        pa.field("features", pa.binary(), metadata={"about": "float16, views by channels"}),
        pa.field("fast_features", pa.binary(), metadata={"about": "float16, views by channels, for intervals"}),
        pa.field("views", pa.int32()),
        pa.field("points", pa.binary(), metadata={"about": "uint16, N by 3: origin + step * value"}),
        pa.field("points_origin", pa.list_(number)),
        pa.field("points_step", number),
        pa.field("points_from", text, metadata={"about": "mesh or splat_centers; null: no shape"}),
        pa.field(
            "transform", pa.list_(number), metadata={"about": "16 numbers, file to world, row-major; null for ours"}
        ),
        pa.field("warnings", pa.list_(text)),
        pa.field("picture", pa.binary(), metadata={"stored": "plain", "about": "PNG"}),
    ]
    return pa.schema(fields, metadata={"format": "sar3d-systems", "format_version": "1"})


_NAMES = system_schema().names


def system_row(**values: Any) -> dict[str, Any]:
    """A row of these columns; maps are given as dictionaries, and what is not given is null."""
    unknown = values.keys() - set(_NAMES)
    if unknown:
        raise KeyError(f"rows of systems have no column {sorted(unknown)[0]}")
    row = dict.fromkeys(_NAMES) | values
    return {name: list(value.items()) if isinstance(value, dict) else value for name, value in row.items()}


def feature_columns(names: SetNames, features: PictureFeatures) -> dict[str, Any]:
    """Columns of the features of an object's pictures; `names` are those of their distances."""
    return {
        "distances": [names.frechet, names.kernel, names.fast],
        "features": features.full.astype("<f2").tobytes(),
        "fast_features": features.fast.astype("<f2").tobytes(),
        "views": len(features.full),
    }


def set_names_of(row: Mapping[str, Any]) -> SetNames:
    """What distances of a row's features are called."""
    return SetNames(*row["distances"])


def features_of(row: Mapping[str, Any]) -> PictureFeatures:
    """The inverse of `feature_columns`."""
    full, fast = (np.frombuffer(row[name], "<f2").reshape(row["views"], -1) for name in ("features", "fast_features"))
    return PictureFeatures(full, fast)


def point_columns(points: Points, points_from: str) -> dict[str, Any]:
    """Columns of an object's points (N, 3); `points_from`: `mesh` or `splat_centers`."""
    packed = pack_points(points)
    return {
        "points": packed.data,
        "points_origin": list(packed.origin),
        "points_step": packed.step,
        "points_from": points_from,
    }


def points_of(row: Mapping[str, Any]) -> Points:
    """The inverse of `point_columns`, up to rounding."""
    x, y, z = row["points_origin"]
    return unpack_points(PackedPoints(row["points"], (x, y, z), row["points_step"]))
