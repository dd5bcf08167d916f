"""Stage `set_distances`: distances between all generated and all true shapes, a block of rows at a time; COV, MMD, 1-NNA."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import ClassVar, Literal

import pyarrow as pa

from pipelines.caching.devices import Device, worker_gpus
from pipelines.measuring.config import HARDWARE
from pipelines.runtime.inputs import rows
from pipelines.runtime.output import Failure, Output
from pipelines.runtime.plan import Item
from pipelines.runtime.stage import Context, Log, Row, Stage, StageConfig

FILE = "sets.json"


@dataclass(frozen=True)
class SetDistancesConfig(StageConfig):
    """Of which shapes, and by which distance."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    measured: str = rows("systems", default="compare")
    """The stage whose rows hold the shapes' points: `compare`, or `evaluate` by a protocol other than `quick`."""
    distance: Literal["chamfer_l2", "chamfer_l1"] = "chamfer_l2"
    """Between two shapes in the unit box."""
    accuracy: bool = True
    """1-NNA, too, which takes twice as many distances again."""
    seed: int = 0
    """Of all resamples."""
    device: Device = field(default="auto", metadata=HARDWARE)
    """`auto`: one GPU per worker where the cluster has any, else the CPU."""
    shard_objects: int = field(default=16, metadata=HARDWARE)
    """Rows of a matrix in one block: the unit of work, of commit and of repetition after a crash."""


class SetDistancesStage(Stage[SetDistancesConfig]):
    name = "set_distances"
    section = SetDistancesConfig
    writes = "distances"
    version = 1
    about = "measure the distances between sets of shapes: coverage, minimum matching distance, 1-NN accuracy"

    def items(self, context: Context[SetDistancesConfig], log: Log) -> Iterable[Item]:
        from pipelines.measuring.matrix import matrix_items

        return matrix_items(context.rows["measured"], context.config.accuracy, log)

    def schema(self, context: Context[SetDistancesConfig]) -> pa.Schema:
        from sar3d.metrics.shapes.matrix import matrix_schema

        return matrix_schema()

    def gpus(self, config: SetDistancesConfig, available: float) -> float:
        return worker_gpus(config.device, config.gpus, available)

    def process(self, context: Context[SetDistancesConfig], items: list[Item]) -> Iterator[Row | Failure]:
        from pipelines.measuring.matrix import block

        config = context.config
        device = "cuda" if config.gpus else "cpu"
        for _, members in groupby(items, key=lambda item: (item["system"], item["part"])):
            yield from block(context.rows["measured"], list(members), config.distance, device)

    def artifacts(self, context: Context[SetDistancesConfig], output: Output, log: Log) -> dict[str, bytes]:
        from pipelines.measuring.lines import Summary, sentences, to_csv, to_json
        from pipelines.measuring.matrix import set_lines
        from pipelines.measuring.plots import interval_plot

        config = context.config
        lines = set_lines(context.rows["measured"], output, f"{config.distance}_unit_box", config.seed, log)
        for sentence in sentences(lines):
            log(f"{self.name}: {sentence}")
        about = {**self.identity(context), "inputs": {n: o.content() for n, o in context.upstream().items()}}
        plot = interval_plot(lines)
        made = {"sets.csv": to_csv(lines), FILE: to_json(Summary(lines, [], about))}
        return made if plot is None else {**made, "sets_intervals.png": plot}

    def summary(self, context: Context[SetDistancesConfig], output: Output) -> dict[str, float]:
        from pipelines.measuring.lines import metrics_of, read_summary

        return metrics_of(read_summary(output, FILE).lines)


if __name__ == "__main__":
    from pipelines.cli import stage_main

    stage_main("set_distances")
