"""Files that a 3D file refers to: found in the layouts that people have, and never outside a given folder.

A reference is followed as written first. Where nothing lies there, the same name in other capitals is taken, then
what remains of the path beside the file (`C:\\work\\wood.png`, `maps/wood.png` -> `wood.png`), then `textures/`. Every
file that is not where the reference says is a warning. Parsing of the referring files is elsewhere; here are names only.
"""

import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

from sar3d.errors import ObjectError
from sar3d.meshes.limits import MeshLimits
from sar3d.meshes.warning_list import WarningList

State = Literal["file", "absent", "outside"]

_DRIVE = re.compile(r"[a-zA-Z]:")
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.\-]+:")
_LONGEST_NAME = 4096
_MOST_TAILS = 8


class Tree(Protocol):
    """What lies under one root. Names are relative to it, with slashes; "" is the root itself."""

    def state(self, name: str) -> State:
        """Whether a regular file has this name, spelled exactly so; `outside` if a link leads out of the root."""
        ...

    def names(self, folder: str) -> Sequence[str]:
        """The names in a folder, none where there is no such folder."""
        ...


@dataclass(frozen=True)
class Found:
    """A file that a reference means."""

    name: str
    """Relative to the root."""
    as_written: bool


class LocalTree:
    """A folder of this machine. Links may lead to other places in it, and, where the file that refers is itself reached
    by a link out of the root, to places in that file's own folder."""

    def __init__(self, root: Path, folder: str) -> None:
        self.root = root
        real, own = root.resolve(), (root / folder).resolve()
        self._bounds = (real,) if own.is_relative_to(real) else (real, own)
        self._listed: dict[str, Sequence[str]] = {}

    def state(self, name: str) -> State:
        try:
            path = (self.root / name).resolve()
            if not any(path.is_relative_to(bound) for bound in self._bounds):
                return "outside"
            return "file" if path.is_file() else "absent"
        except (OSError, RuntimeError, ValueError):
            return "absent"

    def names(self, folder: str) -> Sequence[str]:
        if folder not in self._listed:
            try:
                self._listed[folder] = sorted(os.listdir(self.root / folder))
            except (OSError, ValueError):
                self._listed[folder] = ()
        return self._listed[folder]


@dataclass(frozen=True)
class Reference:
    """One place in a file that names another."""

    names: Sequence[str]
    """What the name may be, the likeliest first."""
    parts: Sequence[str] = ()
    """Several names that it may be instead."""


def find_all(reference: Reference, find: Callable[[str], str]) -> tuple[list[str], ObjectError | None]:
    """(the files that a reference means, why one of them was not found), each found by `find`."""
    failure = None
    for name in reference.names:
        try:
            return [find(name)], None
        except ObjectError as error:
            failure = failure or error
    found, failures = [], [] if reference.parts else [failure]
    for part in reference.parts:
        try:
            found.append(find(part))
        except ObjectError as error:
            failures.append(error)
    return found, failures[0] if failures else None


def names_of(line: str) -> list[str]:
    """The names that a name with blanks may stand for, the likeliest first: itself, without quotes, without comment."""
    names = [line, line.strip("\"'"), line.replace("\\ ", " "), line.split(" #")[0].strip()]
    return [name for name in dict.fromkeys(names) if name]


def find_reference(tree: Tree, name: str, folders: Sequence[str]) -> Found:
    """The file that `name`, as a 3D file writes it (percent-decoded), means to a file in the first of `folders`.

    Raises ObjectError: `missing_file`, or `unsafe_uri` for what names a place outside the root or on the network and
    lies nowhere inside either.
    """
    parts, place = _parts(name)
    written = [_joined(folder, parts) for folder in folders] if place == "relative" else []
    states: set[State] = {"outside"} if None in written else set()
    for candidate in written:
        found = None if candidate is None else _found(tree, candidate, states)
        if found is not None:
            return Found(found, found == candidate)
    if place == "elsewhere" or states != {"outside"}:
        for candidate in _guesses(parts, place, folders):
            found = _found(tree, candidate, states)
            if found is not None:
                return Found(found, False)
    if place == "elsewhere":
        raise ObjectError("unsafe_uri", f"it refers to {shown(name)}, which is not a relative path")
    if "outside" in states:
        raise ObjectError("unsafe_uri", f"it refers to {shown(name)}, which lies outside its folder")
    raise ObjectError("missing_file", f"it refers to {shown(name)}, which does not exist")


def _parts(name: str) -> tuple[list[str], Literal["relative", "elsewhere"]]:
    """The parts of a path, and whether it is a relative one."""
    slashed = name.replace("\\", "/")  # written by exporters on Windows
    if slashed[:5].lower() == "file:":
        slashed = "/" + slashed[5:]
    elif _SCHEME.match(slashed) or not slashed.strip() or "\0" in slashed or len(slashed) > _LONGEST_NAME:
        return [], "elsewhere"
    absolute = slashed.startswith(("/", "~")) or _DRIVE.match(slashed) is not None
    parts = [part for part in slashed.split("/") if part not in ("", ".")]
    if absolute:
        parts = [part for part in parts if not _DRIVE.fullmatch(part)]
    return parts, "elsewhere" if absolute else "relative"


def _found(tree: Tree, name: str, states: set[State]) -> str | None:
    """`name` as it is spelled on the disk, if it is a file; what it is instead is added to `states`."""
    for spelled in _spellings(tree, name):
        state = tree.state(spelled)
        if state == "file":
            return spelled
        states.add(state)
    return None


def _guesses(parts: list[str], place: str, folders: Sequence[str]) -> Iterator[str]:
    """Where else the file may lie: what remains of the path beside the file, and folders of textures."""
    ups = [i for i, part in enumerate(parts) if part == ".."]
    tail = parts[ups[-1] + 1 :] if ups else parts
    seen = int(place == "relative" and not ups)  # the whole path was looked for already
    relative = [tail[start:] for start in range(max(seen, len(tail) - _MOST_TAILS), len(tail))]
    for rest in relative:
        # Of a bare name, the folder above may well hold another object's file.
        yield from _inside(folders, rest, *([] if len(rest) == 1 else [["..", *rest]]))
    if tail:
        yield from _inside(folders, ["textures", tail[-1]])
        packed = [folder for folder in folders if PurePosixPath(folder).name.lower() == "source"]  # by Sketchfab
        yield from _inside(packed, ["..", "textures", tail[-1]])


def _inside(folders: Sequence[str], *paths: list[str]) -> Iterator[str]:
    for folder in folders:
        for path in paths:
            joined = _joined(folder, path)
            if joined is not None:
                yield joined


def _joined(folder: str, parts: Sequence[str]) -> str | None:
    names = [part for part in folder.split("/") if part]
    for part in parts:
        if part != "..":
            names.append(part)
        elif not names:
            return None
        else:
            names.pop()
    return "/".join(names)


def _spellings(tree: Tree, name: str) -> Iterator[str]:
    """`name`, and the one name on the disk that differs from it in capitals or in how accents are composed."""
    yield name
    found = ""
    for part in name.split("/"):
        names = tree.names(found)
        same = [part] if part in names else [other for other in names if _folded(other) == _folded(part)]
        if len(same) != 1:
            return
        found = f"{found}/{same[0]}" if found else same[0]
    if found != name:
        yield found


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def folder_of(name: str) -> str:
    """The folder of a root-relative name, "" for the root."""
    return name.rpartition("/")[0]


def shown(name: str) -> str:
    return repr(name if len(name) <= 120 else name[:117] + "...")


class Beside:
    """Reads the files beside a 3D file, each once, up to the limit of bytes that the object may have in all."""

    def __init__(self, path: Path, root: Path | None, limits: MeshLimits, warnings: WarningList, size: int) -> None:
        """`root` bounds what may be opened (None: the file's own folder); `size` is that of the file itself.

        Raises ObjectError `unsafe_uri` for a file that does not lie in `root`.
        """
        folder = Path(os.path.abspath(path.parent))
        bound = folder if root is None else Path(os.path.abspath(root))
        if not folder.is_relative_to(bound):
            raise ObjectError("unsafe_uri", f"{path.name} does not lie in the folder of the objects")
        self.folder = folder_of(f"{folder.relative_to(bound).as_posix()}/".removeprefix("./"))
        self.tree = LocalTree(bound, self.folder)
        self._limits, self._warnings, self._bytes = limits, warnings, size
        self._data: dict[str, bytes] = {}

    def find(self, name: str, referrer: str | None = None) -> str:
        """The root-relative name of the file that `name` means, in the file itself or in `referrer`, one beside it.

        Raises ObjectError as `find_reference` does.
        """
        near = [] if referrer is None else [folder_of(referrer)]
        found = find_reference(self.tree, name, list(dict.fromkeys([*near, self.folder])))
        if not found.as_written:
            self._warnings.add(f"{shown(name)} is not where it should be; {shown(found.name)} was taken for it")
        return found.name

    def read(self, name: str) -> bytes:
        """The content of a file that `find` has named. Raises ObjectError `too_large`."""
        if name not in self._data:
            path = self.tree.root / name
            self._bytes += path.stat().st_size
            if self._bytes > self._limits.bytes:
                raise ObjectError("too_large", f"the file and what it refers to exceed {self._limits.bytes} bytes")
            self._data[name] = path.read_bytes()
        return self._data[name]
