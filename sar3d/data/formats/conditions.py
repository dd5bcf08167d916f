"""The `conditions` dataset: one row holds what one encoder made of one caption or one view, in half precision.

Rows of several kinds and encoders may share a file, so each row tells its own shapes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sar3d.conditions.kinds import ConditionKind
from sar3d.data.formats.rows import Row
from sar3d.errors import ObjectError, UserError

FORMAT = "sar3d-conditions"
FORMAT_VERSION = "1"
DTYPE = np.dtype("<f2")


@dataclass(frozen=True)
class ConditionRow:
    """One decoded row."""

    uid: str
    sha256: str
    kind: ConditionKind
    index: int
    """Caption number for text, view id for images."""
    group: int | None
    """View group that the view was taken from; None for text, which goes with every group."""
    encoder: str
    tokens: NDArray[np.float16]
    """(N, C)"""
    pooled: NDArray[np.float16]
    """(C',)"""


def conditions_schema(encoders: Mapping[str, str]) -> pa.Schema:
    """Schema of a conditions dataset; `encoders` maps kinds to the ids of the encoders used."""
    fields = [
        ("uid", pa.string()),
        ("sha256", pa.string()),
        ("kind", pa.string()),
        ("encoder", pa.string()),
        ("group", pa.int16()),
        ("view_id", pa.int16()),
        ("caption_id", pa.int16()),
        ("tokens_shape", pa.list_(pa.int32(), 2)),
        # Half-precision features do not compress, and trying costs a loader more than reading them.
        pa.field("tokens", pa.binary(), metadata={"stored": "plain"}),
        pa.field("pooled", pa.binary(), metadata={"stored": "plain"}),
    ]
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "dtype": "float16",
        "tokens": "row-major (N, C) of tokens_shape, little-endian float16",
        "pooled": "little-endian float16",
        **{f"encoder_{kind}": encoder for kind, encoder in encoders.items()},
    }
    return pa.schema(fields, metadata=metadata)


def check_conditions(schema: pa.Schema, file: str) -> None:
    """Raises `UserError` where `schema`, read from `file`, is not that of a conditions dataset of this version."""
    metadata = schema.metadata or {}
    if (metadata.get(b"format"), metadata.get(b"format_version")) != (FORMAT.encode(), FORMAT_VERSION.encode()):
        raise UserError(f"{file} is not a conditions dataset of version {FORMAT_VERSION}: cache the conditions again")


def condition_row(
    *,
    uid: str,
    sha256: str,
    kind: ConditionKind,
    encoder: str,
    index: int,
    tokens: NDArray[np.floating],
    pooled: NDArray[np.floating],
    group: int | None = None,
) -> Row:
    """One row; `tokens` (N, C), `pooled` (C'), `index` the caption's number or the view's id.

    Raises:
        ObjectError: `bad_condition`, a feature is not finite or too large for half precision.
    """
    if tokens.ndim != 2 or pooled.ndim != 1:
        raise ValueError(f"a condition is tokens (N, C) and pooled (C'), not {tokens.shape} and {pooled.shape}")
    return {
        "uid": uid,
        "sha256": sha256,
        "kind": kind,
        "encoder": encoder,
        "group": group,
        "view_id": index if kind == "image" else None,
        "caption_id": index if kind == "text" else None,
        "tokens_shape": list(tokens.shape),
        "tokens": _half(uid, tokens).tobytes(),
        "pooled": _half(uid, pooled).tobytes(),
    }


def _half(uid: str, values: NDArray[np.floating]) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        half = np.ascontiguousarray(values, DTYPE)
    if not np.isfinite(half).all():
        raise ObjectError("bad_condition", f"a condition of {uid} holds numbers that half precision cannot.")
    return half


def decode_condition(row: Mapping[str, Any]) -> ConditionRow:
    """The arrays of one row, however it was read.

    Raises:
        ObjectError: `bad_row`, the features are not of the stated shape.
    """
    kind: ConditionKind = "image" if row["kind"] == "image" else "text"
    index = row["view_id"] if kind == "image" else row["caption_id"]
    shape = tuple(int(n) for n in row["tokens_shape"])
    tokens, pooled = (np.frombuffer(row[name], DTYPE) for name in ("tokens", "pooled"))
    if tokens.size != shape[0] * shape[1]:
        raise ObjectError(
            "bad_row", f"the {kind} condition {index} of {row['uid']} is not of its stated shape {shape}."
        )
    group = row["group"]
    return ConditionRow(
        uid=str(row["uid"]),
        sha256=str(row["sha256"]),
        kind=kind,
        index=int(index),
        group=None if group is None else int(group),
        encoder=str(row["encoder"]),
        tokens=tokens.reshape(shape),
        pooled=pooled,
    )
