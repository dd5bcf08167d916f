"""The `tokens` dataset: one row holds the code indices of one view group, made by one VQVAE.

Teacher-forcing inputs are not stored: they follow from the codes and the codebook on the training device, and would
take 17 times the room.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from sar3d.data.formats.rows import Row
from sar3d.errors import ObjectError, UserError

FORMAT = "sar3d-tokens"
FORMAT_VERSION = "1"
PLANES = 3
MAX_CODEBOOK_SIZE = 1 << 16
"""Entries of the largest codebook whose indices 16 bits hold."""


@dataclass(frozen=True)
class TokensInfo:
    """What every row of a tokens dataset has in common."""

    vqvae: str
    """Digest of the weights that made the codes."""
    scales: tuple[int, ...]
    """Side lengths of the token maps, coarse to fine."""
    codebook_size: int
    """Entries of the codebook."""

    @property
    def length(self) -> int:
        """L: codes of one row."""
        return PLANES * sum(n * n for n in self.scales)


@dataclass(frozen=True)
class Tokens:
    """One decoded row."""

    uid: str
    sha256: str
    group: int
    tokens: NDArray[np.uint16]
    """(L,) in sequence order: scale-major, then plane, then raster."""


def tokens_schema(vqvae: str, scales: Sequence[int], codebook_size: int) -> pa.Schema:
    """Schema of a tokens dataset made by the VQVAE of digest `vqvae`, with `codebook_size` entries in its codebook.

    Raises:
        UserError: 16 bits do not hold the indices of so large a codebook.
    """
    if not 0 < codebook_size <= MAX_CODEBOOK_SIZE:
        raise UserError(f"a codebook of {codebook_size} entries cannot be cached: give at most {MAX_CODEBOOK_SIZE}")
    info = TokensInfo(vqvae, tuple(int(n) for n in scales), codebook_size)
    fields = [
        ("uid", pa.string()),
        ("sha256", pa.string()),
        ("group", pa.int16()),
        ("codes", pa.list_(pa.uint16(), info.length)),
    ]
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "vqvae": vqvae,
        "scales": ",".join(str(n) for n in info.scales),
        "codes": str(codebook_size),
        "order": "scale-major, then plane (XY, YZ, ZX), then raster",
    }
    return pa.schema(fields, metadata=metadata)


def tokens_info(schema: pa.Schema, file: str) -> TokensInfo:
    """What the metadata of `schema`, read from `file`, say.

    Raises:
        UserError: it is no tokens dataset of this version.
    """
    metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    if (metadata.get("format"), metadata.get("format_version")) != (FORMAT, FORMAT_VERSION):
        raise UserError(f"{file} is not a tokens dataset of version {FORMAT_VERSION}: cache the tokens again")
    scales = tuple(int(n) for n in metadata["scales"].split(","))
    return TokensInfo(metadata["vqvae"], scales, int(metadata["codes"]))


def token_row(uid: str, sha256: str, group: int, tokens: ArrayLike) -> Row:
    """One row; `tokens` is (L,) in sequence order, `sha256` that of the object's source file (it decides the split)."""
    values = np.asarray(tokens)
    if values.ndim != 1 or values.dtype.kind not in "iu" or values.min() < 0 or values.max() >= MAX_CODEBOOK_SIZE:
        raise ValueError(
            f"codes are one row of indices below {MAX_CODEBOOK_SIZE}, not {values.dtype} of shape {values.shape}"
        )
    return {"uid": uid, "sha256": sha256, "group": group, "codes": values.astype(np.uint16)}


def decode_tokens(row: Mapping[str, Any], info: TokensInfo) -> Tokens:
    """The arrays of one row, however it was read.

    Raises:
        ObjectError: `bad_row`, the codes are too few, too many, or beyond the codebook.
    """
    tokens = np.asarray(row["codes"])
    if tokens.shape != (info.length,) or tokens.min() < 0 or tokens.max() >= info.codebook_size:
        raise ObjectError(
            "bad_row",
            f"the tokens of view group {row['group']} of {row['uid']} are not {info.length} indices below {info.codebook_size}.",
        )
    return Tokens(str(row["uid"]), str(row["sha256"]), int(row["group"]), tokens.astype(np.uint16, copy=False))
