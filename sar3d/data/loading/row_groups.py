"""Parquet files fetched by row group: each byte once, only the columns asked for, from any file system.

The file system sees whole byte ranges and nothing else: no read-ahead that fetches what nobody uses, and one request
per row group and run of neighboring columns, which is what object stores like.
"""

import io
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any, Generic, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from sar3d.errors import UserError

_FOOTER = 1 << 14
"""Bytes fetched from a file's end at first; what the footer needs beyond them follows."""
_MAGIC = b"PAR1"
_FETCHERS = 4

Key = tuple[int, int]
"""File, row group."""
Name = TypeVar("Name", bound=Hashable)
Loaded = TypeVar("Loaded")
_Range = tuple[int, int]


class RangeFile(io.RawIOBase):
    """A read-only file of which byte ranges are fetched whole; reads outside them fetch exactly what they need."""

    def __init__(self, system: Any, path: str, size: int, counted: Callable[[int], None]) -> None:
        self._system, self._path, self._size, self._counted = system, path, size, counted
        self._ranges: list[tuple[int, bytes]] = []
        self._place = 0

    def load(self, ranges: Iterable[_Range]) -> None:
        """Fetch these ranges of bytes (start, stop)."""
        self._ranges += [(start, self.fetch(start, stop)) for start, stop in ranges]

    def fetch(self, start: int, stop: int) -> bytes:
        content = bytes(self._system.cat_file(self._path, start=start, end=stop))
        self._counted(len(content))
        return content

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def size(self) -> int:
        return self._size

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def read(self, length: int | None = -1) -> Any:
        stop = self._size if length is None or length < 0 else min(self._size, self._place + length)
        start, self._place = self._place, max(self._place, stop)
        if stop <= start:
            return b""
        for first, content in self._ranges:
            if first <= start and stop <= first + len(content):
                return memoryview(content)[start - first : stop - first]
        return self.fetch(start, stop)


class ParquetFiles:
    """Parquet files at addresses of any kind (local paths, s3://, gs://). Picklable.

    `sizes` in bytes spares a request per file. `fetched` counts the bytes that the file system gave.
    """

    def __init__(self, files: Sequence[str | os.PathLike[str]], sizes: Sequence[int] | None = None) -> None:
        self.files = [os.fspath(file) for file in files]
        self._sizes = dict(enumerate(sizes)) if sizes is not None else {}
        self.fetched = 0
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._locks = [threading.Lock() for _ in range(64)]
        # A footer is parsed anew when its file comes up again: at scale all of them together would fill the memory.
        self._footer = lru_cache(maxsize=256)(self._read_footer)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_lock", "_locks", "_footer")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._start()

    def schema(self, file: int) -> pa.Schema:
        return self.footer(file).schema.to_arrow_schema()

    def footer(self, file: int) -> pq.FileMetaData:
        """Raises `UserError` where the file is missing or no Parquet."""
        try:
            # One thread reads a footer; others that want it wait, rather than fetch it too.
            with self._locks[file % len(self._locks)]:
                return self._footer(file)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{self.files[file]} cannot be read as Parquet ({error}): run its stage again") from error

    def read(self, key: Key, columns: Sequence[str]) -> pa.Table:
        """One row group, with these columns, each as a single chunk."""
        file, group = key
        footer = self.footer(file)
        source = self._open(file)
        try:
            source.load(_ranges(footer.row_group(group), columns))
            # Each call is already one of several threads, and the bytes are already here.
            parquet = pq.ParquetFile(source, metadata=footer, pre_buffer=False)
            table = parquet.read_row_group(group, list(columns), use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise UserError(
                f"row group {group} of {self.files[file]} cannot be read ({error}): run its stage again"
            ) from error
        return table.combine_chunks()

    def weight(self, key: Key, columns: Sequence[str]) -> int:
        """Bytes that `read` fetches."""
        return sum(stop - start for start, stop in _ranges(self.footer(key[0]).row_group(key[1]), columns))

    def _read_footer(self, file: int) -> pq.FileMetaData:
        source = self._open(file)
        size = source.size()
        end = source.fetch(max(0, size - _FOOTER), size)
        length = int.from_bytes(end[-8:-4], "little") + 8
        if end[-4:] != _MAGIC or length > size:
            raise pa.ArrowInvalid("it does not end as a Parquet file does")
        if length > len(end):
            end = source.fetch(size - length, size - len(end)) + end
        return pq.read_metadata(pa.BufferReader(end[-length:]))

    def _open(self, file: int) -> RangeFile:
        system, path = fsspec.core.url_to_fs(self.files[file])
        size = self._sizes.get(file)
        if size is None:
            size = self._sizes[file] = int(system.info(path)["size"])
        return RangeFile(system, path, size, self._count)

    def _count(self, length: int) -> None:
        with self._lock:
            self.fetched += length


def _ranges(group: pq.RowGroupMetaData, columns: Sequence[str]) -> list[_Range]:
    """Where the columns lie in the file; neighbors together."""
    wanted = set(columns)
    found: list[_Range] = []
    for i in range(group.num_columns):
        column = group.column(i)
        if column.path_in_schema.split(".")[0] not in wanted:
            continue
        start = column.data_page_offset
        if column.has_dictionary_page:
            start = min(start, column.dictionary_page_offset)
        stop = start + column.total_compressed_size
        # Writers leave a few bytes between some columns.
        if found and 0 <= start - found[-1][1] <= 256:
            found[-1] = (found[-1][0], stop)
        else:
            found.append((start, stop))
    return found


class RowGroupCache(Generic[Name, Loaded]):
    """What was loaded, by name: held while somebody needs it, then kept up to a limit of bytes, the oldest going first."""

    def __init__(self, load: Callable[[Name], tuple[Loaded, int]], keep: int) -> None:
        self._load, self._keep = load, keep
        self._lock = threading.Lock()
        self._items: dict[Name, Future[tuple[Loaded, int]]] = {}
        self._holders: dict[Name, int] = {}
        self._idle: OrderedDict[Name, int] = OrderedDict()
        self._pool = ThreadPoolExecutor(_FETCHERS, thread_name_prefix="fetch")

    def hold(self, names: Iterable[Name]) -> None:
        """Begin to load what is not there, and keep it until it is released as often as it was held."""
        with self._lock:
            for name in names:
                self._holders[name] = self._holders.get(name, 0) + 1
                self._idle.pop(name, None)
                if name not in self._items:
                    self._items[name] = self._pool.submit(self._load, name)

    def get(self, name: Name) -> Loaded:
        """Wait for what is held."""
        with self._lock:
            item = self._items[name]
        return item.result()[0]

    def release(self, names: Iterable[Name]) -> None:
        with self._lock:
            for name in names:
                self._holders[name] -= 1
                if self._holders[name]:
                    continue
                del self._holders[name]
                item = self._items[name]
                if item.done() and item.exception() is None:
                    self._idle[name] = item.result()[1]
                else:
                    item.cancel()
                    del self._items[name]
            while sum(self._idle.values()) > self._keep:
                name, _ = self._idle.popitem(last=False)
                del self._items[name]
