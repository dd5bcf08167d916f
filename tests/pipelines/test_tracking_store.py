"""The tracker when somebody deletes, moves or refuses something: nothing is lost, and what to do is said. No Ray here."""

import json
import logging
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
from mlflow.exceptions import MlflowException, RestException
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

from pipelines.runtime.mlflow_run import is_permanent
from pipelines.runtime.output import Output
from pipelines.runtime.tracking import Tracker, TrackingConfig, place, spool_of
from pipelines.runtime.tracking_store import database_uri, follow_move, how_to_open


class Recorded:
    """A root with one tracked output."""

    def __init__(self, root: Path) -> None:
        self.root = root
        where = place(SimpleNamespace(root=str(root), tracking=TrackingConfig()))
        assert where is not None
        self.output = Output(str(root), "toy", "0123456789abcdef")
        self.where = where

    def record(self, name: str = "objects", step: int = 1, **more: Any) -> Tracker:
        """What a submission of a stage records, as far as it goes through."""
        tracker = Tracker(self.where, str(self.root), self.output, "toy")
        tracker._start_monitor = lambda run_id: None  # type: ignore[method-assign]  its samples say nothing here
        self.output.store.put(f"artifacts/{name}.txt", b"text")
        source = {"name": "listing", "digest": "d1", "url": f"{self.output.url}/x"}
        tracker.send(
            {"do": "params", "values": {"size": 3}},
            {"do": "inputs", "values": [source]},
            {"do": "tags", "values": {"output": self.output.url}},
            {"do": "metrics", "values": {name: 1.0}, "step": step},
            {"do": "artifact", "name": f"artifacts/{name}.txt"},
            *more.get("entries", ()),
            {"do": "status", "status": "FINISHED"},
        )
        tracker.flush()
        return tracker

    @property
    def client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(self.where.uri)

    def run(self) -> Any:
        return self.client.get_run(self.output.run_id() or "")

    def artifacts(self) -> set[str]:
        return {artifact.path for artifact in self.client.list_artifacts(self.output.run_id() or "")}

    def complete(self) -> bool:
        return not spool_of(self.output).exists()


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables, which take seconds to make."""
    folder = tmp_path_factory.mktemp("tables")
    mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def recorded(empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Recorded]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def made(name: str) -> Recorded:
        (tmp_path / name).mkdir()
        shutil.copyfile(empty, tmp_path / name / "mlflow.db")
        return Recorded(tmp_path / name)

    return made


def test_what_waits_of_equal_outputs_under_two_remote_roots_is_not_mixed() -> None:
    one, two = (spool_of(Output(f"s3://bucket/{name}", "toy", "0123456789abcdef")) for name in ("a", "b"))
    assert one != two
    assert one == spool_of(Output("s3://bucket/a", "toy", "0123456789abcdef"))


def test_runs_say_what_made_them_from_what_and_for_how_long(recorded: Callable[[str], Recorded]) -> None:
    one = recorded("root")
    one.record()
    assert one.complete()
    experiment = one.client.get_experiment_by_name("sar3d")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development", "the view Model training"
    parent = one.client.get_run(one.run().data.tags["mlflow.parentRunId"])
    for run in (one.run(), parent):
        assert run.data.tags["mlflow.source.name"]
        assert run.data.tags["mlflow.source.type"] == "LOCAL"
        assert run.data.tags["mlflow.user"]
        assert run.inputs.dataset_inputs[0].dataset.digest == "d1"
        assert run.info.end_time >= run.info.start_time
        assert run.info.status == "FINISHED"


@pytest.mark.parametrize("what", ["parent", "both"])
def test_what_was_deleted_in_the_page_is_restored(
    recorded: Callable[[str], Recorded], what: str, caplog: pytest.LogCaptureFixture
) -> None:
    one = recorded("root")
    one.record()
    client, run = one.client, one.run()
    if what == "parent":
        client.delete_run(run.data.tags["mlflow.parentRunId"])
    else:
        client.delete_run(run.info.run_id)
        client.delete_experiment(run.info.experiment_id)
    with caplog.at_level(logging.WARNING):
        one.record("rows", step=2)
    assert one.complete()
    assert "had been deleted: it was restored" in caplog.text
    again = one.run()
    assert (again.info.run_id, again.info.lifecycle_stage) == (run.info.run_id, "active")
    assert set(again.data.metrics) == {"objects", "rows"}
    assert one.artifacts() == {"objects.txt", "rows.txt"}


def test_a_run_that_is_deleted_while_it_is_recorded_is_restored(recorded: Callable[[str], Recorded]) -> None:
    one = recorded("root")
    tracker = one.record()
    one.client.delete_run(tracker.run_id)
    tracker.send({"do": "metrics", "values": {"late": 2.0}, "step": 5})
    assert tracker.flush()
    assert one.run().data.metrics["late"] == 2.0
    assert tracker._left() is None


def test_what_is_refused_for_ever_is_put_aside_and_named_while_the_rest_goes_on(
    recorded: Callable[[str], Recorded],
) -> None:
    one = recorded("root")
    bad = [{"do": "metrics", "values": {"not a: valid\nname!": 1.0}, "step": 1}]
    tracker = one.record(entries=[*bad, {"do": "tags", "values": {"after": "yes"}}])
    assert one.complete()
    assert one.run().data.tags["after"] == "yes"
    left = tracker._left()
    assert left is not None
    assert "does not take metrics (" in left
    (line,) = tracker._aside.read_text().splitlines()
    assert json.loads(line)["values"] == bad[0]["values"]


@pytest.mark.parametrize(
    ("error", "permanent"),
    [
        (MlflowException("down", error_code=1), False),
        (RestException({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "x"}), True),
        (RestException({"error_code": "INVALID_PARAMETER_VALUE", "message": "x"}), True),
        (RestException({"error_code": "PERMISSION_DENIED", "message": "x"}), True),
        (RestException({"error_code": "UNAUTHENTICATED", "message": "x"}), True),
        (RestException({"error_code": "TEMPORARILY_UNAVAILABLE", "message": "x"}), False),
        (RestException({"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "x"}), False),
        (RestException({"error_code": "INTERNAL_ERROR", "message": "x"}), False),
        (ConnectionError("refused"), False),
        (OSError(28, "No space left on device"), False),
    ],
)
def test_permanent_errors_are_told_from_passing_ones(error: Exception, permanent: bool) -> None:
    assert is_permanent(error) == permanent


def test_a_permanent_error_is_not_said_to_mend_itself(recorded: Callable[[str], Recorded], monkeypatch: Any) -> None:
    one = recorded("root")

    def refuse(*_: Any) -> Any:
        raise RestException({"error_code": "PERMISSION_DENIED", "message": "no\nmore"})

    monkeypatch.setattr("pipelines.runtime.tracking.experiment_of", refuse)
    left = one.record()._left()
    assert left is not None
    assert "refuses what is recorded (PERMISSION_DENIED: no): mend that" in left
    assert not one.complete()


@pytest.mark.parametrize(("before", "after"), [("a", "ab"), ("old #1", "new ?x")])
def test_a_root_that_was_moved_has_its_artifacts_where_it_is(
    recorded: Callable[[str], Recorded], tmp_path: Path, before: str, after: str
) -> None:
    one = recorded(before)
    model = {"do": "model", "registered": "m", "step": 1, "digest": "abc", "files": ["artifacts/objects.txt"]}
    one.record(entries=[model])
    shutil.move(tmp_path / before, tmp_path / after)
    said = follow_move(str(tmp_path / after))
    assert said is not None
    assert str(tmp_path / before) in said
    assert follow_move(str(tmp_path / after)) is None
    two = Recorded(tmp_path / after)
    assert {"objects.txt", "model"} <= two.artifacts()
    version = two.client.get_model_version("m", "1")
    assert mlflow.artifacts.download_artifacts(
        artifact_uri=two.client.get_model_version_download_uri("m", version.version), tracking_uri=two.where.uri
    )
    assert version.tags["output"] == two.run().data.tags["output"] == two.output.url
    assert json.loads(two.run().inputs.dataset_inputs[0].dataset.source)["url"] == f"{two.output.url}/x"
    _artifact_repos_cache.clear()  # of MLflow, for one process, in which a root seldom moves
    two.record("rows", step=2)
    assert {"objects.txt", "rows.txt"} <= two.artifacts()
    assert not (tmp_path / before).exists(), "nothing is written outside the root"


def test_a_root_that_stayed_is_left_as_it_is(recorded: Callable[[str], Recorded], tmp_path: Path) -> None:
    one = recorded("root")
    one.record()
    before = one.run().to_dictionary()
    assert follow_move(str(tmp_path / "root")) is None
    (tmp_path / "link").symlink_to(tmp_path / "root")
    assert follow_move(str(tmp_path / "link")) is None, "another name of the same folder"
    assert one.run().to_dictionary() == before
    assert follow_move(str(tmp_path)) is None, "no store"
    assert follow_move("s3://bucket/root") is None
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mlflow.db").touch()
    assert follow_move(str(tmp_path / "other")) is None, "an empty store"
    (tmp_path / "other" / "mlflow.db").write_bytes(b"no database at all, but long enough to be read" * 100)
    assert "cannot be brought up to date" in (follow_move(str(tmp_path / "other")) or "")


@pytest.mark.parametrize("name", ["what? #1 100%", "it's 'a' \"root\" ümläut 🚀", "new\nline"])
def test_the_store_lies_in_a_root_of_any_name_and_the_command_can_be_pasted(
    recorded: Callable[[str], Recorded], tmp_path: Path, name: str
) -> None:
    one = recorded(name)
    one.record()
    assert one.complete()
    assert one.artifacts() == {"objects.txt"}
    assert {path.name for path in (tmp_path / name).iterdir()} == {"mlflow.db", "mlartifacts", "toy", "_mlflow.json"}
    assert {path.name for path in tmp_path.iterdir()} <= {name, "cache"}
    words = shlex.split(how_to_open(database_uri(str(tmp_path / name))))
    assert words[1:3] == ["ui", "--backend-store-uri"]
    assert mlflow.MlflowClient(words[3]).get_run(one.output.run_id() or "").info.status == "FINISHED"
