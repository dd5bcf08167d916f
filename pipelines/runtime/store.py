"""One root, on a file system or an object store, behind the few operations that commits need.

The two worlds differ in what is atomic. A file system renames and links; an object store has neither, but can refuse
a PUT when the key exists. `create` (first writer wins) is the one primitive that both have, and every decision that
two processes could both take (a shard's record, a lease, a plan) goes through it.
"""

import contextlib
import errno
import os
import posixpath
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec

from sar3d.errors import UserError

_CONFLICT_SECONDS = 10.0
"""How long an object store may say that another request for the same name is on its way."""


def is_remote(url: str) -> bool:
    return "://" in url and not url.startswith("file://")


def join(url: str, *parts: str) -> str:
    return "/".join([url.rstrip("/"), *[p.strip("/") for p in parts]])


@contextmanager
def disk_errors(url: str) -> Iterator[None]:
    """Turn what a full, missing or read-only place raises into one sentence."""
    try:
        yield
    except FileExistsError:
        raise
    except Exception as error:
        if not isinstance(error, OSError):
            # Clients of object stores have exceptions of their own (no credentials, no connection).
            if is_remote(url) and type(error).__module__.split(".")[0] in ("botocore", "aiohttp", "google", "gcsfs"):
                raise UserError(f"cannot reach {url}: {error}") from error
            raise
        if isinstance(error, FileNotFoundError) and not is_remote(url):
            raise
        reasons = {
            errno.ENOSPC: "no space is left there; free some and run the same command again",
            errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
            errno.EROFS: "it is on a read-only file system; choose another root",
            errno.EACCES: "permission is denied; choose another root or change its permissions",
            errno.EPERM: "permission is denied; choose another root or change its permissions",
            errno.ENOTDIR: "a part of the path is a file, not a folder; choose another root",
        }
        reason = reasons.get(error.errno or 0)
        if reason is None and not is_remote(url):
            raise
        raise UserError(f"cannot write under {url}: {reason or error}") from error


@contextmanager
def reading(url: str) -> Iterator[None]:
    """The same for reads, where a missing file is the caller's affair."""
    try:
        with disk_errors(url):
            yield
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise error.__cause__ from None
        raise


class Store:
    """Files under one root URL, named by relative POSIX paths. Picklable; safe to use from several threads."""

    def __init__(self, url: str) -> None:
        self.url = url.removeprefix("file://").rstrip("/") or "/"
        self.local = not is_remote(self.url)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Store, (self.url,))

    def at(self, *parts: str) -> "Store":
        return Store(join(self.url, *parts))

    @cached_property
    def _remote(self) -> tuple[Any, str]:
        # Listings must be true now: other processes write here.
        try:
            fs, base = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise UserError(f"cannot use {self.url}: {str(error).strip().splitlines()[0]}") from error
        return fs, base

    def _key(self, name: str) -> str:
        """The remote key; an object store does not know `..`, by which one output names another's shard."""
        return posixpath.normpath(f"{self._remote[1]}/{name}")

    def path(self, name: str) -> Path:
        assert self.local, f"{self.url} is not a local folder"
        return Path(self.url, name)

    def address(self, name: str) -> str:
        """What any other program calls this file."""
        if self.local:
            return os.path.normpath(self.path(name))
        scheme, _, place = self.url.partition("://")
        return f"{scheme}://{posixpath.normpath(f'{place}/{name}')}"

    def read(self, name: str) -> bytes | None:
        """The whole content, or None where there is no such file."""
        try:
            if self.local:
                return self.path(name).read_bytes()
            with reading(self.url):
                return bytes(self._remote[0].cat_file(self._key(name)))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def exists(self, name: str) -> bool:
        if self.local:
            return self.path(name).exists()
        with reading(self.url):
            return bool(self._remote[0].exists(self._key(name)))

    def put(self, name: str, data: bytes) -> None:
        """Write or replace, atomically: a reader sees the old content or the new."""
        with disk_errors(self.url):
            if not self.local:
                fs, _ = self._remote
                fs.pipe_file(self._key(name), data)
                return
            temporary = self._write_beside(name, data)
            os.replace(temporary, self.path(name))
            _sync_folder(self.path(name).parent)

    def create(self, name: str, data: bytes) -> bool:
        """Write only if there is no such file; False if there was one. Of several at once exactly one gets True, as long as
        what they write differs."""
        with disk_errors(self.url):
            if not self.local:
                return self._create_remote(name, data)
            temporary = self._write_beside(name, data)
            try:
                os.link(temporary, self.path(name))
            except FileExistsError:
                return False
            finally:
                os.unlink(temporary)
            _sync_folder(self.path(name).parent)
            return True

    def _create_remote(self, name: str, data: bytes) -> bool:
        """A request whose answer is lost is sent again by the client and then refused because of itself: what is there
        tells whose it is."""
        deadline = time.monotonic() + _CONFLICT_SECONDS
        while True:
            try:
                self._remote[0].pipe_file(self._key(name), data, mode="create")
            except FileExistsError:
                return self.read(name) == data
            except OSError as error:
                if "ConditionalRequestConflict" in str(error) and time.monotonic() < deadline:
                    time.sleep(0.2)  # another request for this name is on its way
                elif "PreconditionFailed" in str(error) or "ConditionalRequestConflict" in str(error):
                    return self.read(name) == data
                else:
                    raise
            else:
                return True

    def upload(self, source: Path, name: str) -> None:
        """Move a finished local file to its place (a rename where `source` is on the same file system)."""
        with disk_errors(self.url):
            if not self.local:
                fs, _ = self._remote
                fs.put_file(str(source), self._key(name))
                source.unlink()
                return
            target = self.path(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            _sync_file(source)
            try:
                os.rename(source, target)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                beside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
                shutil.copyfile(source, beside)
                _sync_file(beside)
                os.rename(beside, target)
                source.unlink()
            _sync_folder(target.parent)

    def download(self, name: str, target: Path) -> None:
        """Copy a file of the store to a local path. Raises `FileNotFoundError` where there is none."""
        if self.local:
            shutil.copyfile(self.path(name), target)
            return
        with reading(self.url):
            fs, _ = self._remote
            fs.get_file(self._key(name), str(target))

    def rename(self, old: str, new: str) -> None:
        """File systems only."""
        with disk_errors(self.url):
            os.rename(self.path(old), self.path(new))
            _sync_folder(self.path(new).parent)

    def link(self, old: str, new: str) -> bool:
        """Give a committed file a second name without copying it; False where that cannot be done."""
        if not self.local:
            return False
        try:
            self.path(new).parent.mkdir(parents=True, exist_ok=True)
            os.link(self.path(old), self.path(new))
        except FileExistsError:
            return True
        except OSError:
            return False
        return True

    def names(self, folder: str = "") -> list[str]:
        """Every file below `folder`, sorted, relative to the root."""
        if self.local:
            top = self.path(folder)
            found = (Path(d, f) for d, _, files in os.walk(top) for f in files)
            return sorted(p.relative_to(self.url).as_posix() for p in found)
        fs, base = self._remote
        prefix = f"{base}/{folder}".rstrip("/")
        return sorted(str(p)[len(base) + 1 :] for p in fs.find(prefix))

    def folders(self) -> list[str]:
        """The folders directly in the root, sorted."""
        if self.local:
            top = Path(self.url)
            return sorted(p.name for p in top.iterdir() if p.is_dir()) if top.is_dir() else []
        fs, base = self._remote
        try:
            listed = fs.ls(base, detail=True)
        except FileNotFoundError:
            return []
        return sorted(str(e["name"]).rstrip("/").rsplit("/", 1)[-1] for e in listed if e["type"] == "directory")

    def size(self, name: str) -> int:
        if self.local:
            return self.path(name).stat().st_size
        fs, _ = self._remote
        return int(fs.size(self._key(name)))

    def delete(self, names: list[str]) -> None:
        if not names:
            return
        if not self.local:
            fs, _ = self._remote
            fs.rm([self._key(n) for n in names])
            return
        for name in names:
            self.path(name).unlink(missing_ok=True)

    def prune(self) -> None:
        """Remove the empty folders of a file system, from the bottom up, the root of this store among them."""
        if self.local:
            for folder, _, _ in os.walk(self.url, topdown=False):
                with contextlib.suppress(OSError):  # not empty
                    os.rmdir(folder)

    def _write_beside(self, name: str, data: bytes) -> Path:
        target = self.path(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}.{uuid.uuid4().hex[:8]}")
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        return temporary


def _sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
