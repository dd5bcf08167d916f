"""From a worker's hooks to MLflow: nothing is lost, nothing is logged twice, and a missing driver is noticed."""

import threading
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest

from pipelines.runtime.mlflow_run import Place, last_steps, log_metrics
from pipelines.runtime.output import Output
from pipelines.runtime.tracking import Tracker, spool_of
from pipelines.runtime.training.report import EventQueue, Reporter


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(str(tmp_path), "train_toy", "0123456789abcdef")


def where(root: Path) -> Place:
    return Place(f"sqlite:///{root}/mlflow.db", "sar3d", str(root / "mlartifacts"))


def metrics(step: int | None, **values: float) -> dict[str, Any]:
    return {"do": "metrics", "step": step, "values": values, "time": 1000 + (step or 0)}


def ask_for(seconds: float, reporter: Reporter) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        reporter.should_stop()
        time.sleep(0.05)


def test_each_metric_is_logged_once_a_step_however_often_it_comes(tmp_path: Path) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    run_id = client.create_run(client.create_experiment("x")).info.run_id
    first = [metrics(s, loss=float(s)) for s in (10, 20, 30, 40)]
    # A restart goes back to step 20, and evaluations fall between the logged steps.
    again = [metrics(25, error=0.5), metrics(30, loss=30.0), metrics(40, loss=40.0), metrics(50, loss=50.0, error=0.25)]
    log_metrics(client, run_id, [*first[:2], metrics(15, error=1.0), *first[2:]], {})
    known = last_steps(client, run_id)
    assert known == {"loss": 40, "error": 15}
    log_metrics(client, run_id, again, known)
    log_metrics(client, run_id, [metrics(None, answer=42.0)], known)
    log_metrics(client, run_id, [*again, metrics(None, answer=42.0)], last_steps(client, run_id))
    found = {name: [(m.step, m.value) for m in client.get_metric_history(run_id, name)] for name in known}
    assert found["loss"] == [(s, float(s)) for s in (10, 20, 30, 40, 50)]
    assert found["error"] == [(15, 1.0), (25, 0.5), (50, 0.25)]
    assert found["answer"] == [(50, 42.0)]


def test_an_entry_survives_a_driver_that_ends_right_after_taking_it(tmp_path: Path, output: Output) -> None:
    killed = Tracker(where(tmp_path), str(tmp_path), output, "train_toy")  # its thread never runs
    killed.send(*(metrics(step, loss=float(step)) for step in (1, 2)))
    assert len(spool_of(output).read_text().splitlines()) == 2
    after = Tracker(where(tmp_path), str(tmp_path), output, "train_toy")
    after.start()
    after.send(metrics(2, loss=2.0), metrics(3, loss=3.0))
    assert after.finish("FINISHED") is None
    assert not spool_of(output).exists()
    client = mlflow.MlflowClient(where(tmp_path).uri)
    assert [m.step for m in client.get_metric_history(str(after.run_id), "loss")] == [1, 2, 3]
    assert client.get_metric_history(str(after.run_id), "loss")[0].timestamp == 1001, "the worker's clock counts"


def test_what_workers_report_comes_in_order_and_is_safe_before_a_commit(local_ray: Any, output: Output) -> None:
    events = local_ray.remote(num_cpus=0, max_concurrency=100)(EventQueue).remote()
    reporter, other = Reporter(events, output, rank=0), Reporter(events, output, rank=1)
    for step in range(1, 6):
        reporter.log(step, {"loss": 1.0 / step})
    reporter.artifact("picture.png", b"png", 5)
    other.log(5, {"loss": 7.0})
    safe = threading.Event()
    waiting = threading.Thread(target=lambda: (reporter.committing(5), safe.set()))
    waiting.start()
    other.committing(5)

    taken: list[dict[str, Any]] = []
    while len(taken) < 6:
        time.sleep(0.1)
        assert not safe.is_set(), "the driver has not got everything yet"
        entries, silence = local_ray.get(events.collect.remote(len(taken), 0.5))
        assert silence < 5
        taken += entries
    local_ray.get(events.collect.remote(len(taken), 0.0))
    waiting.join(5)
    assert safe.is_set()
    assert [e["step"] for e in taken[:5]] == [1, 2, 3, 4, 5]
    assert taken[5]["name"] == "artifacts/step-000005/picture.png"
    assert output.store.read(taken[5]["name"]) == b"png"

    assert not other.should_stop()
    local_ray.get(events.stop.remote())
    deadline = time.monotonic() + 5
    while not (reporter.should_stop() and other.should_stop()):
        assert time.monotonic() < deadline
        time.sleep(0.05)

    local_ray.kill(events)
    with pytest.raises(RuntimeError, match="the driver of this training has gone"):
        ask_for(10.0, reporter)
