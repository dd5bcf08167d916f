"""Caches on a cluster of three nodes whose workers, nodes and drivers are killed: byte for byte the same."""

import contextlib
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import rendered
from ray_cluster import REPOSITORY, RayCluster
from test_cluster import digests, keep_submitting

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]
JOB = str(Path(__file__).with_name("cache_job.py").relative_to(REPOSITORY))


class CacheCluster(RayCluster):
    """Finds the workers and drivers of cache stages."""

    def _victims(self, what: str) -> list[psutil.Process]:
        return self.find("ray::ShardWorker.run") if what == "worker" else self.find(JOB)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CacheCluster]:
    made = CacheCluster(tmp_path_factory.mktemp("cluster"), python=sys.executable)
    for _ in range(3):
        made.add_node()
    yield made
    made.close()


@pytest.mark.acceptance("cache_tokens on three nodes with random kills: identical cache")
def test_killed_workers_nodes_and_drivers(
    cluster: CacheCluster, local_ray: object, tmp_path: Path, record_property: Callable[..., None]
) -> None:
    shutil.copytree(rendered.root(), tmp_path / "calm", ignore=shutil.ignore_patterns("cache_*"))
    rounds = [tmp_path / f"round{i}" for i in range(3)]
    for folder in rounds:
        shutil.copytree(tmp_path / "calm", folder)

    def submit(root: Path) -> subprocess.Popen[bytes]:
        words = [*rendered.words(root), "cache_tokens.shard_objects=1", "cluster.patience=60"]
        return cluster.submit("python", JOB, "cache_tokens", "configs/demo.yaml", *words)

    assert submit(tmp_path / "calm").wait(200) == 0, cluster.last_log()
    calm = digests(str(tmp_path / "calm"), "cache_tokens")
    assert len(calm) == rendered.OBJECTS
    total: list[str] = []
    for number, root in enumerate(rounds):
        chance = random.Random(number)
        disturb, killed = _killer(cluster, ["worker", *chance.sample(["worker", "node", "driver"], k=2)], chance)
        keep_submitting(cluster, lambda root=root: submit(root), disturb)
        assert digests(str(root), "cache_tokens") == calm
        total += killed
    assert Counter(total)["worker"] >= 3
    record_property("killed", dict(Counter(total)))


def _killer(cluster: CacheCluster, plan: list[str], chance: random.Random) -> tuple[Callable[[], None], list[str]]:
    """Kills what `plan` says, each when one is seen at work and a moment has passed."""
    left, killed = list(plan), []
    due = 0.0

    def disturb() -> None:
        nonlocal due
        if not left or time.monotonic() < due or not cluster.find("ray::ShardWorker.run"):
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            if cluster.kill_one(left[0], chance):
                killed.append(left.pop(0))
                due = time.monotonic() + chance.uniform(0.2, 1.5)

    return disturb, killed
