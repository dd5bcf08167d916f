"""A million objects on many nodes, with work that is none: what the driver needs, and how fast it goes on after a kill."""

import re
import time
from pathlib import Path

import psutil
import pytest
from proofs import Record
from ray_cluster import RayCluster

from pipelines.runtime.output import outputs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
OBJECTS = 1_000_000
SHARD = 5_000
NODES = 8


def driver(cluster: RayCluster) -> psutil.Process | None:
    found = [p for p in cluster.find("toy_job.py") if p.name().startswith("python")]
    return found[0] if found else None


def committed(root: str) -> int:
    return sum(len(list(output.state.path("records").glob("*.json"))) for output in outputs(root, "toy"))


def peak_mb(process: psutil.Process) -> float:
    """The most memory that a process has held so far."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    return int(found[1]) / 1024 if found else 0.0


@pytest.mark.acceptance(
    "A million listed objects with toy work on eight virtual nodes: the driver stays small, and a killed one goes on in seconds"
)
def test_a_million_objects_on_eight_nodes(tmp_path: Path, record_property: Record) -> None:
    (tmp_path / "ray").mkdir()
    cluster, root = RayCluster(tmp_path / "ray"), str(tmp_path / "root")
    try:
        for _ in range(NODES):
            cluster.add_node()
        cluster.ready()
        job = ("python", "tests/pipelines/toy_job.py", root, f"count={OBJECTS}", f"shard_objects={SHARD}")
        began, first = time.monotonic(), cluster.submit(*job)
        while committed(root) < OBJECTS // SHARD // 3:
            assert first.poll() is None, cluster.last_log()
            time.sleep(0.2)
        running = driver(cluster)
        assert running is not None
        before, half = peak_mb(running), time.monotonic() - began
        running.kill()
        first.wait()
        done = committed(root)
        again, again_began, resumed, peak = cluster.submit(*job), time.monotonic(), 0.0, 0.0
        while again.poll() is None:
            if not resumed and committed(root) > done:
                resumed = time.monotonic() - again_began
            if (running := driver(cluster)) is not None:
                try:
                    peak = max(peak, peak_mb(running))
                except (OSError, psutil.NoSuchProcess):
                    pass
            time.sleep(0.2)
        assert again.returncode == 0, cluster.last_log()
        rest = time.monotonic() - again_began
        (output,) = outputs(root, "toy")
        manifest = output.manifest() or {}
        assert manifest["rows"] == OBJECTS
        assert len(manifest["shards"]) == OBJECTS // SHARD
        repeated = re.search(r"(\d+) shards are committed already", cluster.last_log())
        assert repeated is not None
        assert int(repeated[1]) >= done
        code, log = cluster.run(*job)
        assert code == 0
        assert "reused" in log
    finally:
        cluster.close()
    assert peak < 2_000, "MB"
    assert resumed < 120, "seconds from the submission to the first new shard, the listing and Ray's start included"
    record_property("nodes", NODES)
    record_property("seconds to a third, and from the kill to the end", f"{half:.0f}, {rest:.0f}")
    record_property("seconds from the second submission to its first new shard", round(resumed, 1))
    record_property("driver's peak memory, MB", round(max(before, peak)))
