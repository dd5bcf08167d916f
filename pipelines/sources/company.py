"""What lies beside the 3D files of a folder: it may change alone, and has to come along from a remote folder."""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from os.path import splitext
from pathlib import Path
from typing import Any

from pipelines.sources.files import is_local, join
from sar3d.meshes.beside import LocalTree, State, folder_of
from sar3d.meshes.references import REFERRING, gather, relative_to_folder

SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl")
_PARTS = (".mtl", ".bin", ".png", ".jpg", ".jpeg", ".webp", ".avif", ".bmp", ".gif", ".tga", ".tif", ".tiff")
"""Of the folders above a 3D file, only files of these kinds can be parts of it: a manifest there may grow."""
_NO_OBJECTS = (
    *(*SUFFIXES, *_PARTS),
    *(
        ".txt",
        ".md",
        ".rst",
        ".rtf",
        ".pdf",
        ".doc",
        ".docx",
        ".html",
        ".htm",
        ".css",
        ".js",
        ".url",
        ".webloc",
        ".log",
    ),
    *(".json", ".jsonl", ".csv", ".tsv", ".xls", ".xlsx", ".parquet", ".yaml", ".yml", ".xml", ".ini", ".toml", ".npy"),
    *(".npz", ".pkl", ".h5", ".sha256", ".md5", ".psd", ".exr", ".hdr", ".ktx2", ".basis", ".dds", ".svg", ".ico"),
    *(".mp4", ".mov", ".avi", ".webm", ".wav", ".mp3", ".ogg", ".lock", ".part", ".db", ".ini", ".meta", ".gitignore"),
)
"""Kinds of files that lie beside objects and hold none. Any other kind may: the formats of 3D files are many."""


def with_company(versions: dict[str, str]) -> dict[str, str]:
    """The 3D files and their versions. Those of files that refer to others (.gltf, .obj, .ply) end in `+` and a digest
    of what may belong to them: all that lies beside and below them and is no object itself, and, in the folders above
    and in those folders' folders without objects, what may be a texture, a buffer or a material library."""
    below: dict[str, Any] = {}
    above: dict[str, Any] = {}
    objects = {folder_of(path) for path in versions if _is_object(path)}
    holders = {folder for own in objects for folder in _ancestry(own)}
    for path in sorted(versions):
        if _is_object(path):
            continue
        line = f"{path} {versions[path]}\n".encode("utf-8", "surrogatepass")
        folders = _ancestry(folder_of(path))
        for folder in folders:
            below.setdefault(folder, hashlib.sha256()).update(line)
        if path.lower().endswith(_PARTS):
            holder = next((folder for folder in folders if folder in holders), "")
            above.setdefault(holder, hashlib.sha256()).update(line)
    files = {}
    for path, version in versions.items():
        if _is_object(path):
            digest = _company(path, below, above) if path.lower().endswith(REFERRING) else ""
            files[path] = f"{version}+{digest}" if digest else version
    return files


def left_out(names: Iterable[str]) -> str:
    """How many files may hold objects that nobody reads, by kind, such as `7 .fbx, 2 .zip`; empty if there are none."""
    kinds = Counter(splitext(name.lower())[1] for name in names)
    return ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common() if kind and kind not in _NO_OBJECTS)


def _ancestry(folder: str) -> list[str]:
    """The folder, those above it, and last the root, ""."""
    found = [folder]
    while found[-1]:
        found.append(folder_of(found[-1]))
    return found


def _is_object(path: str) -> bool:
    return path.lower().endswith(SUFFIXES)


def _company(path: str, below: dict[str, Any], above: dict[str, Any]) -> str:
    own, *parents = _ancestry(folder_of(path))
    digests = [below[own].hexdigest()] if own in below else []
    digests += [above[folder].hexdigest() for folder in parents if folder in above]
    if len(digests) == 1:
        return str(digests[0][:16])
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:16] if digests else ""


def digest_with_references(root: Path, path: str, sha256: str) -> str:
    """SHA-256 of a local file's content together with that of the files it refers to; its own where it refers to none."""
    names = gather(LocalTree(root, folder_of(path)), path, root.joinpath)
    if not names:
        return sha256
    seen = sorted((relative_to_folder(name, folder_of(path)), name) for name in names)
    parts = [f"{shown} {hashlib.sha256((root / name).read_bytes()).hexdigest()}" for shown, name in seen]
    return hashlib.sha256("\n".join([sha256, *parts]).encode("utf-8", "surrogatepass")).hexdigest()


@contextmanager
def opened(fs: Any, root: str, path: str) -> Iterator[Path]:
    """The root's own local folder, or a temporary one that holds `path` and what it refers to, at the same places.

    Raises `FileNotFoundError`.
    """
    if is_local(fs):
        yield Path(root)
        return
    with tempfile.TemporaryDirectory(prefix="sar3d-") as folder:
        copies = _Copies(fs, root, Path(folder))
        copies.bring(path)
        gather(copies, path, copies.bring)
        yield Path(folder)


class _Copies:
    """A remote folder as a `Tree` whose files are copied when they are opened."""

    def __init__(self, fs: Any, root: str, folder: Path) -> None:
        self._fs, self._root, self._folder = fs, root, folder
        self._listed: dict[str, Sequence[str]] = {}

    def state(self, name: str) -> State:
        return "file" if name and self._fs.isfile(join(self._root, name)) else "absent"

    def names(self, folder: str) -> Sequence[str]:
        if folder not in self._listed:
            try:
                entries = self._fs.ls(join(self._root, folder), detail=False)
                self._listed[folder] = [entry.rstrip("/").rpartition("/")[2] for entry in entries]
            except OSError:
                self._listed[folder] = ()
        return self._listed[folder]

    def bring(self, name: str) -> Path:
        """The local copy of a file; made once."""
        local = self._folder / name
        if not local.exists():
            local.parent.mkdir(parents=True, exist_ok=True)
            self._fs.get_file(join(self._root, name), str(local))
        return local
