"""Stored rows of the views dataset, of which only what a sample needs is decoded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor

from sar3d.data.formats.png_decode import Inflated, Pixels, inflate_png, unfilter
from sar3d.data.loading.view_tensors import Targets, encoder_channels, view_targets
from sar3d.errors import ObjectError

ENCODER_COLUMNS = ("uid", "sha256", "group", "view_ids", "rgb", "depth", "c2w", "intrinsics")
TARGET_COLUMNS = (*ENCODER_COLUMNS, "alpha")
PICTURES = ("rgb", "alpha", "depth", "normal")
_NEUTRAL, _SHORTEST_NORMAL = 128, 0.5
"""Bytes of the background's normal; they decode to a shorter vector than this, every normal's to a longer one (see
`sar3d.data.formats.views`)."""


@dataclass(frozen=True)
class StoredRows:
    """The rows of one row group. A view is named by its place among all views of the rows."""

    uids: list[str]
    hashes: list[str]
    groups: list[int]
    offsets: NDArray[np.int64]
    """(rows + 1,) place of each row's first view, and the end."""
    view_ids: NDArray[np.int16]
    pictures: dict[str, pa.BinaryArray]
    """PNG files by column."""
    c2w: NDArray[np.float32]
    """(views, 4, 4)"""
    intrinsics: NDArray[np.float32]
    """(views, 3, 3)"""

    @property
    def weight(self) -> int:
        """Bytes in memory."""
        return sum(array.nbytes for array in self.pictures.values()) + self.c2w.nbytes + self.intrinsics.nbytes

    def views(self, row: int) -> range:
        """Places of the views of one row."""
        return range(int(self.offsets[row]), int(self.offsets[row + 1]))


def stored_rows(table: pa.Table) -> StoredRows:
    """The rows of a table with at least `ENCODER_COLUMNS`, each column a single chunk.

    Raises:
        ObjectError: `bad_row`, the columns name different numbers of views.
    """

    def flat(name: str) -> tuple[NDArray[np.int64], pa.Array]:
        column = table.column(name).chunk(0)
        offsets = np.asarray(column.offsets, np.int64)
        return offsets - offsets[0], column.flatten()

    offsets, view_ids = flat("view_ids")
    uids = table.column("uid").to_pylist()
    lists = {name: flat(name) for name in (*PICTURES, "c2w", "intrinsics") if name in table.column_names}
    for name, (other, _) in lists.items():
        if not np.array_equal(offsets, other):
            row = int(np.flatnonzero(np.diff(offsets) != np.diff(other))[0])
            raise ObjectError("bad_row", f"the columns view_ids and {name} of {uids[row]} name different views.")
    return StoredRows(
        uids=uids,
        hashes=table.column("sha256").to_pylist(),
        groups=table.column("group").to_pylist(),
        offsets=offsets,
        view_ids=np.asarray(view_ids, np.int16),
        pictures={name: values for name, (_, values) in lists.items() if name in PICTURES},
        c2w=np.asarray(lists["c2w"][1].flatten(), np.float32).reshape(-1, 4, 4),
        intrinsics=np.asarray(lists["intrinsics"][1].flatten(), np.float32).reshape(-1, 3, 3),
    )


Place = tuple[StoredRows, int]
"""A view: its row group and its place in it."""


Decoded = dict[tuple[int, int, str], NDArray[Any]]
"""Pictures that were decoded for a sample, by row group, place and column: most views are both seen and compared with."""


@dataclass(frozen=True)
class EncoderViews:
    """Decoded views that are no encoder input yet: a sixth of its size."""

    rgb: NDArray[np.uint8]
    """(V, H, W, 3)"""
    depth: NDArray[np.float32]
    """(V, H, W)"""
    c2w: NDArray[np.float32]
    """(V, 4, 4)"""
    intrinsics: NDArray[np.float32]
    """(V, 3, 3)"""

    def split(self, count: int) -> "list[EncoderViews]":
        """`count` views each."""
        parts = [slice(i, i + count) for i in range(0, len(self.depth), count)]
        return [EncoderViews(self.rgb[p], self.depth[p], self.c2w[p], self.intrinsics[p]) for p in parts]

    def tensor(self) -> Tensor:
        """(V, 10, H, W) encoder input, see `sar3d.data.loading.view_tensors.encoder_input`."""
        return encoder_channels(self.rgb, self.depth, self.c2w, self.intrinsics)


def decode_encoder(views: Sequence[Place], resolution: int, seen: Decoded | None = None) -> EncoderViews:
    """What the encoder needs of V views.

    Raises:
        ObjectError: `bad_row`, a picture cannot be decoded, or is not of the views format and `resolution`.
    """
    seen = {} if seen is None else seen
    rgb, depth = (_stack(views, name, resolution, seen) for name in ("rgb", "depth"))
    return EncoderViews(rgb, depth, *_cameras(views))


def decode_targets(views: Sequence[Place], resolution: int, normals: bool, seen: Decoded | None = None) -> Targets:
    """The targets of V views, normals included if `normals`.

    Raises:
        ObjectError: `bad_row`, a picture cannot be decoded, or is not of the views format and `resolution`.
    """
    seen = {} if seen is None else seen
    rgb, alpha, depth = (_stack(views, name, resolution, seen) for name in ("rgb", "alpha", "depth"))
    normal = _stack(views, "normal", resolution, seen) if normals else None
    return view_targets(rgb, alpha, depth, normal, *_cameras(views))


def _stack(views: Sequence[Place], column: str, resolution: int, seen: Decoded) -> NDArray[Any]:
    """The pictures of one column, (V, H, W), (V, H, W, 3) for rgb, (V, 3, H, W) for normals."""
    shape, dtype, write = _WRITE[column]
    stacked: NDArray[Any] = np.empty((len(views), *(resolution if n == 0 else n for n in shape)), dtype)
    fresh, known = [], []
    for out, view in zip(stacked, views, strict=True):
        key = (id(view[0]), view[1], column)
        if key in seen:
            known.append((out, seen[key]))
        else:
            fresh.append((view, out, _inflate(view, column)))
            seen[key] = out
    for (view, out, inflated), pixels in zip(fresh, unfilter([picture for _, _, picture in fresh]), strict=True):
        _check(view, column, pixels, resolution)
        write(view, pixels, inflated.texts, out)
    for out, source in known:
        out[:] = source
    return stacked


def _cameras(views: Sequence[Place]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return np.stack([rows.c2w[i] for rows, i in views]), np.stack([rows.intrinsics[i] for rows, i in views])


def _write_bytes(view: Place, pixels: Pixels, texts: dict[str, str], out: NDArray[np.uint8]) -> None:
    out[:] = pixels


def _write_depth(view: Place, pixels: Pixels, texts: dict[str, str], out: NDArray[np.float32]) -> None:
    if "depth_scale" not in texts:
        raise _bad_picture(view, "depth", "it has no depth_scale")
    # In double precision, then rounded once, as everywhere.
    np.multiply(pixels, np.float64(texts["depth_scale"]), out=out, casting="unsafe")


def _write_normal(view: Place, pixels: Pixels, texts: dict[str, str], out: NDArray[np.float32]) -> None:
    """Unit normals; 0 on the background."""
    out.fill(0)
    drawn = pixels.reshape(len(pixels), -1) != _NEUTRAL
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0)) // 3
    if not len(rows):
        return
    # Most of a render is background: only the rectangle around the object is computed.
    box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    vectors: NDArray[np.float32] = np.ascontiguousarray(np.moveaxis(pixels[box], -1, 0), np.float32)
    vectors *= np.float32(2 / 255)
    vectors -= np.float32(1)
    square = vectors[0] * vectors[0] + vectors[1] * vectors[1] + vectors[2] * vectors[2]
    square[square <= _SHORTEST_NORMAL**2] = np.inf
    np.divide(vectors, np.sqrt(square), out=out[:, *box])


_WRITE: dict[str, tuple[tuple[int, ...], type, Callable[[Place, Pixels, dict[str, str], NDArray[Any]], None]]] = {
    "rgb": ((0, 0, 3), np.uint8, _write_bytes),
    "alpha": ((0, 0), np.uint8, _write_bytes),
    "depth": ((0, 0), np.float32, _write_depth),
    "normal": ((3, 0, 0), np.float32, _write_normal),
}
"""Shape (0 stands for the resolution) and type of each column, and what turns its pixels and texts into that."""


def _inflate(view: Place, column: str) -> Inflated:
    rows, i = view
    try:
        return inflate_png(memoryview(rows.pictures[column][i].as_buffer()))
    except ValueError as error:
        raise _bad_picture(view, column, str(error)) from error


def _check(view: Place, column: str, pixels: Pixels, resolution: int) -> None:
    shape = (resolution, resolution, *([3] if column in ("rgb", "normal") else []))
    if pixels.shape != shape or pixels.dtype != (np.uint16 if column == "depth" else np.uint8):
        raise _bad_picture(view, column, f"it is {pixels.dtype} of {pixels.shape}, not of the views format")


def _bad_picture(view: Place, column: str, reason: str) -> ObjectError:
    rows, i = view
    row = int(np.searchsorted(rows.offsets, i, "right")) - 1
    return ObjectError(
        "bad_row",
        f"view group {rows.groups[row]} of {rows.uids[row]} cannot be used: the {column} picture of view "
        f"{rows.view_ids[i]}: {reason}.",
    )
