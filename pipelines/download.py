"""Stage `download`: bring objects within reach and describe them (the `objects` dataset)."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from pipelines.runtime.output import Failure, Output
from pipelines.runtime.plan import Item
from pipelines.runtime.stage import Context, Log, Row, Stage
from pipelines.sources.config import DownloadConfig, make_source
from sar3d.errors import ObjectError

ATTRIBUTES = pa.struct(
    [
        *(pa.field(name, pa.string()) for name in ("family", "style", "main", "accent", "pattern")),
        pa.field("parts", pa.list_(pa.string())),
    ]
)

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
        pa.field("attributes", ATTRIBUTES, metadata={"about": "of procedural objects"}),
        pa.field("held_out", pa.string(), metadata={"about": "why no training reads the object; null: it may be read"}),
    ]
)


class DownloadStage(Stage[DownloadConfig]):
    name = "download"
    section = DownloadConfig
    writes = "objects"
    version = 2
    about = "list the objects of a source, transfer what is not here yet, check and describe it"

    def identity(self, context: Context[DownloadConfig]) -> dict[str, Any]:
        # Which objects are chosen shows in the listing; how one becomes a row depends on the kind of source alone.
        return {"source": context.config.source}

    def items(self, context: Context[DownloadConfig], log: Log) -> Iterable[Item]:
        return make_source(context.config, context.files, log).items()

    def schema(self, context: Context[DownloadConfig]) -> pa.Schema:
        return OBJECTS

    def process(self, context: Context[DownloadConfig], items: list[Item]) -> Iterator[Row | Failure]:
        source = make_source(context.config, context.files)

        def fetch(item: Item) -> Row | Failure:
            try:
                return source.fetch(item)
            except ObjectError as error:
                attempts = getattr(error, "attempts", 1)
                path = str(item.get("path", ""))
                return Failure(item["uid"], path, self.name, error.kind, error.reason, attempts, error.stderr)

        with ThreadPoolExecutor(context.config.concurrency, thread_name_prefix="fetch") as pool:
            yield from pool.map(fetch, items)

    def summary(self, context: Context[DownloadConfig], output: Output) -> dict[str, float]:
        from pipelines.runtime.reading import read_rows

        totals = {"objects_without_caption": 0, "captions": 0, "bytes": 0, "held_out": 0}
        for row in read_rows(output, ["captions", "bytes", "held_out"]):
            totals["objects_without_caption"] += not row["captions"]
            totals["captions"] += len(row["captions"] or [])
            totals["bytes"] += row["bytes"]
            totals["held_out"] += row["held_out"] is not None
        return {k: float(v) for k, v in totals.items()}


if __name__ == "__main__":
    from pipelines.cli import stage_main

    stage_main("download")
