"""The procedural world: its objects are made where they are needed, and no file of them is kept."""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar

from pydantic import Field

from pipelines.runtime.progress import log
from pipelines.sources.base import Item, ObjectRow
from pipelines.sources.captions import CaptionedSource, CaptionsConfig
from pipelines.sources.rows import item_of, row_of
from pipelines.sources.texts import Log
from sar3d.procedural import MAX_COUNT, HeldOutObjects, build_glb, describe, listing

_FOLDER = "procedural"


@dataclass(frozen=True)
class ProceduralConfig:
    """Which objects of the procedural world. What is chosen shows in the listing, so no field is an identity."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    count: Annotated[int, Field(ge=1, le=MAX_COUNT)] = field(default=64, metadata={"identity": "listing"})
    """How many objects; a larger count holds the objects of a smaller one."""
    seed: Annotated[int, Field(ge=0)] = field(default=0, metadata={"identity": "listing"})
    """Another seed gives another world of the same families."""
    held_out: HeldOutObjects = field(default_factory=HeldOutObjects, metadata={"identity": "listing"})
    """Combinations of attributes that no training reads; the column `held_out` says which objects they are."""


@dataclass
class ProceduralSource(CaptionedSource):
    """An object's path is `procedural/<uid>.glb`: a name, from which `open` makes the file anew."""

    kind: ClassVar[str] = "procedural"
    config: ProceduralConfig
    captions: CaptionsConfig = field(default_factory=CaptionsConfig)
    log: Log = log

    def listing(self) -> Iterator[Item]:
        # All else follows from the uid, and is worked out by whoever fetches the object: ten million items stay small.
        room: Item = {"captions": []} if self.captions.path else {}
        for uid, held_out in listing(self.config.count, self.config.seed, self.config.held_out):
            yield {"uid": uid, "held_out": held_out, **room} if held_out else {"uid": uid, **room}

    def fetch(self, item: Item) -> ObjectRow:
        """Makes the object and describes it. Raises `ObjectError` for an unknown uid."""
        about, data = describe(item["uid"]), build_glb(item["uid"])
        whole = item_of(
            about.uid,
            f"{_FOLDER}/{about.uid}.glb",
            about.uid,
            name=about.name,
            category=about.category,
            tags=about.tags,
            captions=[*about.captions, *item.get("captions", ())],
            licence=about.license,
            author=about.author,
            source=_FOLDER,
            attributes=about.attributes,
            held_out=item.get("held_out"),
        )
        return row_of(whole, hashlib.sha256(data).hexdigest(), len(data))

    @contextmanager
    def open(self, path: str) -> Iterator[Path]:
        """The object's file in a temporary folder. Raises `ObjectError` for an unknown uid."""
        name = PurePosixPath(path)
        with tempfile.TemporaryDirectory(prefix="sar3d-") as folder:
            file = Path(folder, name.name)
            file.write_bytes(build_glb(name.stem))
            yield file
