"""Stage `download`: bring objects within reach and describe them (the `objects` dataset)."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from pipelines.runtime.output import Failure, Output
from pipelines.runtime.plan import Item
from pipelines.runtime.stage import Context, Row, Say, Stage
from pipelines.runtime.store import is_remote, join
from pipelines.sources.base import Source
from pipelines.sources.config import DownloadConfig, make_source
from sar3d.errors import ObjectError

OBJECTS = pa.schema(
    [
        pa.field("uid", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False, metadata={"about": "relative to the source"}),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("name", pa.string()),
        pa.field("category", pa.string()),
        pa.field("tags", pa.list_(pa.string())),
        pa.field("captions", pa.list_(pa.string())),
        pa.field("licence", pa.string()),
        pa.field("author", pa.string()),
        pa.field("source", pa.string()),
    ]
)


def source_of(config: Any) -> Source:
    """The source of a whole configuration's objects."""
    return make_source(config.download, join(config.root, "download", "files"))


class DownloadStage(Stage[DownloadConfig]):
    name = "download"
    version = 1
    about = "list the objects of a source, transfer what is not here yet, check and describe it"

    def identity(self, context: Context[DownloadConfig]) -> Any:
        # Which objects are chosen shows in the listing; how one becomes a row depends on the kind of source alone.
        return {"source": context.config.source}

    def items(self, context: Context[DownloadConfig], say: Say) -> Iterable[Item]:
        return source_of(context.everything).items()

    def schema(self, context: Context[DownloadConfig]) -> pa.Schema:
        return OBJECTS

    def process(self, context: Context[DownloadConfig], items: list[Item]) -> Iterator[Row | Failure]:
        source = source_of(context.everything)

        def fetch(item: Item) -> Row | Failure:
            try:
                return source.fetch(item)
            except ObjectError as error:
                attempts = getattr(error, "attempts", 1)
                path = str(item.get("path", ""))
                return Failure(item["uid"], path, self.name, error.kind, error.reason, attempts, error.stderr)

        with ThreadPoolExecutor(context.config.concurrency, thread_name_prefix="fetch") as pool:
            yield from pool.map(fetch, items)

    def places(self, context: Context[DownloadConfig]) -> list[str]:
        return local_places(context.everything)

    def summary(self, context: Context[DownloadConfig], output: Output) -> dict[str, float]:
        from pipelines.runtime.reading import read_rows

        totals = {"objects_without_caption": 0, "captions": 0, "bytes": 0}
        for row in read_rows(output, ["captions", "bytes"]):
            totals["objects_without_caption"] += not row["captions"]
            totals["captions"] += len(row["captions"] or [])
            totals["bytes"] += row["bytes"]
        return {k: float(v) for k, v in totals.items()}


def local_places(config: Any) -> list[str]:
    """The source's local folder, which every node must see."""
    path = config.download.directory.path
    return [path] if config.download.source == "directory" and path and not is_remote(path) else []


if __name__ == "__main__":
    from pipelines.cli import stage_main

    stage_main("download")
