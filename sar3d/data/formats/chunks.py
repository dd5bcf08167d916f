"""The training chunks published with G-Objaverse conversions: twelve 256² views in one directory, read as views rows.

A chunk holds a quarter of an object's views. Its pictures are strips of twelve, its depth an 8-bit disparity and its
alpha a JPEG, so rows made from chunks are as coarse as that: the import loses nothing beyond what the chunk lost.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sar3d.data.formats.rows import Row
from sar3d.data.formats.views import DEPTH_SCALE, EncodedView, encode_view, view_row
from sar3d.errors import ObjectError, UserError

CHUNK_VIEWS = 12
CHUNK_RESOLUTION = 256

_CATEGORIES = (
    "Furnitures",
    "daily-used",
    "Animals",
    "Food",
    "Plants",
    "Electronics",
    "BuildingsOutdoor",
    "Transportations_tar",
    "Human-Shape",
)
"""The order in which the published training reads its categories."""
_FARTHEST = 2.9
"""Depths beyond it are background: the least disparity of every chunk stands for 3."""
_SHORTEST_NORMAL = 0.5
_EARLIER = 7
_MAX_TEXT = 4096


@dataclass(frozen=True)
class ChunkRef:
    """Where one chunk lies."""

    path: Path
    """Its directory."""
    category: str
    """The list of dataset.json that names it."""
    earlier: tuple[Path, ...] = ()
    """The chunks numbered just before it, nearest first: an object's chunks are numbered consecutively."""


def list_chunks(root: Path) -> list[ChunkRef]:
    """The chunks that `root`/dataset.json names, by published category order, then in the order of their lists.

    Raises:
        UserError: dataset.json is absent, is no map of categories to lists of relative directories, or names a
            directory twice or outside `root`.
    """
    index = root / "dataset.json"
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{index} cannot be read ({error.strerror}): give the root of a chunk dataset") from error
    except ValueError as error:
        raise UserError(f"{index} is not JSON ({error}): download it again") from error
    if not (isinstance(content, dict) and all(_is_list_of_names(names) for names in content.values())):
        raise UserError(f"{index} is not a map of categories to lists of chunk directories: download it again")
    order = {name: i for i, name in enumerate(_CATEGORIES)}
    refs = []
    for category in sorted(content, key=lambda name: order.get(name, len(order))):
        refs += _category_refs(root, index, category, content[category])
    return refs


def _is_list_of_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _category_refs(root: Path, index: Path, category: str, names: list[str]) -> list[ChunkRef]:
    for name in names:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\0" in name or "\\" in name:
            raise UserError(f"{index} names the chunk {name!r}, which is no directory below {root}: correct it")
    numbered = sorted(names, key=lambda name: [int(digits) for digits in re.findall(r"\d+", name)])
    at = {name: i for i, name in enumerate(numbered)}
    if len(at) != len(names):
        raise UserError(f"{index} names a chunk of {category} twice: correct it")
    return [
        ChunkRef(
            path=root / name,
            category=category,
            earlier=tuple(root / n for n in reversed(numbered[max(0, at[name] - _EARLIER) : at[name]])),
        )
        for name in names
    ]


def read_chunk(ref: ChunkRef, depth_scale: float = DEPTH_SCALE) -> Row:
    """The chunk as a row of the views dataset.

    uid is the line of ins.txt; group counts the object's chunks in the order of their numbers; view_ids are 0 to 11,
    the positions in the chunk, since which cameras of the object they are is not recorded. sha256 is that of the uid,
    as the source file is not at hand: all chunks of an object still share a split. Normalisation is the identity.

    Raises:
        ObjectError: `missing_file`, `unreadable_image`, `bad_array`, `bad_camera` or `bad_text`.
    """
    uid = _uid(ref.path)
    cameras = _array(ref.path / "c.npy", (CHUNK_VIEWS, 25))
    c2w = cameras[:, :16].reshape(-1, 4, 4)
    intrinsics = cameras[:, 16:].reshape(-1, 3, 3).copy()
    intrinsics[:, 2, 2] = 1.0  # the files hold 1/256 there, which no pinhole matrix has
    _check_cameras(ref.path, c2w, intrinsics)
    return view_row(
        uid=uid,
        sha256=hashlib.sha256(uid.encode()).hexdigest(),
        group=_group(ref, uid),
        view_ids=range(CHUNK_VIEWS),
        encoded=_encoded(ref.path, depth_scale),
        c2w=c2w,
        intrinsics=intrinsics,
        normalisation=np.eye(4),
    )


def _encoded(path: Path, depth_scale: float) -> list[EncodedView]:
    rgb = _strip(path / "raw_img.png", "PNG", "RGB", CHUNK_RESOLUTION)
    both = _strip(path / "depth_alpha.jpg", "JPEG", "L", 2 * CHUNK_RESOLUTION)
    depth = _depth(both[:, :CHUNK_RESOLUTION], _disparities(path / "d_near_far.npy"))
    alpha = both[:, CHUNK_RESOLUTION:]
    normal = _world_normals(_strip(path / "normal.png", "PNG", "RGB", CHUNK_RESOLUTION))
    return [encode_view(rgb[v], alpha[v], depth[v], normal[v], depth_scale) for v in range(CHUNK_VIEWS)]


def _disparities(path: Path) -> NDArray[np.float64]:
    bounds = _array(path, (2, CHUNK_VIEWS))
    if not (bounds > 0).all() or not (bounds[0] <= bounds[1]).all():
        raise ObjectError("bad_array", f"{path} does not hold positive disparities, least in the first row.")
    return bounds


def _depth(quantized: NDArray[np.uint8], bounds: NDArray[np.float64]) -> NDArray[np.float64]:
    """(12, H, W) z-depth from 8-bit disparity between `bounds` (2, 12), 0 = background."""
    far, near = bounds[:, :, None, None]
    depth = 1 / (quantized / 255.0 * (near - far) + far)
    return np.where(depth > _FARTHEST, 0.0, depth)


def _world_normals(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(12, H, W, 3) in the z-up world; the files hold (-x, z, -y) of it, and nearly 0 on the background."""
    x, y, z = np.moveaxis(pixels / 255.0 * 2 - 1, -1, 0)
    normal = np.stack([-x, -z, y], axis=-1)
    return np.where(np.linalg.norm(normal, axis=-1, keepdims=True) > _SHORTEST_NORMAL, normal, 0.0)


def _strip(path: Path, file_format: str, mode: str, height: int) -> NDArray[np.uint8]:
    """(12, height, 256[, 3]): the views that lie side by side in one picture."""
    width = CHUNK_VIEWS * CHUNK_RESOLUTION
    try:
        with Image.open(path, formats=[file_format]) as image:
            if image.size != (width, height) or image.mode != mode:
                raise ObjectError(
                    "unreadable_image",
                    f"{path} is a {image.mode} picture of {image.size}, not {mode} of {(width, height)}.",
                )
            pixels = np.asarray(image)
    except FileNotFoundError as error:
        raise _missing(path) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise ObjectError("unreadable_image", f"{path} cannot be decoded ({error}).") from error
    return np.stack(np.split(pixels, CHUNK_VIEWS, axis=1))


def _missing(path: Path) -> ObjectError:
    return ObjectError("missing_file", f"{path} is missing.")


def _array(path: Path, shape: tuple[int, ...]) -> NDArray[Any]:
    """The finite floating-point array of a .npy file; pickles in it are refused."""
    try:
        # Mapped, because a header that claims more numbers than the file holds is then an error and no allocation.
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise _missing(path) from error
    except (OSError, ValueError, EOFError) as error:
        raise ObjectError("bad_array", f"{path} cannot be read ({error}).") from error
    if not isinstance(values, np.ndarray) or values.shape != shape or values.dtype.kind != "f":
        raise ObjectError("bad_array", f"{path} does not hold floating-point numbers of shape {shape}.")
    if not np.isfinite(values).all():
        raise ObjectError("bad_array", f"{path} holds numbers that are not finite.")
    return np.array(values)


def _check_cameras(path: Path, c2w: NDArray[np.floating], intrinsics: NDArray[np.floating]) -> None:
    rotation = c2w[:, :3, :3].astype(np.float64)
    rigid = np.allclose(rotation @ rotation.transpose(0, 2, 1), np.eye(3), atol=1e-3)
    if not (rigid and (np.linalg.det(rotation) > 0).all() and np.allclose(c2w[:, 3], [0, 0, 0, 1], atol=1e-6)):
        raise ObjectError("bad_camera", f"{path / 'c.npy'} holds a pose that is no rigid motion.")
    if not (intrinsics[:, [0, 1], [0, 1]] > 0).all():
        raise ObjectError("bad_camera", f"{path / 'c.npy'} holds a focal length that is not positive.")


def _uid(path: Path) -> str:
    """The object that a chunk directory belongs to."""
    file = path / "ins.txt"
    try:
        with file.open(encoding="utf-8") as handle:
            uid = handle.read(_MAX_TEXT + 1).strip()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _missing(file) from error
    except (OSError, ValueError) as error:
        raise ObjectError("bad_text", f"{file} cannot be read ({error}).") from error
    if not uid or len(uid) > _MAX_TEXT or not uid.isprintable():
        raise ObjectError("bad_text", f"{file} does not hold one line that names an object.")
    return uid


def _group(ref: ChunkRef, uid: str) -> int:
    """How many chunks of the dataset's numbering lie between the object's first one and this one.

    An earlier chunk that cannot be read may still be one of the object's, so it keeps its number.
    """
    group = 0
    for distance, path in enumerate(ref.earlier, start=1):
        try:
            other = _uid(path)
        except ObjectError:
            continue
        if other != uid:
            break
        group = distance
    return group
