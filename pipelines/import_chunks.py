"""Stage `import_chunks`: the published SAR3D training chunks as a `views` dataset."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from pipelines.runtime.inputs import folder
from pipelines.runtime.output import Failure, Output
from pipelines.runtime.plan import Item
from pipelines.runtime.reading import read_rows
from pipelines.runtime.stage import Context, Log, Row, Stage, StageConfig
from pipelines.runtime.store import is_remote
from sar3d.data.formats.chunks import ChunkRef, list_chunks, read_chunk
from sar3d.data.formats.views import views_schema
from sar3d.errors import ObjectError, UserError

RESOLUTION = 256


@dataclass(frozen=True)
class ImportChunksConfig(StageConfig):
    """Where the published chunks lie."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    path: str = folder()
    """The folder that holds dataset.json, visible to every node."""


class ImportChunksStage(Stage[ImportChunksConfig]):
    name = "import_chunks"
    section = ImportChunksConfig
    writes = "views"
    version = 2
    about = "convert the published multi-view training chunks into views"

    def check(self, context: Context[ImportChunksConfig]) -> None:
        if not context.config.path:
            raise UserError("import_chunks needs import_chunks.path, the folder that holds dataset.json")
        if is_remote(context.config.path):
            raise UserError(f"import_chunks.path={context.config.path} is a URL; give a folder that every node mounts")

    def items(self, context: Context[ImportChunksConfig], log: Log) -> Iterable[Item]:
        root = Path(context.config.path)
        items = []
        for ref in list_chunks(root):
            path = ref.path.relative_to(root).as_posix()
            newest = max((f.stat().st_mtime_ns for f in ref.path.iterdir()), default=0) if ref.path.is_dir() else 0
            items.append({"uid": path, "category": ref.category, "modified": newest})
        return sorted(items, key=lambda item: item["uid"])

    def schema(self, context: Context[ImportChunksConfig]) -> pa.Schema:
        return views_schema(RESOLUTION)

    def process(self, context: Context[ImportChunksConfig], items: list[Item]) -> Iterator[Row | Failure]:
        root = Path(context.config.path)
        for item in items:
            try:
                yield read_chunk(ChunkRef(root / item["uid"], item["category"]))
            except ObjectError as error:
                yield Failure(item["uid"], item["uid"], self.name, error.kind, error.reason, 1, error.stderr)

    def artifacts(self, context: Context[ImportChunksConfig], output: Output, log: Log) -> dict[str, bytes]:
        from sar3d.data.contact_sheet import contact_sheet

        sheet = contact_sheet(read_rows(output, batch=2))
        return {"contact_sheet.png": sheet} if sheet is not None else {}


if __name__ == "__main__":
    from pipelines.cli import stage_main

    stage_main("import_chunks")
