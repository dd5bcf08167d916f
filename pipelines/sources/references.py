"""Which other files a mesh file refers to by name (buffers, images, materials)."""

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

_MAPS = ("map_", "bump", "disp", "decal", "refl", "norm")


def references(path: Path) -> list[PurePosixPath]:
    """Relative names in a local .gltf, .obj or .mtl that lie at or below the file's own folder; others are left out.

    A file that does not parse refers to nothing: what is wrong with it is for its loader to say.
    """
    read = {".gltf": _gltf, ".obj": _obj, ".mtl": _mtl}.get(path.suffix.lower())
    names = dict.fromkeys(read(path)) if read else {}
    found = (PurePosixPath(name.replace("\\", "/")) for name in names if ":" not in name and "\0" not in name)
    return [name for name in found if name.parts and not name.is_absolute() and ".." not in name.parts]


def closure(path: Path) -> list[PurePosixPath]:
    """What a local file refers to, and what that refers to, as names relative to its folder, sorted; only what exists."""
    found: set[PurePosixPath] = set()
    pending = [path]
    while pending:
        referrer = pending.pop()
        for name in references(referrer):
            target = referrer.parent / name
            relative = PurePosixPath(target.relative_to(path.parent).as_posix())
            if relative not in found and target.is_file():
                found.add(relative)
                pending.append(target)
    return sorted(found)


def _gltf(path: Path) -> Iterator[str]:
    try:
        document = json.loads(path.read_bytes())
    except ValueError:
        return
    for key in ("buffers", "images"):
        entries: Any = document.get(key) if isinstance(document, dict) else None
        for entry in entries if isinstance(entries, list) else ():
            uri = entry.get("uri") if isinstance(entry, dict) else None
            if isinstance(uri, str) and not uri.startswith("data:"):
                yield unquote(uri)


def _obj(path: Path) -> Iterator[str]:
    for words in _lines(path, "mtllib"):
        # A name may hold spaces, and a line several names: whichever is meant is the one that exists.
        yield from {" ".join(words), *words}


def _mtl(path: Path) -> Iterator[str]:
    for words in _lines(path, *_MAPS):
        yield from {" ".join(words), words[-1]}


def _lines(path: Path, *starts: str) -> Iterator[list[str]]:
    """The words after the first of each line whose first word begins with one of `starts`."""
    wanted = tuple(start.encode() for start in starts)
    with path.open("rb") as file:
        for line in file:
            if line.lstrip().lower().startswith(wanted):
                words = line.decode("utf-8", "replace").split()[1:]
                if words:
                    yield words
