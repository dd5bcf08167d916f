"""The table in which distances between shapes are stored: a row holds those from one shape to a whole set."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sar3d.metrics.shapes.chamfer import symmetric
from sar3d.metrics.shapes.sets import SetDistances

Part = Literal["between", "of_generated", "of_references"]
"""Generated shapes to references; generated ones, or references, among themselves (right of the diagonal)."""


def matrix_schema() -> pa.Schema:
    """Schema of the rows."""
    fields = [
        pa.field("uid", pa.string(), metadata={"about": "shape that the distances start from"}),
        pa.field("system", pa.string(), metadata={"about": "whose shape it is; truth for references"}),
        pa.field("part", pa.string(), metadata={"about": "between, of_generated, of_references"}),
        pa.field("distances", pa.list_(pa.float64()), metadata={"about": "to the columns of the part, in their order"}),
    ]
    return pa.schema(fields, metadata={"format": "sar3d-distances", "format_version": "1"})


def matrix_rows(part: Part, system: str, uids: Sequence[str], block: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Rows of a block whose R rows belong to the shapes `uids` of a system."""
    pairs = zip(uids, block, strict=True)
    return [{"uid": uid, "system": system, "part": part, "distances": row.tolist()} for uid, row in pairs]


def set_distances(
    generated: Sequence[str], references: Sequence[str], rows: Iterable[Mapping[str, Any]]
) -> SetDistances:
    """The matrices of the rows of one system and of the references, in whatever order they come.

    Raises:
        ValueError: rows are missing.
    """
    found = {(row["part"], row["uid"]): row["distances"] for row in rows}

    def rows_of(part: Part, uids: Sequence[str]) -> NDArray[np.float64]:
        missing = [uid for uid in uids if (part, uid) not in found]
        if missing:
            raise ValueError(f"{len(missing)} rows of the matrix {part} are missing, the first of {missing[0]}")
        return np.array([found[part, uid] for uid in uids])

    parts = {part for part, _ in found}
    return SetDistances(
        generated,
        references,
        rows_of("between", generated),
        symmetric(rows_of("of_generated", generated)) if "of_generated" in parts else None,
        symmetric(rows_of("of_references", references)) if "of_references" in parts else None,
    )
