"""What the project promises, as a user would see it: the long ones. Run by `make acceptance`."""

import json
import os
import random
import re
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest
import trimesh
from proofs import REPOSITORY, Record

from pipelines.registry import STAGES, load
from pipelines.runtime.output import outputs
from pipelines.runtime.reading import read_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def sar3d(*words: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


@dataclass(frozen=True)
class Demo:
    """What `make setup` and `make demo` did in a fresh clone."""

    clone: Path
    environment: dict[str, str]
    installation: float
    seconds: float
    said: str
    code: int

    @property
    def root(self) -> Path:
        return self.clone / "runs" / "demo"

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, cwd=self.clone, env=self.environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    clone = tmp_path_factory.mktemp("fresh") / "sar3d"
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(clone)], check=True)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "AWS_", "PYTEST"))}
    started = time.monotonic()
    subprocess.run(["make", "setup"], cwd=clone, env=environment, check=True, capture_output=True)
    installation, started = time.monotonic() - started, time.monotonic()
    made = subprocess.run(["make", "demo"], cwd=clone, env=environment, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - started
    return Demo(clone, environment, installation, seconds, made.stdout + made.stderr, made.returncode)


@pytest.mark.acceptance(
    "Fresh clone: `make demo` draws built-in objects, trains tokenizer, generators and captioner, makes and describes 3D files, "
    "and a page, in 10 minutes"
)
def test_demo_from_a_fresh_clone(demo: Demo, record_property: Record) -> None:
    record_property("installation, s", round(demo.installation))
    record_property("make demo, s", round(demo.seconds))
    assert demo.code == 0, demo.said
    assert demo.seconds < 600
    sheet = re.search(r"picture viewer: (\S+contact_sheet\.png)", demo.said)
    assert sheet is not None, demo.said
    assert Path(sheet[1]).stat().st_size > 10_000
    (made,) = demo.root.glob("train_vqvae/*/artifacts/step-*/reconstructions_views.png")
    assert made.stat().st_size > 10_000
    assert list(demo.root.glob("cache_tokens/*/_SUCCESS"))
    assert list(demo.root.glob("cache_conditions/*/_SUCCESS"))
    files = list(demo.root.glob("generate/*/files/*/object.glb"))
    assert len(files) == 8, "four objects from captions and four from pictures"
    assert all(len(trimesh.load(file, force="mesh").faces) > 100 for file in files)
    described = [json.loads((file.parent / "settings.json").read_text())["caption"] for file in files]
    assert all(described)
    record_property("captions of generated objects", described)
    (table,) = demo.root.glob("evaluate/*/artifacts/evaluation.csv")
    assert "captions" in table.read_text()
    assert (demo.root / "report.html").stat().st_size > 100_000
    assert demo.call(".venv/bin/sar3d", "verify", "--config", "configs/demo.yaml").returncode == 0
    assert "mlflow ui --backend-store-uri sqlite:///" in demo.said
    started = time.monotonic()
    again = demo.call("make", "demo")
    assert again.returncode == 0
    assert "reused" in again.stdout
    record_property("make demo again, s", round(time.monotonic() - started))


@pytest.mark.acceptance(
    "The demo killed at random moments and run again ends with the same models, objects and captions"
)
def test_demo_killed_and_run_again(demo: Demo, tmp_path: Path, record_property: Record) -> None:
    chance, root = random.Random(3), tmp_path / "demo"
    words = [sys.executable, "-m", "pipelines.cli", "run", "--config", "configs/demo.yaml", f"root={root}"]
    moments = []
    for share in (chance.uniform(0.1, 0.4), chance.uniform(0.1, 0.4)):
        with open(tmp_path / "log", "ab") as log:
            process = subprocess.Popen(words, cwd=REPOSITORY, stdout=log, stderr=log)
            time.sleep(share * demo.seconds)
            assert process.poll() is None, (tmp_path / "log").read_text()
            process.kill()
            process.wait()
        running = [stage for stage in STAGES if list(outputs(str(root), stage))]
        moments.append(f"{running[-1]} after {share * demo.seconds:.0f} s")
    record_property("killed in", moments)
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for stage in load("configs/demo.yaml", []).stages:
        ((mine,), (theirs,)) = (list(outputs(str(place), stage)) for place in (root, demo.root))
        assert mine.finished() is not None
        if stage.startswith("train_"):
            assert mine.model_digest() == theirs.model_digest(), stage
        columns = SAME.get(stage)
        assert columns is None or list(read_rows(mine, columns)) == list(read_rows(theirs, columns)), stage


SAME = {
    "cache_tokens": ["uid", "group", "codes"],
    "generate": ["uid", "tokens", "caption", "glb"],
    "caption": ["uid", "caption"],
    "evaluate": ["uid", "said", "numbers"],
}
"""Columns that do not depend on when they were made."""


@pytest.mark.acceptance("All objects of the development folder are drawn at 256² from 40 views, none fails")
def test_all_objects_of_the_folder(shared: Path, tmp_path: Path, record_property: Record) -> None:
    words = ("--config", "configs/objects.yaml", f"download.directory.path={shared / 'objects'}", f"root={tmp_path}")
    started = time.monotonic()
    result = sar3d("run", *words)
    seconds = time.monotonic() - started
    assert result.returncode == 0, result.stderr
    (output,) = outputs(str(tmp_path), "render")
    assert output.failures() == []
    views: dict[str, set[int]] = defaultdict(set)
    for row in read_rows(output, ["uid", "view_ids"]):
        views[row["uid"]] |= set(row["view_ids"])
    assert len(views) == 467
    assert {frozenset(v) for v in views.values()} == {frozenset(set(range(40)) - {24, 39})}, "24 and 39 repeat 0 and 27"
    record_property("objects", len(views))
    record_property("views/s with start-up", round(40 * len(views) / seconds, 1))


@pytest.mark.acceptance("A full disk is one clear sentence and a non-zero exit code, and loses nothing")
def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(disk)], capture_output=True).returncode:
        pytest.skip("this machine does not let us mount a small disk")
    try:
        words = ("--config", "configs/demo.yaml", f"root={disk}/root", "download.procedural.count=60")
        words += ("download.shard_objects=6", "render.views=4", "render.resolution=64", "tracking.enabled=false")
        full = sar3d("run", *words)
        assert full.returncode == 2, full.stderr
        assert "Traceback" not in full.stderr
        assert "no space is left there" in full.stderr.splitlines()[-1]
        subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
        assert sar3d("run", *words).returncode == 0
        (output,) = outputs(f"{disk}/root", "render")
        assert len({r["uid"] for r in read_rows(output, ["uid"])}) == 60
    finally:
        subprocess.run(["umount", str(disk)], check=True)
