"""Made-up shapes, and the stage `set_distances` over them: `python shapes_job.py ROOT COUNT POINTS BLOCK ACCURACY`."""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.runtime import runner
from pipelines.runtime.cluster import ClusterConfig
from pipelines.runtime.pipeline import pipeline_of
from pipelines.runtime.plan import Item
from pipelines.runtime.stage import Context, Row, Stage, StageConfig
from pipelines.runtime.tracking import TrackingConfig
from pipelines.set_distances import SetDistancesConfig, SetDistancesStage
from sar3d.metrics.rows import point_columns, system_row, system_schema


@dataclass(frozen=True)
class ShapesConfig(StageConfig):
    """How many shapes, of how many points."""

    count: int = 60
    points: int = 64


class ShapesStage(Stage[ShapesConfig]):
    """Ellipsoids, true ones and others."""

    name = "compare"
    section = ShapesConfig
    writes = "systems"
    version = 1
    about = "make up shapes"

    def items(self, context: Context[ShapesConfig], log: Any) -> Iterable[Item]:
        return ({"uid": f"{i:04d}"} for i in range(context.config.count))

    def schema(self, context: Context[ShapesConfig]) -> pa.Schema:
        return system_schema()

    def process(self, context: Context[ShapesConfig], items: list[Item]) -> Iterator[Row]:
        for item in items:
            for seed, system in enumerate(("truth", "ours")):
                points = ellipsoid(context.config.points, 2 * int(item["uid"]) + seed)
                yield system_row(uid=item["uid"], system=system, shift="", numbers={}, **point_columns(points, "mesh"))


def ellipsoid(points: int, seed: int) -> np.ndarray:
    """Points on an ellipsoid in the unit box."""
    random = np.random.default_rng(seed)
    directions = random.normal(size=(points, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return directions * 0.5 * random.uniform(0.3, 1.0, 3)


def configure(root: str, count: int, points: int, block: int, accuracy: bool) -> Any:
    kind = pipeline_of((ShapesStage(), SetDistancesStage()))
    return kind(
        root=root,
        tracking=TrackingConfig(enabled=False),
        cluster=ClusterConfig(address="local", cpus=2),
        compare=ShapesConfig(count=count, points=points),
        set_distances=SetDistancesConfig(accuracy=accuracy, shard_objects=block, device="cpu"),
    )


if __name__ == "__main__":
    root, *numbers = sys.argv[1:]
    count, points, block, accuracy = map(int, numbers)
    config = configure(root, count, points, block, bool(accuracy))
    for stage in config.registry.values():
        runner.run(stage, config)
