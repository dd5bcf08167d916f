"""MLflow: a real SQLite store and a real server; resumed runs, and a server that is down."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import ray
import toy
from ray_cluster import free_ports
from toy import ToyConfig, ToyStage, toy_pipeline

from pipelines.runtime.engine import run_stage
from pipelines.runtime.output import outputs
from pipelines.runtime.pipeline import Pipeline
from pipelines.runtime.tracking import TrackingConfig, place
from sar3d.errors import UserError

pytestmark = pytest.mark.usefixtures("local_ray")
ray.cloudpickle.register_pickle_by_value(toy)


def pipeline(root: Path, uri: str | None = None, **settings: object) -> Pipeline:
    toy_config = ToyConfig(**{"shard_objects": 8, **settings})
    return toy_pipeline(root=str(root), toy=toy_config, tracking=TrackingConfig(uri=uri))


def run(config: Pipeline):
    return run_stage(ToyStage(), config, log=lambda _: None)


@contextlib.contextmanager
def server(folder: Path, port: int) -> Iterator[str]:
    """`mlflow server` on a folder; several one after the other continue the same store."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
    command += [f"--backend-store-uri=sqlite:///{folder}/m.db", f"--artifacts-destination={folder}/artifacts"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(folder / "log", "ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    uri = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{uri}/health", timeout=1)
                break
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.1)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_default_store_holds_runs_params_metrics_inputs_and_artifacts(tmp_path: Path) -> None:
    report = run(pipeline(tmp_path, bad=(3,), seconds=0.5))
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    stage = client.get_run(report.run_id)
    parent = client.get_run(stage.data.tags["mlflow.parentRunId"])
    assert (stage.info.run_name, stage.info.status, parent.info.run_name) == ("toy", "FINISHED", tmp_path.name)
    assert stage.data.params["toy.factor"] == "3"
    assert stage.data.metrics["objects"] == 20
    assert stage.data.metrics["failed"] == 1
    assert stage.data.metrics["answer"] == 42.0
    assert any(name.startswith("system/") for name in stage.data.metrics)
    assert stage.inputs.dataset_inputs[0].dataset.digest == report.fingerprint
    assert {a.path for a in client.list_artifacts(report.run_id)} == {"config.yaml", "failures.csv"}
    assert stage.info.artifact_uri.startswith(str(tmp_path / "mlartifacts"))
    assert "000003" in Path(client.download_artifacts(report.run_id, "failures.csv")).read_text()


def test_a_resumed_stage_keeps_its_run_and_logs_no_step_twice(tmp_path: Path) -> None:
    many = {"count": 150, "bad": tuple(range(50)), "seconds": 0.02}
    with pytest.raises(UserError, match="max_failure_rate"):
        run(pipeline(tmp_path, **many))
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    output = next(outputs(str(tmp_path), "toy"))
    run_id = json.loads(output.state.read("mlflow.json") or b"")["run_id"]
    assert client.get_run(run_id).info.status == "FAILED"
    report = run(dataclasses.replace(pipeline(tmp_path, **many), max_failure_rate=1.0))
    assert report.run_id == run_id
    assert client.get_run(run_id).info.status == "FINISHED"
    steps = [m.step for m in client.get_metric_history(run_id, "objects")]
    assert len(steps) == len(set(steps))
    assert max(steps) == 150


def test_a_server_that_is_down_stops_nothing_and_gets_everything_later(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    config = pipeline(tmp_path / "root", uri=f"http://127.0.0.1:{port}")
    report = run(config)
    assert report.state == "done"
    spool = tmp_path / "root" / "toy" / report.fingerprint / "_state" / "mlflow-spool.jsonl"
    assert spool.exists()
    with server(tmp_path / "server", port) as uri:
        assert run(config).state == "reused"
        assert not spool.exists()
        runs = mlflow.MlflowClient(uri).search_runs(["1"], filter_string="attributes.run_name = 'toy'")
        assert len(runs) == 1
        assert runs[0].info.status == "FINISHED"
        assert runs[0].data.metrics["objects"] == 20
        assert {a.path for a in mlflow.MlflowClient(uri).list_artifacts(runs[0].info.run_id)} >= {"failures.csv"}


def test_a_remote_root_needs_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match="set MLFLOW_TRACKING_URI"):
        place(toy_pipeline(root="s3://bucket/x", tracking=TrackingConfig()))
