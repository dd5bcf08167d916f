"""Training whose workers, nodes and driver are killed: the same losses to the bit, one MLflow run, no metric twice."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import psutil
import pytest
import ray_cluster
from ray_cluster import REPOSITORY, RayCluster

from pipelines.runtime.output import Output, outputs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

JOB = "tests/pipelines/training/train_toy_job.py"
STEPS = 24
SETTINGS = (f"train.steps={STEPS}", "train.checkpoint_every=4", "train.evaluate_every=5", "workers=2", "tracking=true")
LOGGED = ("loss", "reconstruction", "grad_norm", "discriminator")


def command(root: Path, *more: str) -> list[str]:
    return [sys.executable, JOB, str(root), *SETTINGS, *more]


def train(root: Path, *more: str) -> str:
    """An undisturbed run as a program of its own; what it printed."""
    done = subprocess.run(command(root, *more), cwd=REPOSITORY, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[int, float]]]:
    """Every metric of an uninterrupted run on two workers, and its model's digest."""
    root = tmp_path_factory.mktemp("undisturbed")
    train(root)
    return history(root)


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    return ray_cluster.bare_python(tmp_path_factory.mktemp("bare"))


def only_output(root: Path) -> Output:
    (output,) = outputs(str(root), "train_toy")
    return output


def history(root: Path) -> dict[str, list[tuple[int, float]]]:
    """Step and value of each metric of the only training run, in the order of the steps, and the model's digest."""
    client = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiment = client.get_experiment_by_name("sar3d")
    (run,) = client.search_runs([experiment.experiment_id], "attributes.run_name = 'train_toy'")
    assert run.info.status == "FINISHED"
    names = [name for name in run.data.metrics if not name.startswith("system/")]
    found = {n: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, n)] for n in names}
    return {**found, "model": [(STEPS, float(int(only_output(root).model_digest()[:12], 16)))]}


def assert_same(root: Path, undisturbed: dict[str, list[tuple[int, float]]]) -> None:
    found = history(root)
    assert [step for step, _ in found["error"]] == [5, 10, 15, 20, STEPS]
    assert [step for step, _ in found["loss"]] == list(range(1, STEPS + 1))
    for name in (*LOGGED, "error", "model"):
        assert found[name] == undisturbed[name], name
    for name, points in found.items():
        steps = [step for step, _ in points]
        assert len(steps) == len(set(steps)), f"{name} was logged twice at a step"


def begun(trace: Path) -> int:
    """Steps that some worker has begun, counting each time."""
    return len(list(trace.iterdir()))


def await_steps(trace: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    until = begun(trace) + 2 * count
    while begun(trace) < until:
        assert process.poll() is None, "training ended before it was disturbed"
        time.sleep(0.05)


def below(process: subprocess.Popen[bytes], word: str) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            found += [child] if word in " ".join(child.cmdline()) else []
        except psutil.Error:
            continue
    return found


@pytest.mark.acceptance(
    "Training on 2 workers, a worker, then the driver killed at random steps: the losses of an uninterrupted run to the "
    "bit, one MLflow run, no metric twice"
)
def test_killed_worker_and_driver(
    tmp_path: Path, undisturbed: dict[str, list[tuple[int, float]]], record_property: Callable[[str, object], None]
) -> None:
    chance = random.Random(tmp_path.name)
    root, trace = tmp_path / "root", tmp_path / "trace"
    trace.mkdir()
    slow = (f'trace="{trace}"', "seconds=0.15")

    with open(tmp_path / "log", "wb") as log:
        first = subprocess.Popen(command(root, *slow), cwd=REPOSITORY, stdout=log, stderr=log)
        await_steps(trace, chance.randint(3, 9), first)
        chance.choice(below(first, "RayTrainWorker")).kill()
        await_steps(trace, chance.randint(6, 10), first)  # a checkpoint comes every four
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert "train_toy: lost worker " in (tmp_path / "log").read_text()
    record_property("steps begun before the driver's end", begun(trace) // 2)

    done = subprocess.run(command(root, *slow), cwd=REPOSITORY, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resuming at step" in done.stderr
    assert_same(root, undisturbed)
    steps = [int(p.name[:4]) for p in trace.iterdir()]
    assert len(steps) < 2 * STEPS + 2 * 2 * 8, "little was done twice"


def test_sigterm_commits_a_checkpoint_and_exits_non_zero(
    tmp_path: Path, undisturbed: dict[str, list[tuple[int, float]]]
) -> None:
    root, trace = tmp_path / "root", tmp_path / "trace"
    trace.mkdir()
    process = subprocess.Popen(
        command(root, f'trace="{trace}"', "seconds=0.15", "train.checkpoint_every=1000"),
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
    )
    await_steps(trace, 3, process)
    process.terminate()
    _, printed = process.communicate(timeout=200)
    assert process.returncode == 128 + signal.SIGTERM
    assert "run the same command again to go on" in printed.decode()
    output = only_output(root)
    steps = json.loads(output.state.read("committed.json") or b"[]")
    assert len(steps) == 1
    assert steps[0] >= 3
    assert json.loads(output.state.read("stopped.json") or b"")["reason"].startswith("stopped by SIGTERM")
    assert f"resuming at step {steps[0]}" in train(root)
    assert_same(root, undisturbed)


@pytest.mark.acceptance(
    "`ray job submit` of a training stage on nodes without the package; a worker, a node and the driver killed"
)
def test_submitted_to_a_cluster(
    tmp_path: Path, bare_python: str, undisturbed: dict[str, list[tuple[int, float]]]
) -> None:
    chance = random.Random(7)
    root, trace, folder = tmp_path / "root", tmp_path / "trace", tmp_path / "cluster"
    for made in (trace, folder):
        made.mkdir()
    cluster = RayCluster(folder, python=bare_python, cpus=1, environment={"OMP_NUM_THREADS": "1"})
    try:
        for _ in range(3):
            cluster.add_node()

        def submit() -> subprocess.Popen[bytes]:
            words = (str(root), *SETTINGS, f'trace="{trace}"', "seconds=0.2")
            return cluster.submit("python", JOB, *words)

        job = submit()
        await_steps(trace, 6, job)
        chance.choice(cluster.find("ray::RayTrainWorker")).kill()
        await_steps(trace, 6, job)
        cluster.lose_node("ray::RayTrainWorker", chance)
        await_steps(trace, 6, job)
        for driver in cluster.find(JOB):
            driver.kill()
        assert job.wait(120) != 0
        job = submit()
        assert job.wait(600) == 0, cluster.last_log()
        assert "resuming at step" in cluster.last_log()
    finally:
        cluster.close()
    assert_same(root, undisturbed)
