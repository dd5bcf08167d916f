"""The built-in objects: made on the spot, so that everything can be tried without a download."""

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar

from pydantic import Field

from pipelines.sources.base import Item, Row
from pipelines.sources.captions import CaptionedSource, CaptionsConfig
from pipelines.sources.files import Receipt, find, open_stored, publish, spool, sweep
from pipelines.sources.rows import item_of, row_of
from sar3d.procedural import MAX_COUNT, build_glb, catalogue

_FOLDER = "procedural"
_ABANDONED_AFTER_S = 600.0


@dataclass(frozen=True)
class ProceduralConfig:
    """Which of the built-in objects. What is chosen shows in the listing, so no field is an identity."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    count: Annotated[int, Field(ge=1, le=MAX_COUNT)] = field(default=64, metadata={"identity": "listing"})
    """How many objects; a larger count holds the objects of a smaller one."""
    seed: Annotated[int, Field(ge=0)] = field(default=0, metadata={"identity": "listing"})
    """Another seed gives other objects of the same kinds."""


@dataclass
class ProceduralSource(CaptionedSource):
    """Objects land at `<files_root>/procedural/<uid[:2]>/<uid>.glb`; paths are from files_root."""

    kind: ClassVar[str] = "procedural"
    config: ProceduralConfig
    files_root: str
    captions: CaptionsConfig = field(default_factory=CaptionsConfig)

    def listing(self) -> Iterator[Item]:
        sweep(self.files_root, _FOLDER, _ABANDONED_AFTER_S)
        # A uid holds the digest of the object's recipe, so it is the version too.
        for entry in catalogue(self.config.count, self.config.seed):
            yield item_of(
                entry.uid,
                f"{_FOLDER}/{entry.uid[:2]}/{entry.uid}.glb",
                entry.uid,
                name=entry.name,
                category=entry.category,
                tags=entry.tags,
                captions=entry.captions,
                licence=entry.licence,
                author=entry.author,
                source=_FOLDER,
            )

    def fetch(self, item: Item) -> Row:
        """Makes the object, and stores it unless the very same is there. Raises `ObjectError` for an unknown uid."""
        data = build_glb(item["uid"])
        sha256 = hashlib.sha256(data).hexdigest()
        stored = find(self.files_root, item["path"])
        if stored is None or stored.sha256 != sha256:
            with spool(self.files_root, _FOLDER) as folder:
                file = folder / PurePosixPath(item["path"]).name
                file.write_bytes(data)
                receipt = Receipt(url=f"{_FOLDER}:{item['uid']}", etag=None, sha256=sha256, bytes=len(data))
                publish(file, self.files_root, item["path"], receipt)
        return row_of(item, sha256, len(data))

    def open(self, path: str) -> AbstractContextManager[Path]:
        return open_stored(self.files_root, path)
