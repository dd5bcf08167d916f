"""Splat files from strangers are parsed in a process of their own; arrays come back, never pickles."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sar3d.errors import ObjectError
from sar3d.isolation import Json, LimitedProcess, Limits
from sar3d.splats.ply import read_splats
from sar3d.splats.scene import Splats

BYTES = 2 << 30
"""Largest file (`too_large`)."""
_SHAPES: dict[str, tuple[int, ...]] = {"means": (3,), "covariances": (3, 3), "opacities": (), "sh": (-1, 3)}


def splat_process(limits: Limits = Limits()) -> LimitedProcess:  # noqa: B008  frozen
    """A process for `load_splats`; it starts at the first call. Close it, or use it as a context manager."""
    return LimitedProcess("sar3d.splats.worker:handle", limits, env={"OMP_NUM_THREADS": "1"})


def load_splats(path: Path, process: LimitedProcess | None = None) -> Splats:
    """The splats of a PLY file, parsed in `process` or, where none is given, in one that lives for this call.

    Raises `ObjectError`: `missing_file`, `too_large`, what `read_splats` raises, or `LimitedProcess.call`.
    """
    if process is None:
        with splat_process() as own:
            return load_splats(path, own)
    reply, blobs = process.call({"path": str(path)})
    try:
        return unpack_splats(reply, blobs)
    except (KeyError, TypeError, ValueError) as error:
        raise ObjectError("crashed", f"its process sent splats that make no sense ({error})") from error


def handle(request: Json, blobs: list[bytes]) -> tuple[Json, list[Any]]:
    """The child's side of `load_splats`."""
    return pack_splats(read_file(Path(request["path"])))


def read_file(path: Path) -> Splats:
    """`read_splats` of a file, in this process. Raises `ObjectError` also `missing_file` and `too_large`."""
    if not path.is_file():
        raise ObjectError("missing_file", f"{path.name} does not exist")
    if path.stat().st_size > BYTES:
        raise ObjectError("too_large", f"the file has {path.stat().st_size:,} bytes, more than {BYTES:,}")
    return read_splats(path.read_bytes())


def pack_splats(splats: Splats) -> tuple[Json, list[Any]]:
    """(description, blobs); of splats as they are read, in their own frame."""
    arrays = [np.ascontiguousarray(getattr(splats, name), "<f4") for name in _SHAPES]
    return {"count": len(splats.means)}, [array.data.cast("B") for array in arrays]


def unpack_splats(reply: Json, blobs: Sequence[bytes]) -> Splats:
    """The inverse of `pack_splats`. Raises ValueError and such where the parts do not fit together."""
    count = int(reply["count"])
    arrays = {
        name: np.frombuffer(blob, "<f4").reshape(count, *shape).copy()
        for (name, shape), blob in zip(_SHAPES.items(), blobs, strict=True)
    }
    return Splats(**arrays, sh_frame=np.eye(3))
