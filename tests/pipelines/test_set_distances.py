"""The matrix of distances at its full size: time, memory, and the same Parquet after kills at random moments."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from ray_cluster import REPOSITORY, kill_tree
from shapes_job import ellipsoid
from test_cluster import digests

from pipelines.runtime.output import Output, outputs
from pipelines.runtime.reading import read_rows
from sar3d.metrics.rows import point_columns, points_of
from sar3d.metrics.shapes.chamfer import chamfer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def start(root: Path, *numbers: int) -> subprocess.Popen[bytes]:
    job = str(Path(__file__).with_name("shapes_job.py"))
    with open(root.parent / f"{root.name}.log", "ab") as log:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        return subprocess.Popen(
            [sys.executable, job, str(root), *map(str, numbers)], stdout=log, stderr=log, env=environment, cwd="/"
        )


def output_of(root: Path) -> Output | None:
    return next(outputs(str(root), "set_distances"), None)


@pytest.mark.acceptance(
    "Matrix of distances killed with all its workers at random moments, run again: the same Parquet"
)
def test_killed_and_resumed_the_matrix_is_the_same(tmp_path: Path, record_property: Callable[..., None]) -> None:
    numbers = (150, 512, 4, 1)
    assert start(tmp_path / "calm", *numbers).wait(1200) == 0, (tmp_path / "calm.log").read_text()
    chance, blocks = random.Random(1), list[int]()
    for target in (2, 20, 60):
        process = start(tmp_path / "wild", *numbers)
        while (found := output_of(tmp_path / "wild")) is None or len(found.record_names()) < target:
            assert process.poll() is None, (tmp_path / "wild.log").read_text()
            time.sleep(0.1)
        time.sleep(chance.random())
        kill_tree(process)
        process.wait()
        blocks.append(len(found.record_names()))
    assert start(tmp_path / "wild", *numbers).wait(1200) == 0, (tmp_path / "wild.log").read_text()
    assert digests(str(tmp_path / "wild"), "set_distances") == digests(str(tmp_path / "calm"), "set_distances")
    record_property("blocks that were there when it was killed", blocks)


@pytest.mark.acceptance("600 × 600 shapes of 2,048 points: the matrix in 25 CPU-minutes, workers below 1 GB")
def test_the_published_size(tmp_path: Path, record_property: Callable[..., None]) -> None:
    process = start(tmp_path / "root", 600, 2048, 16, 0)
    most: dict[int, float] = {}
    used: dict[int, float] = {}
    while process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            try:
                if "set_distances" in " ".join(child.cmdline()):
                    most[child.pid] = max(most.get(child.pid, 0), child.memory_info().rss)
                    used[child.pid] = sum(child.cpu_times()[:2])
            except psutil.Error:
                continue
        time.sleep(1)
    assert process.returncode == 0, (tmp_path / "root.log").read_text()
    found = output_of(tmp_path / "root")
    assert found is not None
    rows = list(read_rows(found))
    assert len(rows) == 600
    assert {len(row["distances"]) for row in rows} == {600}
    row = rows[77]
    stored = [points_of(point_columns(ellipsoid(2048, seed), "mesh")) for seed in (2 * int(row["uid"]) + 1, 2 * 123)]
    assert row["distances"][123] == pytest.approx(chamfer(*stored), abs=1e-12)
    assert np.isfinite([value for row in rows for value in row["distances"]]).all()
    minutes = sum(used.values()) / 60
    record_property("CPU-minutes", round(minutes, 1))
    record_property("largest worker, MB", round(max(most.values()) / 1e6))
    assert minutes < 25
    assert max(most.values()) < 1e9
