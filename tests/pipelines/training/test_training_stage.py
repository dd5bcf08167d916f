"""Training as a stage, on a real local Ray: continue, reuse, refuse, log; what is in the output."""

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import mlflow
import pytest
import ray
import torch
import toy_stage
import toy_task
from toy_stage import ToyTrainConfig, TrainToyStage, toy_pipeline
from toy_task import ToyTask

from pipelines import gc, status
from pipelines.runtime import engine, runner
from pipelines.runtime.cluster import ClusterConfig
from pipelines.runtime.engine import Options
from pipelines.runtime.output import Output
from pipelines.runtime.pipeline import Pipeline
from pipelines.runtime.stage import Context, StageReport
from pipelines.runtime.tracking import TrackingConfig
from sar3d.errors import UserError

pytestmark = pytest.mark.usefixtures("local_ray")
for module in (toy_task, toy_stage):
    ray.cloudpickle.register_pickle_by_value(module)


def pipeline(root: Path, tracked: bool = False, steps: int = 2, **values: Any) -> Pipeline:
    train = toy_stage.settings(steps=steps, **values.pop("train", {}))
    config = ToyTrainConfig(train=train, **values)
    return toy_pipeline(str(root), config, tracking=TrackingConfig(enabled=tracked), cluster=ClusterConfig(patience=2))


def run(config: Pipeline, said: list[str] | None = None, dry: bool = False) -> StageReport:
    return runner.run(TrainToyStage(), config, Options(dry_run=dry), (said if said is not None else []).append)


def fingerprint(config: Pipeline) -> str:
    return run(config, dry=True).fingerprint


def test_hardware_and_length_are_not_in_the_fingerprint_and_settings_are(tmp_path: Path) -> None:
    first = fingerprint(pipeline(tmp_path))
    same = {"workers": 2, "cpus": 0.5, "max_failures": 1, "steps": 9}
    assert fingerprint(pipeline(tmp_path, **same)) == first
    assert fingerprint(pipeline(tmp_path, train={"checkpoint_every": 7, "log_every": 3, "zero": 1})) == first
    assert fingerprint(pipeline(tmp_path, train={"seed": 1})) != first
    assert fingerprint(pipeline(tmp_path, samples=25)) != first
    assert not list(tmp_path.iterdir()), "a dry run leaves nothing"


def test_train_continue_reuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The life of one output: trained, found finished, continued by more steps, kept when fewer are asked for."""
    monkeypatch.setattr("pipelines.status.STAGES", {"train_toy": TrainToyStage()})
    said: list[str] = []
    first = run(pipeline(tmp_path, tracked=True), said)
    assert (first.state, first.steps, first.objects, first.why) == ("done", 2, 24, "2 steps done")
    assert any(line.startswith("train_toy: step 2/2, loss 0.") for line in said)
    output = Output(str(tmp_path), "train_toy", first.fingerprint)
    manifest, success = output.manifest() or {}, output.finished() or {}
    assert (manifest["steps"], manifest["model"]["digest"]) == (2, output.model_digest())
    assert success["steps"] == 2
    assert output.content() == f"{first.fingerprint}@{output.model_digest()}"
    assert output.files() == []
    assert output.store.exists("model/model.safetensors")
    assert "steps: 2" in (output.store.read("artifacts/config.yaml") or b"").decode()

    again = run(pipeline(tmp_path, tracked=True))
    assert (again.state, again.why, again.seconds < 2) == ("reused", "finished before", True)

    planned = run(pipeline(tmp_path, steps=3), dry=True)
    assert planned.why == "would resume at step 2; 1 of 3 steps are to be done"
    digest = output.model_digest()
    more = run(pipeline(tmp_path, tracked=True, steps=3))
    assert (more.state, more.steps, more.why) == ("done", 3, "1 step done, 2 before")
    assert (more.fingerprint, more.run_id) == (first.fingerprint, first.run_id)
    assert output.model_digest() != digest

    fewer = run(pipeline(tmp_path, tracked=True))
    assert (fewer.state, fewer.why) == ("reused", "trained for 3 steps before, more than the 2 asked")
    (row,) = [r for r in status.status(str(tmp_path)) if r["stage"] == "train_toy"]
    assert (row["state"], row["steps"], row["current"]) == ("done", 3, True)
    assert "3" in status.table([row])
    _check_tracking(tmp_path, first, output)


def _check_tracking(root: Path, report: StageReport, output: Output) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")
    tracked = client.get_run(str(report.run_id))
    assert (tracked.info.run_name, tracked.info.status) == ("train_toy", "FINISHED")
    assert tracked.data.params["train_toy.train.batch"] == "4"
    assert tracked.data.tags["steps"] == "3"
    for name, steps in {"loss": [1, 2, 3], "error": [2, 3], "grad_norm": [1, 2, 3]}.items():
        assert [m.step for m in client.get_metric_history(str(report.run_id), name)] == steps, name
    pictures = [a.path for a in client.list_artifacts(str(report.run_id), "step-000003")]
    assert pictures
    assert output.store.exists(f"artifacts/{pictures[0]}")
    versions = client.search_model_versions("name = 'sar3d-train_toy'")
    assert sorted(v.tags["step"] for v in versions) == ["2", "3"]
    newest = next(v for v in versions if v.tags["step"] == "3")
    assert newest.tags["digest"] == output.model_digest()
    files = {Path(a.path).name for a in client.list_artifacts(str(report.run_id), "model/step-000003")}
    assert files == {"model.safetensors", "config.json"}


def test_a_model_to_start_from_is_part_of_the_identity(tmp_path: Path) -> None:
    task, folders = toy_stage.StagedTask(), [tmp_path / name for name in ("a", "b", "out/train_toy/0123/model")]
    for seed, folder in enumerate(folders):
        folder.mkdir(parents=True)
        torch.manual_seed(min(seed, 1))
        task.export(task.build(), folder)
    root = tmp_path / "root"
    first, second, third = (fingerprint(pipeline(root, init_from=str(folder))) for folder in folders)
    assert first not in (second, fingerprint(pipeline(root)))
    assert second == third, "what counts is the model, not its place"
    assert fingerprint(pipeline(root, init_from=str(folders[2].parent))) == third, "an output's folder will do"
    with pytest.raises(UserError, match=r"train_toy\.init_from cannot be used: there is no folder .*nowhere"):
        fingerprint(pipeline(root, init_from=str(tmp_path / "nowhere")))


def test_gc_keeps_the_current_training_and_the_model_that_it_began_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, root = TrainToyStage(), tmp_path / "root"
    monkeypatch.setattr(gc, "STAGES", {"train_toy": stage})
    origin, forgotten = (Output(str(root), "train_toy", letter * 16) for letter in "ab")
    for seed, output in enumerate((origin, forgotten)):
        torch.manual_seed(seed)
        model = output.store.path("model")
        model.mkdir(parents=True)
        stage.build(Context(ToyTrainConfig()), print).task.export(ToyTask().build(), model)
    config = pipeline(root, init_from=origin.url)
    current = Output(str(root), "train_toy", fingerprint(config))
    engine.point(stage, config, current.fingerprint, Options())
    current.store.put("checkpoints/step-000000002.json", b"{}")
    gc.collect([config], delete=True)
    assert current.store.exists("checkpoints/step-000000002.json")
    assert origin.store.exists("model/model.safetensors")
    assert not forgotten.store.path("").exists()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"workers": 3}, "a batch of 4 cannot be shared evenly by 3 workers"),
        ({"gpus": 0.5, "workers": 2}, "each worker has one GPU or none"),
        ({"workers": 0}, "workers=0 cannot train"),
    ],
)
def test_wrong_settings_are_one_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        ToyTrainConfig(train=toy_stage.settings(), **values)


def test_no_room_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="has not got room for 4 workers of 1 CPUs and 0 GPUs each; add nodes, or lower"
    ):
        run(pipeline(tmp_path, workers=4))


def test_what_a_worker_refuses_comes_out_as_its_sentence_at_once(tmp_path: Path) -> None:
    config = pipeline(tmp_path, steps=6, fail="user", workers=2)
    with pytest.raises(UserError, match=r"^the toy cannot be trained: choose another$"):
        run(config)
    output = Output(str(tmp_path), "train_toy", fingerprint(config))
    assert json.loads(output.state.read("stopped.json") or b"")["reason"].startswith("the toy cannot be trained")
    assert fingerprint(config) == run(dataclasses.replace(config), dry=True).fingerprint
    assert run(config, dry=True).why == "would resume at step 2; 4 of 6 steps are to be done"


@pytest.mark.slow
def test_a_bug_is_not_tried_again(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.mkdir()
    with pytest.raises(Exception, match="a name that is not there"):
        run(pipeline(tmp_path, steps=6, fail="bug", trace=str(trace)))
    assert Counter(p.name[:4] for p in trace.iterdir())["0003"] == 1


@pytest.mark.slow
def test_too_many_lost_workers_are_one_sentence(tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(UserError, match=r"lost its workers more than train_toy.max_failures times"):
        run(pipeline(tmp_path, steps=6, fail="crash", max_failures=1), said)
    assert "train_toy: lost worker 0; starting again at step 2" in said
