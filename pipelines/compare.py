"""Stage `compare`: what other systems made of the same objects, drawn and measured by the same code as the truth."""

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pyarrow as pa

from pipelines.caching.devices import Device, worker_gpus
from pipelines.download import OBJECTS
from pipelines.measuring.config import HARDWARE, DrawingSettings, PictureSettings, picture_identity, settled_pictures
from pipelines.perceptual import Perceptual, resolved
from pipelines.runtime.inputs import folders, rows, same_as
from pipelines.runtime.output import Failure, Output
from pipelines.runtime.plan import Item
from pipelines.runtime.stage import Context, Log, Row, Stage, StageConfig
from pipelines.sources.config import DownloadConfig
from sar3d.errors import UserError
from sar3d.metrics.config import PerceptualConfig, ShapeConfig

if TYPE_CHECKING:
    from pipelines.comparing.worker import Comparer

FILE = "compare.json"


@dataclass(frozen=True)
class CompareConfig(StageConfig, PictureSettings, DrawingSettings):
    """Whose files are compared with which objects, and how."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    systems: dict[str, str] = folders()
    """Folders with the output of systems, by the importer's name (docs/compare.md) or `<any name>:<importer>`."""
    truth: str = rows("objects", default="download")
    """The stage whose objects are the truth. Systems' files bear their uids, or the names of their files."""
    source: DownloadConfig = same_as("download", identity=False)
    """Where the objects' files are read from; what they hold counts, not where they lie."""
    objects: int = 600
    """Objects that are compared, spread evenly over the dataset."""
    shift: str = ""
    """A column of the objects (`category`, `source`, `attributes.style`) for each of whose values there is a table."""
    align: Literal["declared", "yaw"] = "declared"
    """`declared`: objects stand as their system's files are known to stand. `yaw`: they are turned about the vertical axis
    to fit the truth, never mirrored. Either way it is said which turn, or mirror image, would fit better."""
    views: int = 24
    """Pictures of each object, evenly around it, as the published turntable."""
    resolution: int = 512
    """Of these pictures."""
    shape: ShapeConfig = field(default_factory=ShapeConfig)
    """How shapes are compared."""
    up: Literal["y", "z"] = same_as("render.up")
    """The up axis of true .obj, .ply and .stl files, which do not say."""
    perceptual: Perceptual = same_as("train_vqvae.perceptual")
    """The perceptual distance, see `train_vqvae`."""
    lpips: PerceptualConfig = same_as("train_vqvae.task.perceptual")
    """Where the weights of LPIPS come from."""
    seed: int = 0
    """Of all resamples."""
    device: Device = field(default="auto", metadata=HARDWARE)
    """`auto`: one GPU per worker where the cluster has any, else the CPU."""
    shard_objects: int = field(default=24, metadata=HARDWARE)
    """Files in one shard."""

    def __post_init__(self) -> None:
        for name, least in (("objects", 1), ("views", 1), ("resolution", 32)):
            if getattr(self, name) < least:
                raise UserError(f"compare.{name}={getattr(self, name)} is wrong: it is a number from {least} on")


class CompareStage(Stage[CompareConfig]):
    name = "compare"
    section = CompareConfig
    writes = "systems"
    version = 1
    stateful = True
    about = "measure what other systems made of the same objects: shapes, pictures, sets, with intervals"

    def resolve(self, config: CompareConfig, log: Log) -> CompareConfig:
        from sar3d.render import pick_backend

        settled: dict[str, Any] = settled_pictures(config, self.name, log)
        perceptual = resolved(config.perceptual, config.lpips, self.name, log)
        return dataclasses.replace(config, perceptual=perceptual, backend=pick_backend(config.backend), **settled)

    def check(self, context: Context[CompareConfig]) -> None:
        from pipelines.comparing.items import check_shift, importer_of

        if not context.config.systems:
            raise UserError("there is nothing to compare: give --system NAME=DIR, or compare.systems={NAME: DIR}")
        for label in context.config.systems:
            importer_of(label)
        if context.config.shift:
            check_shift(context.config.shift, OBJECTS, "compare.shift")

    def identity(self, context: Context[CompareConfig]) -> dict[str, Any]:
        return {**super().identity(context), "networks": picture_identity(context.config, self.name)}

    def items(self, context: Context[CompareConfig], log: Log) -> Iterable[Item]:
        from pipelines.comparing.items import compare_items, compared_objects

        config = context.config
        objects = compared_objects(context.rows["truth"], config.objects, config.shift)
        return compare_items(objects, config.systems, log)

    def schema(self, context: Context[CompareConfig]) -> pa.Schema:
        from sar3d.metrics.rows import system_schema

        return system_schema()

    def gpus(self, config: CompareConfig, available: float) -> float:
        return worker_gpus(config.device, config.gpus, available)

    def open(self, context: Context[CompareConfig]) -> "Comparer":
        from pipelines.comparing.worker import Comparer

        return Comparer(context)

    def process(self, context: Context[CompareConfig], items: list[Item]) -> Iterator[Row | Failure]:
        comparer: Comparer = context.state
        yield from comparer.rows(items)

    def artifacts(self, context: Context[CompareConfig], output: Output, log: Log) -> dict[str, bytes]:
        from pipelines.measuring.artifacts import summarized
        from pipelines.measuring.lines import FLOOR, TRUTH

        config = context.config
        order = (TRUTH, FLOOR, *config.systems)
        return summarized(output, "compare", self.identity(context), config.seed, log, order)

    def summary(self, context: Context[CompareConfig], output: Output) -> dict[str, float]:
        from pipelines.measuring.lines import metrics_of, read_summary

        return metrics_of(read_summary(output, FILE).lines)


if __name__ == "__main__":
    from pipelines.cli import stage_main

    stage_main("compare")
