"""The stages there are, by name, in the order in which data flows through them."""

from typing import Any

from pipelines.download import DownloadStage
from pipelines.import_chunks import ImportChunksStage
from pipelines.render import RenderStage
from pipelines.runtime.stage import StageBase

STAGES: dict[str, StageBase[Any]] = {s.name: s for s in (DownloadStage(), RenderStage(), ImportChunksStage())}
