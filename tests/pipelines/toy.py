"""A small real stage for tests of the engine: each item becomes one row; some fail; it can be slowed down."""

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.runtime.output import Failure, Output
from pipelines.runtime.pipeline import Pipeline, pipeline_of
from pipelines.runtime.plan import Item
from pipelines.runtime.stage import Context, Log, Row, Stage, StageConfig
from pipelines.runtime.tracking import TrackingConfig


@dataclass(frozen=True)
class ToyConfig(StageConfig):
    count: int = field(default=20, metadata={"identity": "listing"})
    factor: int = 3
    bad: tuple[int, ...] = field(default=(), metadata={"identity": False})
    seconds: float = field(default=0.0, metadata={"identity": False})
    trace: str = field(default="", metadata={"identity": False})
    """A folder in which every processed item leaves a file: what was done, and how often."""
    full_disk: bool = field(default=False, metadata={"identity": False})


class ToyStage(Stage[ToyConfig]):
    name = "toy"
    section = ToyConfig
    version = 1
    about = "a test"

    def items(self, context: Context[ToyConfig], log: Log) -> Iterable[Item]:
        return ({"uid": f"{i:06d}", "value": i, "_where": "not part of the key"} for i in range(context.config.count))

    def schema(self, context: Context[ToyConfig]) -> pa.Schema:
        return pa.schema([pa.field("uid", pa.string()), pa.field("value", pa.int64())])

    def process(self, context: Context[ToyConfig], items: list[Item]) -> Iterator[Row | Failure]:
        config = context.config
        for item in items:
            if config.trace:
                Path(config.trace, f"{item['uid']}.{os.getpid()}.{time.monotonic_ns()}").touch()
            time.sleep(config.seconds)
            if config.full_disk:
                raise OSError(28, "No space left on device")
            if item["value"] in config.bad:
                yield Failure(item["uid"], "", self.name, "bad", "this one is bad")
            else:
                yield {"uid": item["uid"], "value": item["value"] * config.factor}

    def summary(self, context: Context[Any], output: Output) -> dict[str, float]:
        return {"answer": 42.0}


_ToyPipeline = pipeline_of([ToyStage()], "ToyPipeline")


def toy_pipeline(root: str, **settings: Any) -> Pipeline:
    """A pipeline of the one stage, without tracking unless it is asked for."""
    return _ToyPipeline(root=root, **{"tracking": TrackingConfig(enabled=False), **settings})
