"""A Ray cluster of three nodes whose Python lacks our packages: jobs, kills, two submissions, invisible roots."""

import hashlib
import io
import os
import random
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray_cluster
from ray_cluster import REPOSITORY, RayCluster, kill_tree

from pipelines.runtime.output import Output, outputs

pytestmark = pytest.mark.timeout(900)

RENDER = (
    "python",
    "-m",
    "pipelines.run",
    "--config",
    "configs/demo.yaml",
    "tracking.enabled=false",
    "stages=[download, render]",
    "render.views=8",
)
SMALL = ("render.resolution=64", "render.shard_objects=3", "download.shard_objects=12")


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    return ray_cluster.bare_python(tmp_path_factory.mktemp("bare"))


@pytest.fixture(scope="module")
def cluster(bare_python: str, _s3_environment: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    made = RayCluster(tmp_path_factory.mktemp("cluster"), python=bare_python)
    made.add_node()
    made.add_node()
    made.ready()
    yield made
    made.close()


def digests(root: str, stage: str) -> dict[str, str]:
    """SHA-256 of what each shard's file holds now, by shard name."""
    (output,) = outputs(root, stage)
    manifest = output.manifest()
    assert output.finished()
    assert manifest
    found = {}
    for shard in manifest["shards"]:
        data = output.store.read(shard["path"])
        assert data is not None
        found[shard["shard"]] = hashlib.sha256(data).hexdigest()
        assert found[shard["shard"]] == shard["sha256"]
    return found


def uids(root: str, stage: str) -> list[tuple[str, int]]:
    (output,) = outputs(root, stage)
    return [
        (r["uid"], r["group"]) for f in output.files() for r in pq.read_table(f, columns=["uid", "group"]).to_pylist()
    ]


def keep_submitting(
    cluster: RayCluster, job: Callable[[], subprocess.Popen[bytes]], disturb: Callable[[], None]
) -> int:
    """Submit until the job succeeds, disturbing it meanwhile; how many submissions that took."""
    for submissions in range(1, 30):
        process = job()
        while process.poll() is None:
            disturb()
            time.sleep(0.1)
        if process.returncode == 0:
            return submissions
        assert "Traceback" not in cluster.last_log() or "SIGKILL" in cluster.last_log(), cluster.last_log()
    raise AssertionError(cluster.last_log())


def killer(
    cluster: RayCluster, plan: list[str], seed: int, pause: tuple[float, float]
) -> tuple[Callable[[], None], list[str]]:
    """A function that, called again and again, carries out `plan` at random moments, and the list of what it killed."""
    chance = random.Random(seed)
    left, killed = list(plan), []
    due = time.monotonic() + chance.uniform(*pause)

    def disturb() -> None:
        nonlocal due
        if left and time.monotonic() >= due and cluster.kill_one(left[0], chance):
            killed.append(left.pop(0))
            due = time.monotonic() + chance.uniform(*pause)

    return disturb, killed


def toy(cluster: RayCluster, root: str, trace: Path, **more: str) -> subprocess.Popen[bytes]:
    trace.mkdir(exist_ok=True)
    settings = {"count": "96", "shard_objects": "4", "seconds": "0.15", "trace": f'"{trace}"', **more}
    return cluster.submit("python", "tests/pipelines/toy_job.py", root, *(f"{k}={v}" for k, v in settings.items()))


def toy_rows(root: str) -> list[tuple[str, int]]:
    (output,) = outputs(root, "toy")
    rows = []
    for shard in output.manifest()["shards"]:
        rows += pq.read_table(io.BytesIO(output.store.read(shard["path"]))).to_pylist()
    return [(r["uid"], r["value"]) for r in rows]


@pytest.mark.acceptance(
    "ray job submit on nodes without the package: imported from the upload (< 10 MB); finished stages answer in 3 s"
)
def test_a_submitted_job_renders_on_nodes_without_our_package(cluster: RayCluster, tmp_path: Path) -> None:
    arguments = (*RENDER, *SMALL, f"root={tmp_path}", "download.procedural.count=12")
    code, log = cluster.run(*arguments)
    assert code == 0, log
    assert Counter(uids(str(tmp_path), "render")).most_common(1)[0][1] == 1
    packages = [
        p for t in cluster.temps for p in Path(t).glob("session_*/runtime_resources/working_dir_files/_ray_pkg_*")
    ]
    sizes = [sum(f.stat().st_size for f in p.rglob("*") if f.is_file()) for p in packages if p.is_dir()]
    assert 0 < max(sizes) < 10_000_000
    code, log = cluster.run(*arguments)
    assert code == 0, log
    seconds = [float(s) for s in re.findall(r"│ reused │.*│ *([\d.]+) *│ finished before", log)]
    assert len(seconds) == 2
    assert sum(seconds) < 3


def test_a_cluster_takes_no_job_without_its_token(cluster: RayCluster) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{cluster.address}/api/jobs/", timeout=20)
    assert refused.value.code == 401


def test_a_relative_root_in_a_job_is_one_sentence(cluster: RayCluster) -> None:
    code, log = cluster.run(*RENDER, "root=runs/here")
    assert code != 0
    assert "error: root=runs/here is relative" in log
    assert "Traceback" not in log


def test_killed_worker_renderer_and_driver(cluster: RayCluster, tmp_path: Path) -> None:
    """The short form of the acceptance rounds: output identical to an undisturbed run, no row twice."""
    arguments = (*RENDER, *SMALL, "download.procedural.count=18")
    code, log = cluster.run(*arguments, f"root={tmp_path / 'calm'}")
    assert code == 0, log
    disturb, killed = killer(cluster, ["worker", "renderer", "driver"], seed=1, pause=(0.5, 1.5))
    keep_submitting(cluster, lambda: cluster.submit(*arguments, f"root={tmp_path / 'wild'}"), disturb)
    assert killed == ["worker", "renderer", "driver"]
    assert digests(str(tmp_path / "wild"), "render") == digests(str(tmp_path / "calm"), "render")
    assert Counter(uids(str(tmp_path / "wild"), "render")).most_common(1)[0][1] == 1


@pytest.mark.slow
def test_repeated_work_is_at_most_a_shard_per_worker(cluster: RayCluster, tmp_path: Path) -> None:
    root, trace = str(tmp_path / "root"), tmp_path / "trace"
    disturb, killed = killer(cluster, ["driver"], seed=2, pause=(3, 5))
    submissions = keep_submitting(cluster, lambda: toy(cluster, root, trace), disturb)
    assert (killed, submissions) == (["driver"], 2)
    assert toy_rows(root) == [(f"{i:06d}", 3 * i) for i in range(96)]
    repeated = sum(n - 1 for n in Counter(p.name.split(".")[0] for p in trace.iterdir()).values())
    assert repeated <= 2 * 4, "two workers, four objects a shard"


@pytest.mark.slow
@pytest.mark.acceptance("Two submissions at once: one works, the other says so")
def test_two_submissions_at_once(cluster: RayCluster, tmp_path: Path) -> None:
    root, trace = str(tmp_path / "root"), tmp_path / "trace"
    first = toy(cluster, root, trace, seconds="0.3")
    while not trace.exists() or not any(trace.iterdir()):
        time.sleep(0.1)
    second = toy(cluster, root, trace, seconds="0.3")
    assert second.wait(60) != 0
    assert "is being worked on by process" in cluster.last_log()
    assert first.wait(120) == 0
    assert set(Counter(p.name.split(".")[0] for p in trace.iterdir()).values()) == {1}


@pytest.mark.slow
@pytest.mark.acceptance("A root that some node cannot see is one sentence")
def test_a_root_that_a_node_cannot_see_is_one_sentence(cluster: RayCluster, tmp_path: Path) -> None:
    hidden = tmp_path / "shared"
    hidden.mkdir()
    prefix = ("unshare", "-m", "sh", "-c", f'mount -t tmpfs none {hidden} && exec "$@"', "--")
    if subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("this machine does not let us make a mount namespace")
    node = cluster.add_node(prefix)
    try:
        deadline = time.monotonic() + 60
        while cluster.alive() < 4:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        process = toy(cluster, str(hidden / "root"), tmp_path / "trace")
        assert process.wait(90) != 0
        log = cluster.last_log()
        assert "cannot see the root" in log
        assert "Traceback" not in log
    finally:
        kill_tree(node)
        node.wait()
        cluster.nodes.remove(node)


@pytest.mark.acceptance(
    "Ten rounds of killed workers, render processes, nodes, drivers: byte-identical output, no row twice, no copy requests on S3"
)
@pytest.mark.slow
@pytest.mark.parametrize("where", ["file", "s3"])
def test_ten_rounds_of_kills(
    cluster: RayCluster,
    where: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    record_property: Callable[..., None],
) -> None:
    """Worker, render process, whole node and driver, ten rounds each world; the rows stay what they were."""
    base = str(tmp_path) if where == "file" else request.getfixturevalue("s3_root")
    requests = request.getfixturevalue("s3_requests") if where == "s3" else []
    arguments = (*RENDER[:-1], "render.views=30", "render.resolution=192", *SMALL[1:], "download.procedural.count=48")
    code, log = cluster.run(*arguments, f"root={base}/calm")
    assert code == 0, log
    calm = digests(f"{base}/calm", "render")
    total: list[str] = []
    for round_ in range(10):
        chance = random.Random(round_)
        plan = chance.sample(["worker", "renderer", "node", "driver"], k=chance.randint(2, 4))
        disturb, killed = killer(cluster, plan, seed=round_, pause=(0.5, 3.0))
        root = f"{base}/round{round_}"
        keep_submitting(cluster, lambda root=root: cluster.submit(*arguments, f"root={root}"), disturb)
        assert digests(root, "render") == calm
        total += killed
    assert set(total) == {"worker", "renderer", "node", "driver"}
    assert len(total) >= 15
    assert not [r for r in requests if " copied from " in r]
    record_property("killed", dict(Counter(total)))


@pytest.mark.acceptance("However it is interrupted, at most one shard per worker is repeated")
@pytest.mark.slow
def test_ten_rounds_of_repetition(cluster: RayCluster, tmp_path: Path, record_property: Callable[..., None]) -> None:
    """However the stage is interrupted, a submission repeats at most one shard per worker."""
    worst = 0
    for round_ in range(10):
        root, trace = str(tmp_path / f"root{round_}"), tmp_path / f"trace{round_}"
        kind = ["driver", "worker", "node"][round_ % 3]
        disturb, killed = killer(cluster, [kind], seed=round_, pause=(2, 6))
        keep_submitting(cluster, lambda root=root, trace=trace: toy(cluster, root, trace), disturb)
        assert toy_rows(root) == [(f"{i:06d}", 3 * i) for i in range(96)]
        repeated = sum(n - 1 for n in Counter(p.name.split(".")[0] for p in trace.iterdir()).values())
        worst = max(worst, repeated)
        assert repeated <= 2 * 4, (kind, killed)
    record_property("objects repeated at worst", worst)


@pytest.mark.slow
def test_the_output_class_reads_what_a_cluster_wrote(cluster: RayCluster, tmp_path: Path) -> None:
    process = toy(cluster, str(tmp_path / "root"), tmp_path / "trace", count="8", seconds="0")
    assert process.wait(90) == 0
    (output,) = outputs(str(tmp_path / "root"), "toy")
    assert isinstance(output, Output)
    assert [os.path.isabs(f) for f in output.files()] == [True, True]
    assert REPOSITORY not in Path(output.url).parents
