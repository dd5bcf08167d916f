"""Transferred files: where they lie, the receipts beside them, and how a worker opens them."""

import dataclasses
import json
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from botocore.exceptions import BotoCoreError
from fsspec.implementations.local import LocalFileSystem

from pipelines.sources.digests import digest_file
from sar3d.errors import ObjectError, UserError
from sar3d.meshes.sniff import sniff

HEAD_BYTES = 512
"""How much of a file's beginning is looked at to tell what it is."""
_SPOOL = ".partial"


@dataclass(frozen=True)
class Receipt:
    """Written beside a file once it is complete; a file without one counts as absent."""

    url: str
    etag: str | None
    sha256: str
    bytes: int
    mtime_ns: int | None = None
    """Of the local file when it was written: while size and time are the same, so are the bytes."""


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of `url` and the path in it. Listings are never cached: other processes write too.

    Raises `UserError` for a URL that no installed file system understands.
    """
    try:
        fs, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except (ValueError, ImportError) as error:
        raise UserError(
            f"no file system is installed for {url!r} ({error}); give a local path or an s3:// URL"
        ) from error
    return fs, path


@contextmanager
def reachable(url: str) -> Iterator[None]:
    """Turn the errors of a file system that does not answer, or not to us, into a `UserError`."""
    try:
        yield
    except (OSError, BotoCoreError) as error:
        raise UserError(f"{url} cannot be reached ({error}); check the address and your access to it") from error


def is_local(fs: Any) -> bool:
    return isinstance(fs, LocalFileSystem)


def inside(path: str) -> PurePosixPath:
    """`path`, known to stay below the folder that it is relative to; raises `ObjectError` (`outside_folder`) else."""
    relative = PurePosixPath(path)
    if relative.is_absolute() or ".." in relative.parts or not relative.parts:
        raise ObjectError("outside_folder", f"{path!r} does not name a file below the folder of the objects")
    return relative


def join(root: str, relative: PurePosixPath | str) -> str:
    return f"{root.rstrip('/')}/{relative}"


def check_file(path: Path) -> None:
    """Raises `ObjectError` if a file is not what its name says, by its first bytes and, for a GLB, its length."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    sniff(head, path.suffix.lower())
    if path.suffix.lower() == ".glb" and len(head) >= 12:
        told = int.from_bytes(head[8:12], "little")
        if told > size:
            raise ObjectError("truncated", f"the file has {size} bytes, its GLB header says {told}")
        if told < size:
            raise ObjectError("length_mismatch", f"the file has {size} bytes, its GLB header says only {told}")


def find(root: str, path: str) -> Receipt | None:
    """The receipt of a stored file, if there is one and the file is the one that it was written for.

    A local file with another modification time than at its receipt is read and compared by SHA-256; a remote one
    by its size only, as object stores check what they are given.
    """
    fs, base = filesystem(root)
    target = join(base, inside(path))
    try:
        receipt = Receipt(**json.loads(fs.cat_file(_receipt_path(target))))
        info = fs.info(target)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        # A receipt that does not parse is one that was never finished.
        return None
    if info["size"] != receipt.bytes:
        return None
    if is_local(fs):
        file = Path(target)
        if file.stat().st_mtime_ns != receipt.mtime_ns and digest_file(file)["sha256"].hex() != receipt.sha256:
            return None
    return receipt


def publish(file: Path, root: str, path: str, receipt: Receipt) -> None:
    """Move a complete local file to its place below `root`, then write its receipt.

    Killed at any point, this leaves either the old file with its receipt, or no receipt.
    """
    fs, base = filesystem(root)
    target = join(base, inside(path))
    # The old receipt must not stand beside the new file, not even for a moment.
    with suppress(FileNotFoundError):
        fs.rm_file(_receipt_path(target))
    if is_local(fs):
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        file.replace(target)
        receipt = dataclasses.replace(receipt, mtime_ns=Path(target).stat().st_mtime_ns)
        note = file.with_suffix(".json")
        note.write_text(_encode(receipt))
        note.replace(_receipt_path(target))
    else:
        fs.put_file(str(file), target)
        fs.pipe_file(_receipt_path(target), _encode(receipt).encode())


@contextmanager
def spool(root: str, folder: str) -> Iterator[Path]:
    """A fresh local folder for a file on its way to `<root>/<folder>`, on the same disk if `root` is local."""
    fs, base = filesystem(root)
    if is_local(fs):
        path = Path(base, folder, _SPOOL, uuid.uuid4().hex)
        path.mkdir(parents=True)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
    else:
        with tempfile.TemporaryDirectory(prefix="sar3d-") as name:
            yield Path(name)


def sweep(root: str, folder: str, older_than_s: float) -> None:
    """Remove what killed transfers left in the spool; those still running are younger than `older_than_s`."""
    fs, base = filesystem(root)
    spool_folder = Path(base, folder, _SPOOL)
    if not is_local(fs) or not spool_folder.is_dir():
        return
    before = time.time() - older_than_s
    for entry in spool_folder.iterdir():
        if entry.stat().st_mtime < before:
            shutil.rmtree(entry, ignore_errors=True)


@contextmanager
def open_stored(root: str, path: str) -> Iterator[Path]:
    """A local file for a stored one: itself, or a copy that is removed again.

    Raises `ObjectError` (`missing_file`, `outside_folder`).
    """
    fs, base = filesystem(root)
    target = join(base, inside(path))
    if is_local(fs):
        if not Path(target).is_file():
            raise ObjectError("missing_file", f"{path} is no longer under {root}")
        yield Path(target)
        return
    with tempfile.TemporaryDirectory(prefix="sar3d-") as name:
        local = Path(name, PurePosixPath(path).name)
        try:
            fs.get_file(target, str(local))
        except FileNotFoundError as error:
            raise ObjectError("missing_file", f"{path} is no longer under {root}") from error
        yield local


def _receipt_path(target: str) -> str:
    return str(PurePosixPath(target).with_suffix(".json"))


def _encode(receipt: Receipt) -> str:
    return json.dumps(dataclasses.asdict(receipt), sort_keys=True)
