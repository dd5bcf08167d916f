"""The child's side of `load_found`: it parses what strangers wrote, and answers with arrays."""

import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sar3d.errors import ObjectError
from sar3d.isolation import Json
from sar3d.meshes import MeshLimits
from sar3d.meshes.load import load_scene
from sar3d.meshes.worker import pack_scene
from sar3d.splats.worker import pack_splats, read_file

PICTURES = 24
"""Pictures that are taken of a longer film or folder, spread evenly."""
_PIXELS = 4096 * 4096
_PARTS = (".obj", ".mtl", ".png", ".jpg", ".jpeg")
"""Files of an archive that are unpacked."""


def handle(request: Json, blobs: list[bytes]) -> tuple[Json, list[Any]]:
    """Read one file; what is sent back depends on `kind`."""
    path = Path(request["path"])
    if request["kind"] == "splats":
        return pack_splats(read_file(path))
    if request["kind"] == "pictures":
        pictures = np.ascontiguousarray(_folder(path) if path.is_dir() else _film(path))
        return {"shape": list(pictures.shape[:3])}, [pictures.data.cast("B")]
    limits = MeshLimits(**request["limits"])
    # Loaders that are told y points up leave coordinates as the file has them.
    if path.suffix.lower() != ".zip":
        return pack_scene(load_scene(path, Path(request["root"]) if request["root"] else None, limits))
    with tempfile.TemporaryDirectory() as folder:
        return pack_scene(load_scene(_unpacked(path, Path(folder), limits), limits=limits))


def _unpacked(archive: Path, folder: Path, limits: MeshLimits) -> Path:
    """The one mesh of a zip archive, unpacked beside its material and pictures."""
    try:
        with zipfile.ZipFile(archive) as opened:
            parts = [i for i in opened.infolist() if Path(i.filename).suffix.lower() in _PARTS and not i.is_dir()]
            if sum(i.file_size for i in parts) > limits.bytes:
                raise ObjectError("too_large", f"the archive holds more than {limits.bytes} bytes")
            for part in parts:
                opened.extract(part, folder)  # which keeps to the folder
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as error:
        raise ObjectError("bad_archive", f"{archive.name} cannot be unpacked ({error})") from error
    meshes = sorted(folder.rglob("*.obj"))
    if len(meshes) != 1:
        raise ObjectError("bad_archive", f"{archive.name} holds {len(meshes)} .obj files, not one")
    return meshes[0]


def _spread(count: int) -> NDArray[np.int64]:
    return np.unique(np.arange(PICTURES) * count // PICTURES) if count else np.zeros(0, np.int64)


def _folder(path: Path) -> NDArray[np.uint8]:
    """(V, H, W, 3) pictures of a folder in the order of their names."""
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg"))
    pictures = [_picture(files[i]) for i in _spread(len(files))]
    return _stacked(pictures, path)


def _picture(file: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(file) as image:
            if image.width * image.height > _PIXELS:
                raise ObjectError("picture_too_large", f"{file.name} has more than {_PIXELS:,} pixels")
            rgba = image.convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ObjectError("bad_picture", f"{file.name} is no picture ({error})") from error
    white = Image.new("RGBA", rgba.size, "white")
    return np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))


def _film(path: Path) -> NDArray[np.uint8]:
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            if stream.width * stream.height > _PIXELS:
                raise ObjectError("picture_too_large", f"{path.name} has more than {_PIXELS:,} pixels a frame")
            count = sum(1 for _ in container.decode(stream))
        wanted = set(_spread(count).tolist())
        with av.open(str(path)) as container:
            frames = enumerate(container.decode(container.streams.video[0]))
            pictures = [frame.to_ndarray(format="rgb24") for i, frame in frames if i in wanted]
    except (av.FFmpegError, IndexError, OSError) as error:
        raise ObjectError("bad_picture", f"{path.name} is no film that can be read ({error})") from error
    return _stacked(pictures, path)


def _stacked(pictures: list[NDArray[np.uint8]], path: Path) -> NDArray[np.uint8]:
    if not pictures:
        raise ObjectError("no_pictures", f"{path.name} holds no pictures")
    if len({p.shape for p in pictures}) > 1:
        raise ObjectError("bad_picture", f"the pictures of {path.name} differ in size")
    return np.stack(pictures)
