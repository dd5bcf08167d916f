"""A folder of 3D files, local or on any fsspec file system, with or without a manifest."""

import hashlib
import itertools
import os
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from pipelines.runtime.inputs import folder
from pipelines.runtime.progress import log
from pipelines.sources.base import Item, ObjectRow
from pipelines.sources.captions import NAMES, CaptionedSource, CaptionsConfig, names_in
from pipelines.sources.company import SUFFIXES, digest_with_references, left_out, opened, with_company
from pipelines.sources.files import HEAD_BYTES, filesystem, inside, is_local, join, reachable
from pipelines.sources.manifest import SUFFIXES as MANIFEST_SUFFIXES
from pipelines.sources.manifest import Entry, parse_manifest
from pipelines.sources.rows import fault, item_of, raise_fault, row_of
from pipelines.sources.texts import Log
from sar3d.errors import ObjectError, UserError
from sar3d.meshes.references import REFERRING
from sar3d.meshes.sniff import sniff

_BLOCK = 1 << 20


@dataclass(frozen=True)
class DirectoryConfig:
    """A folder of .glb, .gltf, .obj, .ply and .stl files, at all depths. Names that begin with a dot are left out."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    path: str | None = folder(None)
    """The folder: a local path or any fsspec URL. Required if `source` is `directory`."""
    manifest: str | None = field(default=None, metadata={"identity": "listing"})
    """A .json, .csv or .parquet file that describes files of the folder (paths relative to it), itself named relative
    to the folder or in full. By default manifest.json, manifest.csv or manifest.parquet in the folder, if there is
    one; `none` to use none. Files that it does not name are objects all the same."""


@dataclass
class DirectorySource(CaptionedSource):
    """Reads objects where they are; nothing is copied. A row's `path` is relative to the folder."""

    kind: ClassVar[str] = "directory"
    config: DirectoryConfig
    captions: CaptionsConfig = field(default_factory=CaptionsConfig)
    log: Log = log

    @property
    def folder(self) -> str:
        if not self.config.path:
            raise UserError("download.directory.path is not set; set it to the folder that holds the 3D files")
        return self.config.path

    def listing(self) -> Iterator[Item]:
        fs, root = filesystem(self.folder)
        with reachable(self.folder):
            if not fs.isdir(root):
                raise UserError(
                    f"the folder {self.folder} does not exist or is no folder; check download.directory.path"
                )
            found = dict(_scan(root) if is_local(fs) else _find(fs, root))
        files, others = with_company(found), left_out(found)
        if not files:
            raise UserError(
                f"the folder {self.folder} holds no {', '.join(SUFFIXES)} file{others and f' but {others}'}; "
                f"{'convert or unpack them, or ' if others else ''}check download.directory.path"
            )
        if others:
            self.log(f"{self.folder}: {others} are left out; convert or unpack them to have their objects, too")
        items = [_described(entry, files) for entry in self._manifest(fs, root, files)]
        named = {item["path"] for item in items}
        items += [_described(Entry(path), files) for path in files if path not in named]
        items.sort(key=lambda item: item["uid"])
        for one, other in itertools.pairwise(items):
            if one["uid"] == other["uid"]:
                both = f"{one['path']} and {other['path']}"
                raise UserError(f"the uid {one['uid']!r} stands for both {both}; give each its own in the manifest")
        if self.captions.path:
            for item, names in zip(items, names_in([item["path"] for item in items]), strict=True):
                item[NAMES] = names
        yield from items

    def _manifest(self, fs: Any, root: str, files: dict[str, str]) -> list[Entry]:
        """What a manifest says, each file as the folder spells it. Raises `UserError`."""
        chosen = self.config.manifest
        if chosen == "none":
            return []
        if chosen is None:
            found = [f"manifest{s}" for s in MANIFEST_SUFFIXES if fs.exists(join(root, f"manifest{s}"))]
            if len(found) > 1:
                raise UserError(
                    f"{self.folder} holds {' and '.join(found)}; choose one with download.directory.manifest (or none)"
                )
            if not found:
                return []
            return self._found(fs, root, found[0], files)
        if PurePosixPath(chosen).suffix.lower() not in MANIFEST_SUFFIXES:
            raise UserError(f"download.directory.manifest is {chosen!r}; give a .json, .csv or .parquet file")
        if "://" not in chosen and not os.path.isabs(chosen):
            beside = join(root, chosen)
        else:
            fs, beside = filesystem(chosen)
        try:
            data = fs.cat_file(beside)
        except OSError as error:
            raise UserError(f"the manifest {chosen} cannot be opened; check download.directory.manifest") from error
        return _matched(parse_manifest(data, chosen, self.log), files)

    def _found(self, fs: Any, root: str, name: str, files: dict[str, str]) -> list[Entry]:
        """What a manifest says that nobody named: many programs call files of theirs so."""
        ignore = "if it does not describe these objects, set download.directory.manifest=none"
        try:
            entries = _matched(parse_manifest(fs.cat_file(join(root, name)), name, self.log), files)
        except OSError as error:
            raise UserError(f"the manifest {name} cannot be opened; make it readable, or {ignore[3:]}") from error
        except UserError as error:
            raise UserError(f"{error}; {ignore}") from error
        if entries and not any(entry.file in files for entry in entries):
            raise UserError(f"the manifest {name} names no file of the folder (but {entries[0].file!r}); {ignore}")
        return entries

    def fetch(self, item: Item) -> ObjectRow:
        """Raises `ObjectError`: the kinds of `sniff`, `missing_file`, `unreadable`, `changed`, `checksum` and what the
        listing found (`unsupported_format`, `outside_folder`, `unusable_name`)."""
        raise_fault(item)
        fs, root = filesystem(self.folder)
        path = item["path"]
        target = join(root, inside(path))
        try:
            before = _version(fs, target)
            size, sha256, head = _read(fs, target)
            after = _version(fs, target)
        except FileNotFoundError as error:
            raise ObjectError("missing_file", f"{path} has vanished since the folder was listed") from error
        except PermissionError as error:
            raise ObjectError("unreadable", f"{path} may not be read; check its permissions") from error
        except OSError as error:
            raise ObjectError("unreadable", f"{path} cannot be read ({error.strerror or error})") from error
        if not before == after == item["version"].partition("+")[0]:
            raise ObjectError("changed", f"{path} has changed since the folder was listed; run the stage again")
        sniff(head, PurePosixPath(path).suffix.lower())
        if item["expected_sha256"] and item["expected_sha256"] != sha256:
            raise ObjectError("checksum", f"{path} does not have the SHA-256 that the manifest gives")
        if path.lower().endswith(REFERRING):
            with opened(fs, root, path) as folder:
                sha256 = digest_with_references(folder, path, sha256)
        return row_of(item, sha256, size)

    @contextmanager
    def open(self, path: str) -> Iterator[Path]:
        fs, root = filesystem(self.folder)
        relative = inside(path).as_posix()
        with ExitStack() as stack:
            try:
                local = stack.enter_context(opened(fs, root, relative)) / relative
            except FileNotFoundError:
                local = None
            if local is None or not local.is_file():
                raise ObjectError("missing_file", f"{path} is no longer in {self.folder}")
            yield local

    def root_of(self, path: str, local: Path) -> Path:
        """The folder itself, or where `open` has laid out a part of it."""
        return local.parents[len(inside(path).parts) - 1]


def _scan(root: str) -> Iterator[tuple[str, str]]:
    """(relative path, version) of the files below a local folder. Links are followed, into no folder twice."""
    pending, visited = [""], set()
    while pending:
        prefix = pending.pop()
        folder = os.path.join(root, prefix)
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir():
                        pending.append(f"{prefix}{entry.name}/")
                    else:
                        yield prefix + entry.name, _local_version(entry)
        except OSError as error:
            raise UserError(f"the folder {folder} cannot be listed ({error.strerror}); make it readable") from error


def _local_version(entry: "os.DirEntry[str]") -> str:
    try:
        status = entry.stat()
    except FileNotFoundError:
        # A link to nothing, or a file that went between the listing and the look: fetching it will say so.
        return "missing"
    return f"{status.st_size}-{status.st_mtime_ns}"


def _find(fs: Any, root: str) -> Iterator[tuple[str, str]]:
    """(relative path, version) of the files below a remote folder."""
    base = root.rstrip("/") + "/"
    for path, info in fs.find(root, detail=True).items():
        relative = path.removeprefix(base)
        if not any(p.startswith(".") for p in relative.split("/")):
            yield relative, _remote_version(info)


def _remote_version(info: dict[str, Any]) -> str:
    changed = next((info[k] for k in ("ETag", "etag", "md5Hash", "mtime", "LastModified") if info.get(k)), "")
    return f"{info['size']}-{str(changed).strip(chr(34))}"


def _version(fs: Any, target: str) -> str:
    if is_local(fs):
        status = os.stat(target)
        if not stat.S_ISREG(status.st_mode):
            raise ObjectError("unreadable", f"{target} is no regular file")
        return f"{status.st_size}-{status.st_mtime_ns}"
    return _remote_version(fs.info(target))


def _read(fs: Any, target: str) -> tuple[int, str, bytes]:
    """Size, SHA-256 in hex and first bytes of a file."""
    digest, size, head = hashlib.sha256(), 0, b""
    with fs.open(target, "rb") as file:
        while block := file.read(_BLOCK):
            head = head or block[:HEAD_BYTES]
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest(), head


def _matched(entries: list[Entry], files: dict[str, str]) -> list[Entry]:
    """The entries, each under its file's name as the folder spells it.

    Archives carry accents composed or decomposed, and manifests written on Windows have backslashes.
    """
    if all(entry.file in files for entry in entries):
        return entries
    spelled = {unicodedata.normalize("NFC", path): path for path in files}
    matched = []
    for entry in entries:
        name = unicodedata.normalize("NFC", entry.file.replace("\\", "/"))
        matched.append(entry if entry.file in files else replace(entry, file=spelled.get(name, entry.file)))
    return matched


def _described(entry: Entry, files: dict[str, str]) -> Item:
    path, extra = entry.file, {}
    version = files.get(path)
    # Names that are not UTF-8 reach Python with surrogates, which neither JSON nor Parquet can hold.
    raw = path.encode("utf-8", "surrogatepass")
    if version is None:
        extra = _absence(entry)
    elif path != raw.decode("utf-8", "ignore"):
        path = os.fsencode(path).decode("utf-8", "backslashreplace")
        extra = fault("unusable_name", f"the name of {path} is not valid UTF-8; rename it")
    uid = entry.uid or hashlib.sha256(raw).hexdigest()
    return item_of(
        uid,
        path,
        version,
        name=entry.name,
        category=entry.category,
        tags=entry.tags,
        captions=entry.captions,
        licence=entry.licence,
        author=entry.author,
        source=entry.source,
        expected_sha256=entry.sha256,
        **extra,
    )


def _absence(entry: Entry) -> dict[str, Any]:
    """The fault of a manifest's row that matches no listed file."""
    try:
        suffix = inside(entry.file).suffix.lower()
    except ObjectError as error:
        return fault(error.kind, error.reason)
    if suffix not in SUFFIXES:
        return fault("unsupported_format", f"{entry.file} is none of {', '.join(SUFFIXES)}; convert it")
    return fault("missing_file", f"the manifest names {entry.file}, which is not in the folder")
