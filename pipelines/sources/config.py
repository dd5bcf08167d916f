"""The configuration of the `download` stage's source, and the source that it describes."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pipelines.runtime.inputs import chosen
from pipelines.runtime.progress import log
from pipelines.runtime.stage import StageConfig
from pipelines.sources.base import Source
from pipelines.sources.captions import CaptionsConfig
from pipelines.sources.directory import DirectoryConfig, DirectorySource
from pipelines.sources.objaverse_source import ObjaverseConfig, ObjaverseSource
from pipelines.sources.procedural_source import ProceduralConfig, ProceduralSource
from pipelines.sources.texts import Log


@dataclass(frozen=True)
class DownloadConfig(StageConfig):
    """Where the objects come from. Only the chosen source's own section is used."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    source: Literal["objaverse", "directory", "procedural"] = "procedural"
    """Objaverse 1.0, a folder of 3D files, or the built-in procedural world."""
    directory: DirectoryConfig = chosen(DirectoryConfig, when=lambda download: download.source == "directory")
    """The folder."""
    objaverse: ObjaverseConfig = chosen(ObjaverseConfig, when=lambda download: download.source == "objaverse")
    """The selection from Objaverse."""
    procedural: ProceduralConfig = chosen(ProceduralConfig, when=lambda download: download.source == "procedural")
    """Which objects of the procedural world."""
    captions: CaptionsConfig = field(default_factory=CaptionsConfig)
    """Captions from elsewhere, for any source."""
    concurrency: Annotated[int, Field(ge=1)] = field(default=16, metadata={"identity": False})
    """Objects that one task fetches at once: transfers wait for the network, hardly for the processor."""
    shard_objects: Annotated[int, Field(ge=1)] = field(default=256, metadata={"identity": False})
    """Objects in one shard."""


def make_source(config: DownloadConfig, files_root: str, log: Log = log) -> Source:
    """The configured source. `files_root` is the URL below which transferred files are stored (a folder's are not)."""
    if config.source == "directory":
        return DirectorySource(config.directory, config.captions, log)
    if config.source == "objaverse":
        return ObjaverseSource(config.objaverse, files_root, config.captions, log)
    return ProceduralSource(config.procedural, config.captions, log)
