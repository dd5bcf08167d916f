"""Columns and parameters of the MLflow model."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from sar3d.errors import UserError

COLUMNS = {"text": "string", "object": "string", "seed": "long", "keep_scales": "long"}
"""What the object is; a GLB file in base64; the seed; how many of its scales are kept. Each may be missing."""
ANSWERS = {"caption": "string", "glb": "string", "problem": "string"}
"""The object in words; a GLB file in base64; why there is none, of an object without a surface. Beside them
`tokens`, a list of numbers."""
GENERATE = ("grid", "texture", "faces")
"""Parameters of the files, see `ExportSettings`."""
DEFAULTS: dict[str, Any] = {"preset": "released", "grid": 128, "texture": 512, "faces": 20_000, "level": 0.0}
"""Parameters of a prediction. `preset`: see `sar3d.ar.decoding_config.DECODINGS`; `level`: density at the surface, 0 for the
one that the silhouettes give."""
EXAMPLE = {"text": "a red apple", "seed": 0}


def check_rows(rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Rows with all columns, None for what is missing. Raises `UserError` for a row that asks for nothing."""
    unknown = set(rows.columns) - set(COLUMNS)
    if unknown:
        raise UserError(f"there is no column {sorted(unknown)[0]!r}: choose from {', '.join(COLUMNS)}")
    for number, row in enumerate(rows.to_dict("records")):
        given = {name: None if row.get(name) is None or pd.isna(row[name]) else row[name] for name in COLUMNS}
        if given["text"] is None and given["object"] is None:
            raise UserError(f"row {number} asks for nothing: give text, object (a GLB file in base64), or both")
        numbers = {name: int(given[name] or 0) for name in ("seed", "keep_scales")}
        yield {**given, **numbers}
