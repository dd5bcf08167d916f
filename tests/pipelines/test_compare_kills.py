"""`compare` and `evaluate` on a cluster of three nodes of which one is killed: resumed by the same command, the end is equal."""

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import evaluated
import psutil
import pytest
import rendered
from ray_cluster import RayCluster
from test_cluster import digests, keep_submitting
from test_compare import SMALL as COMPARED
from test_protocols import PUBLISHED

from pipelines.runtime.output import outputs
from pipelines.runtime.reading import read_rows
from sar3d.procedural import build_glb, catalog

pytestmark = [pytest.mark.timeout(2400), pytest.mark.slow]
WORKING = "ray::ShardWorker.run"


class MeasuringCluster(RayCluster):
    """Finds the workers of stages that keep models, and drivers."""

    def _victims(self, what: str) -> list[psutil.Process]:
        return self.find(WORKING) if what == "worker" else super()._victims(what)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeasuringCluster]:
    made = MeasuringCluster(tmp_path_factory.mktemp("cluster"), python=sys.executable)
    for _ in range(3):
        made.add_node()
    made.ready()
    yield made
    made.close()


def killer(cluster: MeasuringCluster, plan: list[str]) -> tuple[Callable[[], None], list[str]]:
    """Kills what `plan` says, each when a worker is seen at work."""
    left, killed, chance = list(plan), list[str](), random.Random(0)

    def disturb() -> None:
        if left and cluster.find(WORKING) and cluster.kill_one(left[0], chance):
            killed.append(left.pop(0))
            time.sleep(1)

    return disturb, killed


@pytest.mark.acceptance(
    "`compare` submitted to 3 nodes, one killed, and its driver: the same command ends with equal Parquet"
)
def test_compare_loses_a_node_and_its_driver(
    cluster: MeasuringCluster, tmp_path: Path, record_property: Callable[..., None]
) -> None:
    truth, own, others = (tmp_path / name for name in ("truth", "own", "others"))
    uids = [entry.uid for entry in catalog(9)]
    for folder in (truth, own, others):
        folder.mkdir()
    for i, uid in enumerate(uids):
        for folder, shown in ((truth, uid), (own, uid), (others, uids[i - 1])):
            (folder / f"{uid}.glb").write_bytes(build_glb(shown))

    def submit(out: Path) -> subprocess.Popen[bytes]:
        words = ["--system", f"gltf={own}", "--system", f"others:gltf={others}", "--truth", str(truth)]
        settings = [*COMPARED, "compare.shard_objects=3", "set_distances.shard_objects=4", "cluster.patience=60"]
        job = ["python", "-m", "pipelines.compare", *words, "--out", str(out), *settings, "tracking.enabled=false"]
        return cluster.submit(*job)

    assert submit(tmp_path / "calm").wait(900) == 0, cluster.last_log()
    disturb, killed = killer(cluster, ["node", "driver"])
    submissions = keep_submitting(cluster, lambda: submit(tmp_path / "wild"), disturb)
    assert killed == ["node", "driver"]
    for stage in ("compare", "set_distances"):
        assert digests(str(tmp_path / "wild"), stage) == digests(str(tmp_path / "calm"), stage), stage
    first, second = ((tmp_path / name / "compare.csv").read_bytes() for name in ("calm", "wild"))
    assert first == second
    record_property("killed", killed)
    record_property("submissions", submissions)


@pytest.mark.acceptance("`evaluate` by the published protocol on 3 nodes, one killed: equal rows but for the latency")
def test_evaluate_loses_a_node(
    cluster: MeasuringCluster, local_ray: object, tmp_path: Path, record_property: Callable[..., None]
) -> None:
    roots = [tmp_path / name for name in ("calm", "wild")]
    for root in roots:
        shutil.copytree(evaluated.root(), root, ignore=shutil.ignore_patterns("evaluate"))

    def submit(root: Path) -> subprocess.Popen[bytes]:
        words = [
            *rendered.words(root),
            *evaluated.words(),
            *PUBLISHED,
            "evaluate.objects=5",
            "evaluate.shard_objects=1",
        ]
        job = [
            "python",
            "-m",
            "pipelines.cli",
            "evaluate",
            "--config",
            "configs/demo.yaml",
            *words,
            "cluster.patience=60",
        ]
        return cluster.submit(*job)

    assert submit(roots[0]).wait(900) == 0, cluster.last_log()
    disturb, killed = killer(cluster, ["node"])
    keep_submitting(cluster, lambda: submit(roots[1]), disturb)
    assert killed == ["node"]
    assert rows_of_stage(roots[1]) == rows_of_stage(roots[0])
    record_property("killed", killed)


def rows_of_stage(root: Path) -> list[dict[str, Any]]:
    (output,) = outputs(str(root), "evaluate")
    assert output.finished()
    return [{**row, "seconds": None} for row in read_rows(output)]
