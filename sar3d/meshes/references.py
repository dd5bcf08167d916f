"""Which other files a .gltf, .obj, .mtl or .ply refers to, without loading it: what has to be brought along with it."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from sar3d.meshes.beside import Reference, Tree, find_all, find_reference, folder_of, names_of
from sar3d.meshes.obj import mtl

REFERRING = (".gltf", ".obj", ".ply")
"""Suffixes of 3D files that may name others: buffers, images, materials."""
_MAPS = ("map_", "bump", "disp", "decal", "refl", "norm")
_LIBRARY = re.compile(rb"^[ \t]*mtllib[ \t]+([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
_TEXTURE = re.compile(rb"^comment[ \t]+TextureFile[ \t]+([^\r\n]*)", re.IGNORECASE | re.MULTILINE)


def gather(tree: Tree, name: str, open_file: Callable[[str], Path]) -> list[str]:
    """Root-relative names of all that the file `name` refers to, directly or through its material libraries.

    `open_file` gives the local path of a file of the tree. What is not there is left out: the loader will say so. The
    names are found as the loader finds them.
    """
    found: dict[str, None] = {}
    pending = [name]
    while pending:
        referrer = pending.pop()
        folders = list(dict.fromkeys([folder_of(referrer), folder_of(name)]))
        for reference in references(open_file(referrer)):
            for file in find_all(reference, lambda part, near=folders: find_reference(tree, part, near).name)[0]:  # type: ignore[misc]
                if file not in found and file != name:
                    found[file] = None
                    pending.append(file)
    return list(found)


def references(path: Path) -> Iterator[Reference]:
    """Of a local file. One that does not parse refers to nothing: what is wrong with it is for its loader to say."""
    read = {".gltf": _gltf, ".obj": _obj, ".mtl": _mtl, ".ply": _ply}.get(path.suffix.lower())
    return iter(()) if read is None else read(path.read_bytes())


def _gltf(data: bytes) -> Iterator[Reference]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return
    for key in ("buffers", "images"):
        entries: Any = document.get(key) if isinstance(document, dict) else None
        for entry in entries if isinstance(entries, list) else ():
            uri = entry.get("uri") if isinstance(entry, dict) else None
            if isinstance(uri, str) and uri[:5].lower() != "data:":
                yield Reference([unquote(uri)])


def _obj(data: bytes) -> Iterator[Reference]:
    for line in _LIBRARY.findall(data):
        yield mtl.library_reference(line.decode("utf-8", "surrogateescape").replace("\t", " ").strip())


def _mtl(data: bytes) -> Iterator[Reference]:
    for material in mtl.read_library(data, ""):
        for keyword in material.values:
            texture = mtl.texture_reference(material, keyword) if keyword.startswith(_MAPS) else None
            if texture is not None:
                yield Reference(names_of(texture.name))


def _ply(data: bytes) -> Iterator[Reference]:
    for line in _TEXTURE.findall(data[: data.find(b"end_header") + 1]):
        yield Reference([line.decode("utf-8", "replace").strip()])


def relative_to_folder(name: str, folder: str) -> PurePosixPath:
    """A root-relative name as seen from a folder, with `..` where it lies elsewhere."""
    parts, own = PurePosixPath(name).parts, PurePosixPath(folder).parts
    shared = 0
    while shared < min(len(parts), len(own)) and parts[shared] == own[shared]:
        shared += 1
    return PurePosixPath(*[".."] * (len(own) - shared), *parts[shared:])
