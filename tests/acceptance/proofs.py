"""What the long proofs share: real objects, runs of the command line, their histories, and killing them."""

import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import psutil

from pipelines.runtime.output import Output, outputs

REPOSITORY = Path(__file__).resolve().parents[2]
Record = Callable[[str, object], None]
QUICK_TOKENIZER = (
    "download.procedural.count=8",
    "render.resolution=64",
    "render.shard_objects=4",
    "train_vqvae.task.model={resolution: 64, quantizer: {codebook_size: 256}, decoder: {depth: 1}}",
    "train_vqvae.task.codebook={quantize_start: 1, dead_code_reset_every: 0, dead_code_reset_until: 0}",
    "train_vqvae.train.steps=4",
    "train_vqvae.train.batch=2",
    "train_vqvae.workers=1",
    "train_vqvae.evaluate_objects=1",
    "train_vqvae.draw_objects=1",
    "cluster.cpus=5",
    "cluster.address=local",
)
"""Settings of the demo that make codes of a few objects in a minute; what they show is poor."""


def first_objects(source: Path, count: int, folder: Path, skip: int = 0) -> list[dict[str, Any]]:
    """The first objects by the sha256 of their uid that have distinct captions, as a folder of their own."""
    listed = json.loads((source / "manifest.json").read_text())
    listed.sort(key=lambda entry: hashlib.sha256(entry["uid"].encode()).hexdigest())
    chosen = list({entry["caption"]: entry for entry in reversed(listed)}.values())
    chosen.sort(key=lambda entry: hashlib.sha256(entry["uid"].encode()).hexdigest())
    chosen = chosen[skip : skip + count]
    for entry in chosen:
        target = folder / entry["file"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / entry["file"], target)
    (folder / "manifest.json").write_text(json.dumps(chosen))
    return chosen


def command(stage: str, config: str, root: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "pipelines.cli", stage, "--config", f"configs/{config}.yaml", f"root={root}", *words]


def finish(*words: Any) -> str:
    """Run to the end; what was printed."""
    done = subprocess.run(command(*words), cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@dataclass(frozen=True)
class Learned:
    """What a configuration has learned of the first objects."""

    root: Path
    words: list[str]
    """Settings beside the configuration and the root."""
    total: float
    """Seconds from views to the last model."""
    seconds: dict[str, float]
    """Of them, by stage."""

    def timing(self) -> str:
        return f"{self.total:.0f}: " + ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in self.seconds.items())


def learn(config: str, source: Path, objects: int, stages: Sequence[str], folder: Path) -> Learned:
    """Draw the first objects, then run the stages, timed."""
    assert len(first_objects(source, objects, folder / "objects")) == objects
    root, words = folder / "root", [f"download.directory.path={folder / 'objects'}", "cluster.address=local"]
    finish("run", config, root, *words, "stages=[download, render]")
    began = time.time()
    finish("run", config, root, *words, f"stages=[{', '.join(stages)}]")
    total = time.time() - began
    ends = {stage: only_output(root, stage).finished() or {} for stage in stages}
    return Learned(root, words, total, {stage: end["seconds"] for stage, end in ends.items()})


def history(root: Path, stage: str) -> dict[str, dict[int, float]]:
    """Step → value of each metric of a stage's only training run; fails where a step has two values."""
    client = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiment = client.get_experiment_by_name("sar3d")
    (run,) = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{stage}'")
    found = {}
    for name in run.data.metrics:
        if not name.startswith("system/"):
            points = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
            assert len(points) == len(dict(points)), f"{name} was logged twice at a step"
            found[name] = dict(points)
    return found


def only_output(root: Path, stage: str) -> Output:
    (output,) = outputs(str(root), stage)
    return output


def beginning(undisturbed: Path, root: Path, stage: str) -> Path:
    """A root with everything but a stage's training."""
    shutil.copytree(undisturbed, root, ignore=shutil.ignore_patterns(stage, "mlflow.db*", "mlartifacts"))
    return root


def killed_and_resumed(
    stage: str, config: str, words: Sequence[str], undisturbed: Path, root: Path, seed: int, compared: Collection[str]
) -> None:
    """Train with a worker, then the driver killed, then again: the model and the metrics of the undisturbed run.

    Args:
        words: settings with a checkpoint every few steps.
        undisturbed: a root where the stage has finished.
        root: a new one, see `beginning`.
        compared: metrics that must be equal to the bit.
    """
    chance = random.Random(seed)
    with open(root / "log", "wb") as log:
        process = subprocess.Popen(command(stage, config, root, *words), cwd=REPOSITORY, stdout=log, stderr=log)
        _await_commits(root, stage, 1, process)
        time.sleep(chance.random())
        chance.choice(_workers_below(process)).kill()
        _await_commits(root, stage, 2, process)
        time.sleep(chance.random())
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert "resuming at step" in finish(stage, config, root, *words)
    assert only_output(root, stage).model_digest() == only_output(undisturbed, stage).model_digest()
    mine, theirs = history(root, stage), history(undisturbed, stage)
    for name in compared:
        assert mine[name] == theirs[name], name


def _workers_below(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            found += [child] if "RayTrainWorker" in " ".join(child.cmdline()) else []
        except psutil.Error:
            continue
    return found


def _await_commits(root: Path, stage: str, count: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(3000):
        assert process.poll() is None, "training ended before it was disturbed"
        found = [o.state.read("committed.json") for o in outputs(str(root), stage)]
        if found and found[0] and len(json.loads(found[0])) >= count:
            return
        time.sleep(0.1)
    raise AssertionError("no checkpoint was committed")
