"""The `views` dataset: one row holds one view group of one object, each picture as a PNG.

PNG is lossless, every tool reads it, and a row stays one self-contained record. Depth is 16-bit z-depth in steps of
`depth_scale`; each depth PNG also carries its scale as a text chunk, so that a row taken out of its file (a loader's
batch, a table in memory) cannot be decoded with a wrong one.
"""

import hashlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image
from pyarrow import fs

from sar3d.camera_layout import Cameras
from sar3d.data.formats.png import write_png
from sar3d.data.formats.rows import Row
from sar3d.errors import ObjectError, UserError

FORMAT = "sar3d-views"
FORMAT_VERSION = "1"
DEPTH_SCALE = 1e-4
"""Depth of one step; 16 bits then reach 6.55, beyond every fitted camera, with an error of at most 5e-5."""

Split = Literal["train", "val", "test"]

_NEUTRAL = 128
"""Normal byte of the background: decodes to 0.004, far shorter than any normal."""
_SHORTEST_NORMAL = 0.5
_ROWS_AT_ONCE = 4


@dataclass(frozen=True)
class EncodedView:
    """The four PNG files of one view."""

    rgb: bytes
    """8-bit RGB, composited on white."""
    alpha: bytes
    """8-bit gray coverage."""
    depth: bytes
    """16-bit gray z-depth / depth_scale, 0 = background; the text chunk `depth_scale` holds the scale."""
    normal: bytes
    """8-bit RGB, v = (n + 1) / 2 · 255 in the world frame; background (128, 128, 128)."""


@dataclass(frozen=True)
class Views:
    """One decoded view group."""

    uid: str
    sha256: str
    group: int
    view_ids: NDArray[np.int16]
    """(V,)"""
    rgb: NDArray[np.uint8]
    """(V, H, W, 3), on white."""
    alpha: NDArray[np.uint8]
    """(V, H, W)"""
    depth: NDArray[np.float32]
    """(V, H, W) z-depth, 0 = background."""
    normal: NDArray[np.float32]
    """(V, H, W, 3) world frame: unit length, or exactly 0 on the background."""
    c2w: NDArray[np.float32]
    """(V, 4, 4) camera-to-world, OpenCV."""
    intrinsics: NDArray[np.float32]
    """(V, 3, 3) normalized by the image size."""
    normalisation: NDArray[np.float64]
    """(4, 4) from the source file's coordinates to the world of the views."""


def views_schema(resolution: int, depth_scale: float = DEPTH_SCALE) -> pa.Schema:
    """Schema of a views dataset whose pictures are `resolution` pixels square.

    Matrices are row-major. The metadata say in words how to read the rest.
    """
    pictures = pa.list_(pa.binary())
    fields = [
        ("uid", pa.string()),
        ("sha256", pa.string()),
        ("group", pa.int16()),
        ("view_ids", pa.list_(pa.int16())),
        *((name, pictures) for name in ("rgb", "alpha", "depth", "normal")),
        ("c2w", pa.list_(pa.list_(pa.float32(), 16))),
        ("intrinsics", pa.list_(pa.list_(pa.float32(), 9))),
        ("normalisation", pa.list_(pa.float64(), 16)),
        ("warnings", pa.list_(pa.string())),
    ]
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "resolution": str(resolution),
        "depth_scale": repr(float(depth_scale)),
        "rgb_background": "white",
        "depth": "16-bit PNG, z-depth along the camera's forward axis = value * depth_scale, 0 = background",
        "normal": "8-bit PNG, world frame, n = value / 255 * 2 - 1, background 128 128 128",
        "c2w": "row-major 4x4 camera-to-world, OpenCV axes (x right, y down, z forward), world z up",
        "intrinsics": "row-major 3x3, normalised by the image size, pixel centres at (index + 0.5) / size",
        "normalisation": "row-major 4x4, source file coordinates to world coordinates",
        "warnings": "what the reader of the source file mended, guessed or did not draw",
    }
    return pa.schema(fields, metadata=metadata)


def encode_view(
    rgb: NDArray[np.uint8],
    alpha: NDArray[np.uint8],
    depth: NDArray[np.floating],
    normal: NDArray[np.floating],
    depth_scale: float = DEPTH_SCALE,
) -> EncodedView:
    """The PNGs of one view: `rgb` (H, W, 3) on white, `alpha` (H, W), z-`depth` (H, W), world `normal` (H, W, 3).

    Depth 0 and normal 0 mean background. Normals of other lengths keep their direction only. Foreground depth nearer
    than half a step is stored as one step, since 0 would make it background.

    Raises:
        ValueError: shapes or dtypes do not fit together.
        ObjectError: `depth_range`, a depth is negative, not finite, or beyond what 16 bits hold at this scale;
            `bad_normal`, a normal is not finite.
    """
    size = depth.shape
    if len(size) != 2 or rgb.shape != (*size, 3) or alpha.shape != size or normal.shape != (*size, 3):
        raise ValueError(f"a view's pictures differ in size: {rgb.shape}, {alpha.shape}, {size}, {normal.shape}")
    if rgb.dtype != np.uint8 or alpha.dtype != np.uint8:
        raise ValueError(f"rgb and alpha are 8-bit pictures, not {rgb.dtype} and {alpha.dtype}")
    return EncodedView(
        rgb=write_png(rgb, "none"),
        alpha=write_png(alpha, "none"),
        depth=write_png(_depth_steps(depth, depth_scale), "up", {"depth_scale": repr(float(depth_scale))}),
        normal=write_png(_normal_bytes(normal), "up"),
    )


def _depth_steps(depth: NDArray[np.floating], depth_scale: float) -> NDArray[np.uint16]:
    steps = np.rint(depth.astype(np.float64) / depth_scale)
    steps[(depth > 0) & (steps < 1)] = 1
    if not (np.isfinite(steps).all() and steps.min(initial=0) >= 0 and steps.max(initial=0) <= 65535):
        reach = 65535 * depth_scale
        raise ObjectError(
            "depth_range",
            f"depths run from {depth.min():.6g} to {depth.max():.6g}, but must lie from 0 to {reach:.6g} "
            f"(16 bits at depth_scale {depth_scale:g}).",
        )
    return steps.astype(np.uint16)


def _normal_bytes(normal: NDArray[np.floating]) -> NDArray[np.uint8]:
    vectors = normal.astype(np.float32, copy=False).reshape(-1, 3)
    squares = np.einsum("nc,nc->n", vectors, vectors)
    seen = np.flatnonzero(squares != 0)  # most of a render is background, which need not be computed
    length = np.sqrt(squares[seen])[:, None]
    if not np.isfinite(length).all():
        raise ObjectError("bad_normal", "a rendered normal is not a finite number.")
    out = np.full(vectors.shape, _NEUTRAL, np.uint8)
    # Adding one half and cutting off rounds, and is several times as fast as rint.
    out[seen] = (vectors.take(seen, axis=0) * (127.5 / length) + 128).astype(np.uint8)
    return out.reshape(normal.shape)


def make_rows(
    uid: str,
    sha256: str,
    cameras: Cameras,
    encoded: Mapping[int, EncodedView],
    normalisation: NDArray[np.float64],
    warnings: Sequence[str] = (),
) -> list[Row]:
    """The rows of one object, one per view group; `encoded` maps view ids to views, which groups may share.

    `sha256` is that of the source file's content, `normalisation` (4, 4) its way into the world, `warnings` what its
    reader mended or did not draw.
    """
    at = {view: i for i, view in enumerate(cameras.view_ids)}
    return [
        view_row(
            uid=uid,
            sha256=sha256,
            group=number,
            view_ids=group,
            encoded=[encoded[view] for view in group],
            c2w=cameras.c2w[[at[view] for view in group]],
            intrinsics=cameras.K[[at[view] for view in group]],
            normalisation=normalisation,
            warnings=warnings,
        )
        for number, group in enumerate(cameras.groups)
    ]


def view_row(
    *,
    uid: str,
    sha256: str,
    group: int,
    view_ids: Sequence[int],
    encoded: Sequence[EncodedView],
    c2w: NDArray[np.floating],
    intrinsics: NDArray[np.floating],
    normalisation: NDArray[np.floating],
    warnings: Sequence[str] = (),
) -> Row:
    """One row from its parts: V view ids, V encoded views, `c2w` (V, 4, 4), `intrinsics` (V, 3, 3)."""
    count = len(view_ids)
    return {
        "uid": uid,
        "sha256": sha256,
        "group": group,
        "view_ids": list(view_ids),
        "rgb": [view.rgb for view in encoded],
        "alpha": [view.alpha for view in encoded],
        "depth": [view.depth for view in encoded],
        "normal": [view.normal for view in encoded],
        "c2w": c2w.astype(np.float32).reshape(count, 16).tolist(),
        "intrinsics": intrinsics.astype(np.float32).reshape(count, 9).tolist(),
        "normalisation": normalisation.astype(np.float64).reshape(16).tolist(),
        "warnings": list(warnings),
    }


def decode_row(row: Mapping[str, Any]) -> Views:
    """The arrays of one row, however it was read (PyArrow, pandas, Ray Data, DuckDB: lists or arrays).

    Raises:
        ObjectError: `bad_row`, a picture cannot be decoded, or is of another kind or size than the format asks.
    """
    count = len(row["view_ids"])
    if any(len(row[name]) != count for name in ("rgb", "alpha", "depth", "normal", "c2w", "intrinsics")):
        raise _bad_row(row, "its columns name different numbers of views")
    rgb, alpha, depth, normal = (
        _pictures(row, name, mode)
        for name, mode in (("rgb", "RGB"), ("alpha", "L"), ("depth", "I;16"), ("normal", "RGB"))
    )
    if len({pictures.shape[:3] for pictures in (rgb, alpha, depth, normal)}) != 1:
        raise _bad_row(row, "the pictures of its columns differ in size")
    return Views(
        uid=str(row["uid"]),
        sha256=str(row["sha256"]),
        group=int(row["group"]),
        view_ids=np.array(row["view_ids"], np.int16),
        rgb=rgb,
        alpha=alpha,
        depth=depth,
        normal=_unit_normals(normal),
        c2w=np.array([np.asarray(m, np.float32) for m in row["c2w"]]).reshape(count, 4, 4),
        intrinsics=np.array([np.asarray(m, np.float32) for m in row["intrinsics"]]).reshape(count, 3, 3),
        normalisation=np.asarray(row["normalisation"], np.float64).reshape(4, 4),
    )


def _bad_row(row: Mapping[str, Any], reason: str) -> ObjectError:
    return ObjectError("bad_row", f"view group {row['group']} of {row['uid']} cannot be used: {reason}.")


def _pictures(row: Mapping[str, Any], column: str, mode: str) -> NDArray[Any]:
    """(V, H, W[, 3]) pixels of a column of PNGs; depth in world units."""
    images = []
    for content in row[column]:
        try:
            with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
                pixels, found, scale = np.asarray(image), image.mode, image.info.get("depth_scale")
        except (OSError, SyntaxError, ValueError) as error:
            raise _bad_row(row, f"a picture of its column {column} is no readable PNG ({error})") from error
        if found != mode or (column == "depth" and scale is None):
            raise _bad_row(row, f"a picture of its column {column} is not of the views format")
        images.append(pixels if scale is None else (pixels * float(scale)).astype(np.float32))
    if len({image.shape for image in images}) != 1:
        raise _bad_row(row, f"the pictures of its column {column} differ in size")
    return np.stack(images)


def _unit_normals(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    vectors = pixels * np.float32(2 / 255) - np.float32(1)
    length = np.sqrt(np.einsum("vhwc,vhwc->vhw", vectors, vectors))[..., None]
    foreground = length > _SHORTEST_NORMAL
    return np.where(foreground, vectors / np.where(foreground, length, 1), 0).astype(np.float32)


def read_views(
    files: Sequence[str | Path | IO[bytes]],
    columns: Sequence[str] | None = None,
    filesystem: fs.FileSystem | None = None,
) -> Iterator[Row]:
    """Rows of Parquet files of a views dataset, in order; holds about one row group at a time.

    `columns` limits what is read (all by default, which `decode_row` needs), `filesystem` tells where paths live.

    Raises:
        UserError: a file is missing or no views dataset of this version, or has no such column.
    """
    for file in files:
        with _open_views(file, filesystem) as parquet:
            unknown = set(columns or ()) - set(parquet.schema_arrow.names)
            if unknown:
                raise UserError(f"{file} has no column {min(unknown)!r}: choose from {parquet.schema_arrow.names}")
            wanted = None if columns is None else list(columns)
            for batch in parquet.iter_batches(batch_size=_ROWS_AT_ONCE, columns=wanted, use_threads=False):
                yield from batch.to_pylist()


def _open_views(file: str | Path | IO[bytes], filesystem: fs.FileSystem | None) -> pq.ParquetFile:
    try:
        parquet = pq.ParquetFile(file, filesystem=filesystem)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{file} cannot be read as Parquet ({error}): give files of a views dataset") from error
    metadata = parquet.schema_arrow.metadata or {}
    found = metadata.get(b"format", b"").decode(), metadata.get(b"format_version", b"").decode()
    if found != (FORMAT, FORMAT_VERSION):
        parquet.close()
        raise UserError(f"{file} is not a views dataset of version {FORMAT_VERSION}: render the objects again")
    return parquet


def split_of(sha256: str, val: float = 0.02, test: float = 0.02) -> Split:
    """The split of an object by the hash of its source file's content.

    Copies of one file under several uids share a split, and no object ever changes its split when others join.

    Raises:
        UserError: the shares are negative or leave nothing to train on.
    """
    if not (val >= 0 and test >= 0 and math.fsum((val, test)) < 1):
        raise UserError(f"the splits val={val} and test={test} leave no training data: give shares that sum below 1")
    place = int.from_bytes(hashlib.sha256(f"split {sha256}".encode()).digest()[:6], "big") / 2**48
    if place < test:
        return "test"
    return "val" if place < test + val else "train"
