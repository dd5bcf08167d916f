"""One entry for every supported format: bytes on disk to a checked `Scene`, in this process."""

import dataclasses
import struct
from pathlib import Path
from typing import Literal

import numpy as np

from sar3d.errors import ObjectError, UserError
from sar3d.meshes.assemble import assemble, check_totals
from sar3d.meshes.beside import Beside
from sar3d.meshes.gltf.container import open_document
from sar3d.meshes.gltf.reader import read_gltf
from sar3d.meshes.limits import MeshLimits
from sar3d.meshes.obj.reader import read_obj
from sar3d.meshes.ply.reader import read_ply
from sar3d.meshes.scene import Scene
from sar3d.meshes.sniff import sniff
from sar3d.meshes.soup import turned
from sar3d.meshes.stl import read_stl
from sar3d.meshes.transparency import warn_of_transparency
from sar3d.meshes.warning_list import WarningList

UpAxis = Literal["y", "z"]

GLTF_SUFFIXES = (".glb", ".gltf")
PLAIN_SUFFIXES = (".obj", ".ply", ".stl")
SUFFIXES = GLTF_SUFFIXES + PLAIN_SUFFIXES
_PARSING = (
    *(KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError),
    *(struct.error, RecursionError, AssertionError, NotImplementedError),
)
"""What a reader raises on data that nobody thought of."""


def load_scene(
    path: Path,
    root: Path | None = None,
    limits: MeshLimits = MeshLimits(),  # noqa: B008  frozen
    up: UpAxis = "y",
) -> Scene:
    """Load a .glb, .gltf, .obj, .ply or .stl as a y-up scene; what was mended or is not drawn is in its `warnings`.

    Files that it refers to (buffers, textures, materials) are opened if they lie in `root`, by default the file's own
    folder; nothing else is. `up` is the vertical axis of .obj, .ply and .stl files, which do not say; glTF is y-up by
    definition. Use `load_safely` for files from strangers: native decoders may crash or hang. Raises ObjectError, and
    UserError for another `up`.
    """
    check_axis(up)
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ObjectError("unsupported_format", f"{suffix or 'a file without suffix'} is none of {', '.join(SUFFIXES)}")
    data = _read(path, limits)
    sniff(data[:512], suffix)
    warnings = WarningList()
    try:
        # Overflow shows as a result that is not finite, which is checked; NumPy's warnings would only fill the log.
        with np.errstate(all="ignore"):
            beside = Beside(path, root, limits, warnings, len(data))
            if suffix in GLTF_SUFFIXES:
                scene = read_gltf(open_document(data, beside, limits, warnings))
            else:
                scene = _read_plain(data, suffix, beside, limits, up, warnings)
            warn_of_transparency(scene, warnings)
            return dataclasses.replace(scene, warnings=warnings.listed())
    except _PARSING as error:
        # The readers validate what they touch; this is the net under them.
        raise ObjectError("malformed", f"the file cannot be parsed ({type(error).__name__}: {error})") from error
    except OSError as error:
        raise ObjectError("unreadable", f"a file cannot be read ({error.strerror or error})") from error


def check_axis(up: str) -> None:
    """Raises UserError unless `up` is "y" or "z"."""
    if up not in ("y", "z"):
        raise UserError(f"The vertical axis of the source files is 'y' or 'z', not {up!r}: set it to one of these.")


def _read_plain(data: bytes, suffix: str, beside: Beside, limits: MeshLimits, up: str, warnings: WarningList) -> Scene:
    """A .obj, .ply or .stl; `up="z"` turns it y-up."""
    if suffix == ".obj":
        pieces = read_obj(data, beside, limits, warnings)
    elif suffix == ".ply":
        pieces = read_ply(data, beside, limits, warnings)
    else:
        pieces = read_stl(data, limits, warnings)
    check_totals(sum(len(p.faces) for p in pieces), sum(len(p.positions) for p in pieces), limits)
    return assemble([turned(piece, up) for piece in pieces], warnings)


def _read(path: Path, limits: MeshLimits) -> bytes:
    try:
        if not path.is_file():
            raise ObjectError("missing_file", f"{path.name} does not exist")
        size = path.stat().st_size
        if size > limits.bytes:
            raise ObjectError("too_large", f"the file has {size} bytes, more than {limits.bytes}")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise ObjectError("unreadable", f"{path.name} cannot be read ({error})") from error
