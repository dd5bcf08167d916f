"""Objaverse's index on a local disk: fetched by us, laid out for and read by the `objaverse` package."""

import gzip
import json
import os
import threading
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import objaverse

from pipelines.sources.transfer import TransferConfig, TransferError, transfer
from sar3d.errors import ObjectError, UserError

T = TypeVar("T")
Essence = dict[str, Any]
"""name, tags, category (the first of Sketchfab's), licence, author, source: as in an item."""

_OBJECT_PATHS = "object-paths.json.gz"
_LVIS = "lvis-annotations.json.gz"
_BLOCK = 1 << 20
_ESSENCE_VERSION = 1
"""Raised when `_essence` changes."""
_FILES_AT_ONCE = 8
"""Metadata files read together: few enough for memory (each holds some 5,000 long annotations) and for the package to
show no progress bar, many enough that the object paths, which it reads anew each time, cost little."""

_package = threading.Lock()


class ObjaverseIndex:
    """The parts of the index that are asked for, fetched when they are missing or broken.

    `mirror` is the URL that serves the data set's files under their own names, `cache` a local folder. All methods
    raise `UserError` if a part can neither be read nor fetched.
    """

    def __init__(self, mirror: str, cache: Path, config: TransferConfig) -> None:
        self._mirror = mirror.rstrip("/")
        self._cache = cache
        self._config = config

    @cached_property
    def object_paths(self) -> dict[str, str]:
        """uid to the object's path in the data set, `glbs/<folder>/<uid>.glb`."""
        paths = self._read([_OBJECT_PATHS], objaverse._load_object_paths)
        if not isinstance(paths, dict) or not all(isinstance(p, str) and p.count("/") == 2 for p in paths.values()):
            raise UserError(f"{self._mirror}/{_OBJECT_PATHS} is not Objaverse's index; check download.objaverse.mirror")
        return paths

    def lvis_categories(self) -> dict[str, list[str]]:
        """LVIS category to uids."""
        categories: dict[str, list[str]] = self._read([_LVIS], objaverse.load_lvis_annotations)
        return categories

    def essences(self, uids: Iterable[str]) -> dict[str, Essence]:
        """What is kept of the annotations of `uids`, for those that have one.

        Objaverse's annotations are some 3 GB of JSON, nearly all of it thumbnails: what is needed of a metadata file is
        written down beside it when it is first read, so that the next listing takes seconds.
        """
        wanted = set(uids)
        names = sorted({_metadata_name(self.object_paths[uid]) for uid in wanted})
        found: dict[str, Essence] = {}
        unread = []
        for name in names:
            kept = self._recall(name)
            if kept is None:
                unread.append(name)
            else:
                found |= {uid: kept[uid] for uid in kept.keys() & wanted}
        for start in range(0, len(unread), _FILES_AT_ONCE):
            for kept in self._digest(unread[start : start + _FILES_AT_ONCE]):
                found |= {uid: kept[uid] for uid in kept.keys() & wanted}
        return found

    def _digest(self, names: list[str]) -> list[dict[str, Essence]]:
        """Read whole metadata files through the package; keep and write down the essence of each."""
        files: dict[str, list[str]] = {name: [] for name in names}
        for uid, path in self.object_paths.items():
            if (name := _metadata_name(path)) in files:
                files[name].append(uid)
        everything = [uid for uids in files.values() for uid in uids]
        annotations = self._read([_OBJECT_PATHS, *names], partial(objaverse.load_annotations, everything))
        digests = []
        for name, uids in files.items():
            kept = {uid: _essence(annotations[uid]) for uid in uids if uid in annotations}
            target = self._essence_path(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            new = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}")
            new.write_text(json.dumps({"of": self._stamp(name), "objects": kept}))
            new.replace(target)
            digests.append(kept)
        return digests

    def _recall(self, name: str) -> dict[str, Essence] | None:
        """What was written down of a metadata file; None if nothing was, or the file has changed since."""
        try:
            known = json.loads(self._essence_path(name).read_text())
            objects: dict[str, Essence] = known["objects"]
            return objects if known["of"] == self._stamp(name) else None
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def _essence_path(self, name: str) -> Path:
        return self._cache / "essence" / name.removesuffix(".gz")

    def _stamp(self, name: str) -> list[int]:
        status = (self._cache / name).stat()
        return [status.st_size, status.st_mtime_ns, _ESSENCE_VERSION]

    def _read(self, names: Iterable[str], read: Callable[[], T]) -> T:
        """Call a function of the package once all the files that it opens are there; once more if one is broken."""
        names = list(names)
        self._bring([name for name in names if not (self._cache / name).exists()])
        try:
            return self._call(read)
        except (OSError, EOFError, ValueError, zlib.error):
            broken = [name for name in names if not _intact(self._cache / name)]
        self._bring(broken)
        try:
            return self._call(read)
        except (OSError, EOFError, ValueError, KeyError, zlib.error) as error:
            raise UserError(
                f"the Objaverse index in {self._cache} cannot be read ({error}); remove that folder"
            ) from error

    def _call(self, read: Callable[[], T]) -> T:
        with _package, _pointed_at(self._cache):
            return read()

    def _bring(self, names: list[str]) -> None:
        with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
            list(pool.map(self._bring_one, names))

    def _bring_one(self, name: str) -> None:
        try:
            transfer(f"{self._mirror}/{name}", self._cache / name, self._config, _check)
        except TransferError as error:
            raise UserError(
                f"the Objaverse index is out of reach: {error.reason}; check download.objaverse.mirror"
            ) from error


@contextmanager
def _pointed_at(cache: Path) -> Iterator[None]:
    """Have the package read below `cache`: it fixes its folder when it is imported."""
    before = objaverse._VERSIONED_PATH
    objaverse._VERSIONED_PATH = os.fspath(cache)
    try:
        yield
    finally:
        objaverse._VERSIONED_PATH = before


def _essence(annotation: dict[str, Any]) -> Essence:
    return {
        "name": annotation.get("name"),
        "tags": _names(annotation.get("tags")),
        "category": next(iter(_names(annotation.get("categories"))), None),
        "licence": annotation.get("license"),
        "author": (annotation.get("user") or {}).get("username"),
        "source": annotation.get("viewerUrl"),
    }


def _names(entries: Any) -> list[str]:
    return [name for entry in entries or () if (name := (entry or {}).get("name"))]


def _metadata_name(object_path: str) -> str:
    """`glbs/000-023/<uid>.glb` is described in `metadata/000-023.json.gz`."""
    return f"metadata/{object_path.split('/')[1]}.json.gz"


def _check(path: Path) -> None:
    """The checksum at the end of a gzip file says whether all of it has come."""
    try:
        with gzip.open(path) as file:
            while file.read(_BLOCK):
                pass
    except (OSError, EOFError, zlib.error) as error:
        raise ObjectError("truncated", "the body is no complete gzip file") from error


def _intact(path: Path) -> bool:
    try:
        with gzip.open(path) as file:
            json.load(file)
    except (OSError, EOFError, ValueError, zlib.error):
        return False
    return True
