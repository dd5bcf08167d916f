"""What the stage engine costs: its overhead on tasks of half a second, and planning ten million objects.

python benchmarks/bench_engine.py [--objects 10000000] [--tasks 100]
"""

import argparse
import dataclasses
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from pipelines.runtime.cluster import ClusterConfig
from pipelines.runtime.output import ShardRecord
from pipelines.runtime.pipeline import pipeline_of
from pipelines.runtime.plan import Coverage, Item, Listing, shards
from pipelines.runtime.stage import Context, Log, Row, Stage, StageConfig
from pipelines.runtime.tracking import TrackingConfig


@dataclasses.dataclass(frozen=True)
class SleepConfig(StageConfig):
    tasks: int = 40
    seconds: float = 0.5


class SleepStage(Stage[SleepConfig]):
    """Each item sleeps."""

    name = "sleep"
    section = SleepConfig
    version = 1
    about = "a benchmark"

    def items(self, context: Context[SleepConfig], log: Log) -> Iterable[Item]:
        return ({"uid": f"{i:06d}"} for i in range(context.config.tasks))

    def schema(self, context: Context[SleepConfig]) -> pa.Schema:
        return pa.schema([pa.field("uid", pa.string())])

    def process(self, context: Context[SleepConfig], items: list[Item]) -> Iterator[Row]:
        for item in items:
            time.sleep(context.config.seconds)
            yield {"uid": item["uid"]}


def overhead(tasks: int, seconds: float) -> None:
    """Wall time of a stage of sleeping one-item tasks on two CPUs, against the sleeping alone."""
    import ray

    from pipelines.runtime import cluster
    from pipelines.runtime.engine import run_stage

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    cluster.connect(ClusterConfig(address="local", cpus=2), print)
    for count in (4, tasks):  # the first starts the workers
        with tempfile.TemporaryDirectory() as root:
            config = pipeline_of([SleepStage()])(
                root=root,
                sleep=SleepConfig(tasks=count, seconds=seconds, shard_objects=1),
                tracking=TrackingConfig(enabled=False),
                cluster=ClusterConfig(address="local"),
            )
            report = run_stage(SleepStage(), config, log=lambda _: None)
    ideal = tasks * seconds / 2
    sys.stdout.write(
        f"engine: {tasks} tasks of {seconds} s on 2 CPUs: {report.seconds:.2f} s, ideal {ideal:.2f} s, "
        f"overhead {100 * (report.seconds / ideal - 1):.1f} %\n"
    )
    ray.shutdown()


def listing(count: int) -> Iterator[Item]:
    for i in range(count):
        yield {"uid": f"{i:032x}", "sha256": f"{i * 2654435761:064x}", "_path": f"glbs/{i % 1000:03d}/{i:032x}.glb"}


def plan(count: int) -> None:
    """Listing, coverage and shards of `count` items, with nine tenths of them in earlier shards."""
    started = time.perf_counter()
    listed = Listing(listing(count))
    listed_at = time.perf_counter()
    coverage = Coverage(listed)
    for first in range(0, count * 9 // 10 - 511, 512):
        keys = listed.keys[first : first + 512].tobytes().hex()
        assert coverage.take(ShardRecord("old", "", 512, 0, "", keys))
    covered = time.perf_counter()
    made = sum(1 for _ in shards(listed, coverage.mask, 512, "part"))
    ended = time.perf_counter()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    sys.stdout.write(
        f"plan: {count:,} ids in {ended - started:.1f} s (listing and keys {listed_at - started:.1f}, coverage of nine tenths "
        f"{covered - listed_at:.1f}, {made:,} new shards {ended - covered:.1f}), peak memory {memory:.2f} GB\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--objects", type=int, default=10_000_000)
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--plan-only", action="store_true", help=argparse.SUPPRESS)
    given: Any = parser.parse_args()
    if given.plan_only:
        plan(given.objects)
        return
    overhead(given.tasks, 0.5)
    # In a process of its own, so that the peak of memory is the planner's.
    subprocess.run(
        [sys.executable, __file__, "--plan-only", f"--objects={given.objects}"], check=True, env=dict(os.environ)
    )


if __name__ == "__main__":
    main()
