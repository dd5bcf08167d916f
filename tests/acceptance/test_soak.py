"""Fifty kills over short runs on a cluster with an S3 root, and stores and trackers that fail: nothing is lost or twice."""

import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import mlflow
import pytest
import ray_cluster
from object_store import Environ, ObjectStore
from proofs import QUICK_TOKENIZER, Record
from ray_cluster import RayCluster
from services import MlflowServer
from test_cluster import digests, uids

from pipelines.runtime.output import outputs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(4200)]
KILLS = 50
SECONDS = 50 * 60
"""After which no further round begins."""
STAGES = ("download", "render", "train_vqvae", "cache_tokens")
RUN = (
    *("python", "-m", "pipelines.run", "--config", "configs/demo.yaml", "cluster.patience=120", "report=false"),
    *(word for word in QUICK_TOKENIZER if not word.startswith(("cluster.", "train_vqvae.train."))),
    f"stages=[{', '.join(STAGES)}]",
    *("render.views=8", "render.shard_objects=1", "download.shard_objects=2", "cache_tokens.shard_objects=1"),
    "train_vqvae.train={steps: 12, batch: 2, checkpoint_every: 2, log_every: 1}",
)


@dataclass
class World:
    """A cluster of three nodes beside its head, an object store and a tracker, and what was done to them."""

    cluster: RayCluster
    store: ObjectStore
    tracker: MlflowServer
    killed: Counter[str] = field(default_factory=Counter)
    tracebacks: int = 0
    _due: dict[Callable[[], None], float] = field(default_factory=dict)
    """What is started again, and when."""

    def submit(self, root: str) -> subprocess.Popen[bytes]:
        return self.cluster.submit(*RUN, f"root={root}")

    def finish(self, root: str, disturb: Callable[[], None] = lambda: None) -> int:
        """Submit until it succeeds; how many submissions that took."""
        for submissions in range(1, 40):
            job = self.submit(root)
            while job.poll() is None:
                disturb()
                self.restart()
                time.sleep(0.1)
            if job.returncode == 0:
                return submissions
            self.tracebacks += "Traceback" in self.cluster.last_log()
            self.restart()
        raise AssertionError(self.cluster.last_log())

    def strike(self, what: str, chance: random.Random) -> bool:
        """Kill one of a kind, if there is one now."""
        if what in ("tracker", "store"):
            server = self.tracker if what == "tracker" else self.store
            if server.start in self._due:
                return False
            server.stop()
            self._due[server.start] = time.monotonic() + chance.uniform(0.5, 6.0)
        elif not self.cluster.kill_one(what, chance):
            return False
        self.killed[what] += 1
        return True

    def restart(self, everything: bool = False) -> None:
        """Start what has been away for long enough."""
        for start, when in list(self._due.items()):
            if everything or time.monotonic() >= when:
                del self._due[start]
                start()


@pytest.fixture(scope="module")
def world(object_store: ObjectStore, _s3_environment: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    python = ray_cluster.bare_python(folder / "bare")
    with MlflowServer(folder / "mlflow", f"sqlite:///{folder}/m.db", str(folder / "artifacts")) as tracker:
        environment = {"MLFLOW_TRACKING_URI": tracker.uri, "XDG_CACHE_HOME": str(folder / "cache")}
        (folder / "ray").mkdir()
        cluster = RayCluster(folder / "ray", python=python, cpus=2, environment=environment)
        try:
            for _ in range(3):
                cluster.add_node()
            cluster.ready()
            yield World(cluster, object_store, tracker)
        finally:
            object_store.plan = lambda environ: None
            cluster.close()


@pytest.fixture(scope="module")
def calm(world: World) -> str:
    """The root of an undisturbed run."""
    import boto3

    boto3.client("s3").create_bucket(Bucket="soak")
    assert world.finish("s3://soak/calm") == 1
    return "s3://soak/calm"


def histories(world: World, root: str) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """By stage and metric the (step, value) that the tracker has; fails where a step was logged twice."""
    client = mlflow.MlflowClient(world.tracker.uri)
    found: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for stage in STAGES:
        (output,) = outputs(root, stage)
        run = client.get_run(output.run_id() or "")
        assert run.info.status == "FINISHED", stage
        found[stage] = {}
        for name in (name for name in run.data.metrics if not name.startswith("system/")):
            points = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
            assert len(points) == len(dict(points)), f"{stage}: {name} was logged twice at a step"
            found[stage][name] = points
    return found


def check_same(world: World, root: str, calm: str) -> None:
    """Rows, weights and losses of the undisturbed run; no row and no metric twice."""
    for stage in ("render", "cache_tokens"):
        assert digests(root, stage) == digests(calm, stage), stage
        assert max(Counter(uids(root, stage)).values()) == 1, stage
    (mine,), (theirs,) = outputs(root, "train_vqvae"), outputs(calm, "train_vqvae")
    assert mine.model_digest() == theirs.model_digest()
    losses, undisturbed = (histories(world, place)["train_vqvae"]["loss"] for place in (root, calm))
    assert losses == undisturbed, "every step's loss is there, once"


@pytest.mark.acceptance(
    "Fifty kills (worker, render process, node, driver, tracker, object store) over runs from download to tokens on three nodes "
    "with an S3 root: rows and weights of an undisturbed run, no row and no metric twice"
)
def test_fifty_kills(world: World, calm: str, record_property: Record) -> None:
    began, number, submissions = time.monotonic(), 0, 0
    kinds = ["worker", "renderer", "node", "driver", "tracker", "store"]
    while world.killed.total() < KILLS:
        assert time.monotonic() - began < SECONDS, f"{world.killed} in {number} rounds"
        chance, root = random.Random(number), f"s3://soak/round{number}"
        left, due = chance.randint(6, 10), time.monotonic() + chance.uniform(1, 4)

        def disturb(chance: random.Random = chance) -> None:
            nonlocal left, due
            # The kinds that have been hit least come first, or rare moments would never be hit.
            wanted = min(kinds, key=lambda kind: (world.killed[kind], chance.random()))
            if left and time.monotonic() >= due:
                struck = world.strike(wanted, chance) or world.strike(chance.choice(kinds), chance)
                left, due = left - struck, time.monotonic() + chance.uniform(0.5, 5.0)

        submissions += world.finish(root, disturb)
        world.restart(everything=True)
        world.finish(root)  # sends what the tracker has not got
        check_same(world, root, calm)
        number += 1
    assert set(world.killed) == set(kinds)
    record_property("killed", dict(world.killed))
    record_property("rounds, submissions", f"{number}, {submissions}")
    record_property("submissions that ended with a traceback", world.tracebacks)


@pytest.mark.acceptance(
    "An object store that answers 503, slowly, not at all or with expired credentials, and a tracker that is down for ten "
    "minutes: one sentence at most, and nothing is lost"
)
def test_a_failing_object_store_and_a_tracker_that_is_down(world: World, calm: str, record_property: Record) -> None:
    chance, began, root = random.Random(7), time.monotonic(), "s3://soak/faults"
    expired = (10.0, 40.0)
    world.store.struck.clear()

    def plan(environ: Environ) -> str | None:
        if expired[0] < time.monotonic() - began < expired[1]:
            return "expired"
        return chance.choice(["busy", "slow", "cut", "lost"]) if chance.random() < 0.04 else None

    world.tracker.stop()
    world.store.plan = plan
    try:
        submissions = world.finish(root)
        log = world.cluster.last_log()
    finally:
        world.store.plan = lambda environ: None
    assert "did not take everything" in log or "waits in" in log, log
    time.sleep(max(0.0, 600 - (time.monotonic() - began)))
    world.tracker.start()
    world.finish(root)
    check_same(world, root, calm)
    struck: dict[str, Any] = dict(Counter(world.store.struck))
    assert {"busy", "slow", "cut", "lost", "expired"} <= set(struck)
    record_property("faults", struck)
    record_property("submissions", submissions)
