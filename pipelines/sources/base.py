"""What a source of objects is: a listing on the driver, a fetch on the workers, a way to open what was fetched."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

Item = dict[str, Any]
"""One listed object. JSON values only; `uid` is required. It holds everything that decides the row (path, version
token, name, category, tags, captions, licence, author ...) and nothing else: its hash tells whether the object changed.
"""

ObjectRow = dict[str, Any]
"""One row of the `objects` dataset: uid, path, sha256, bytes, name, category, tags, captions, licence, author, source,
and where there are any attributes and held_out.
"""


class Source(ABC):
    """Instances are pickled to the workers: configuration only, no open handles, no big tables."""

    kind: ClassVar[str]

    @abstractmethod
    def items(self) -> Iterator[Item]:
        """List the objects in ascending order of uid, each uid once.

        Runs on the driver only. Raises `UserError` when there is nothing to list, a uid stands twice or the
        place cannot be read.
        """

    @abstractmethod
    def fetch(self, item: Item) -> ObjectRow:
        """Bring one object within reach and describe it. Runs on a worker, many at once in threads.

        Raises `ObjectError` when this object cannot be had; nothing is stored then.
        """

    @abstractmethod
    def open(self, path: str) -> AbstractContextManager[Path]:
        """A local file for a row's `path` (files that it refers to lie in its `root_of`). Runs on a worker."""

    def root_of(self, path: str, local: Path) -> Path:
        """The local folder outside which nothing may be opened for the file `local` that `open(path)` gave."""
        return local.parent
