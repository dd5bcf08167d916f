"""One entry for every supported format: bytes on disk to a checked `Scene`, in this process."""

import struct
from pathlib import Path
from typing import Literal

import numpy as np

from sar3d.errors import ObjectError, UserError
from sar3d.meshes.gltf.container import open_document
from sar3d.meshes.gltf.reader import read_gltf
from sar3d.meshes.limits import MeshLimits
from sar3d.meshes.plain_formats import read_plain
from sar3d.meshes.scene import Scene
from sar3d.meshes.sniff import sniff

UpAxis = Literal["y", "z"]

GLTF_SUFFIXES = (".glb", ".gltf")
PLAIN_SUFFIXES = (".obj", ".ply", ".stl")
SUFFIXES = GLTF_SUFFIXES + PLAIN_SUFFIXES


def load_scene(path: Path, limits: MeshLimits = MeshLimits(), up: UpAxis = "y") -> Scene:  # noqa: B008  frozen
    """Load a .glb, .gltf, .obj, .ply or .stl as a y-up scene.

    `up` is the vertical axis of .obj, .ply and .stl files, which do not say; glTF is y-up by definition. Use
    `load_safely` for files from strangers: native decoders may crash or hang. Raises ObjectError, and UserError for
    another `up`.
    """
    check_axis(up)
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ObjectError("unsupported_format", f"{suffix or 'a file without suffix'} is none of {', '.join(SUFFIXES)}")
    data = _read(path, limits)
    sniff(data[:512], suffix)
    try:
        # Overflow shows as a result that is not finite, which is checked; warnings would only fill the log.
        with np.errstate(all="ignore"):
            if suffix in GLTF_SUFFIXES:
                return read_gltf(open_document(data, path.parent, limits))
            return read_plain(data, suffix, path.parent, limits, up)
    except (
        KeyError,
        TypeError,
        ValueError,
        IndexError,
        AttributeError,
        ArithmeticError,
        struct.error,
        RecursionError,
        AssertionError,
        NotImplementedError,
    ) as error:
        # The readers validate what they touch; this is the net under them.
        raise ObjectError("malformed", f"the file cannot be parsed ({type(error).__name__}: {error})") from error
    except OSError as error:
        raise ObjectError("unreadable", f"a file cannot be read ({error.strerror or error})") from error


def check_axis(up: str) -> None:
    """Raises UserError unless `up` is "y" or "z"."""
    if up not in ("y", "z"):
        raise UserError(f"The vertical axis of the source files is 'y' or 'z', not {up!r}: set it to one of these.")


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
