"""Objaverse's index on a local disk: fetched by us, laid out for and read by the `objaverse` package."""

import gzip
import json
import os
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import objaverse

from pipelines.sources.transfer import TransferConfig, TransferError, transfer
from sar3d.errors import ObjectError, UserError

T = TypeVar("T")
Annotation = dict[str, Any]

_OBJECT_PATHS = "object-paths.json.gz"
_LVIS = "lvis-annotations.json.gz"
_BLOCK = 1 << 20
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

    def object_paths(self) -> dict[str, str]:
        """uid to the object's path in the data set."""
        paths: dict[str, str] = self._read([_OBJECT_PATHS], objaverse._load_object_paths)
        return paths

    def lvis_categories(self) -> dict[str, list[str]]:
        """LVIS category to uids."""
        categories: dict[str, list[str]] = self._read([_LVIS], objaverse.load_lvis_annotations)
        return categories

    def annotations(self, paths: dict[str, str]) -> Iterator[tuple[str, Annotation]]:
        """(uid, annotation) for the uids of `paths` (uid to path) that have one, a few metadata files at a time."""
        groups: dict[str, list[str]] = {}
        for uid, path in paths.items():
            groups.setdefault(_metadata_name(path), []).append(uid)
        names = sorted(groups)
        for start in range(0, len(names), _FILES_AT_ONCE):
            some = names[start : start + _FILES_AT_ONCE]
            uids = [uid for name in some for uid in groups[name]]
            found: dict[str, Annotation] = self._read([_OBJECT_PATHS, *some], partial(objaverse.load_annotations, uids))
            yield from found.items()

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


def _metadata_name(object_path: str) -> str:
    """`glbs/000-023/<uid>.glb` is described in `metadata/000-023.json.gz`."""
    return f"metadata/{object_path.split('/')[1]}.json.gz"


def _check(path: Path) -> None:
    if not _intact(path):
        raise ObjectError("truncated", "the body is no complete gzip file with JSON in it")


def _intact(path: Path) -> bool:
    try:
        with gzip.open(path) as file:
            json.load(file)
    except (OSError, EOFError, ValueError, zlib.error):
        return False
    return True
