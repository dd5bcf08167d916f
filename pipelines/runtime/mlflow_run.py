"""One MLflow run: making it, and carrying out entries, each of which may come twice."""

import json
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.runtime.mlflow_evaluation import Assessment, log_assessments
from pipelines.runtime.output import Output
from pipelines.runtime.store import Store

_log = logging.getLogger(__name__)
Entry = dict[str, Any]
"""What is to be logged, as JSON values: `do` says what it is, `time` when it was (ms)."""


@dataclass(frozen=True)
class Place:
    """A tracking store: its URI, and where the artifacts of a new experiment go (None: the server decides)."""

    uri: str
    experiment: str
    artifacts: str | None


def connect(where: Place) -> Any:
    """A client that gives up within seconds."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    return mlflow.MlflowClient(where.uri)


def experiment_of(client: Any, where: Place) -> str:
    """The id of the experiment: made if there is none, restored if somebody has deleted it."""
    import mlflow

    found = client.get_experiment_by_name(where.experiment)
    if found is None:
        try:
            made = client.create_experiment(where.experiment, artifact_location=where.artifacts, tags=_KIND)
            return str(made)
        except mlflow.exceptions.MlflowException:  # another process was first
            found = client.get_experiment_by_name(where.experiment)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
        _log.warning("the MLflow experiment %r had been deleted: it was restored, with its runs", where.experiment)
    elif not found.tags.keys() & _KIND.keys():
        for name, value in _KIND.items():
            client.set_experiment_tag(found.experiment_id, name, value)
    return str(found.experiment_id)


_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Has MLflow's page open an experiment in its view *Model training*."""


def run_of(client: Any, store: Store, name: str, experiment: str, title: str, parent: str | None, began: int) -> str:
    """The run whose id is kept in `name`, made, with its beginning (ms), if there is none (of several at once, one is kept)."""
    import mlflow

    known = store.read(name)
    if known is not None:
        run_id = str(json.loads(known)["run_id"])
        try:
            info = client.get_run(run_id).info
            if info.experiment_id == experiment:
                if info.lifecycle_stage == "deleted":
                    client.restore_run(run_id)
                    _log.warning("the MLflow run %r had been deleted: it was restored", info.run_name)
                return run_id
        except mlflow.exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        # Another server, or one that has forgotten: a new run takes its place.
    tags = _source() | ({"mlflow.parentRunId": parent} if parent else {})
    run_id = client.create_run(experiment, began, tags, title).info.run_id
    body = json.dumps({"run_id": run_id}).encode()
    if known is not None:
        store.put(name, body)
    elif not store.create(name, body):
        client.delete_run(run_id)
        return str(json.loads(store.read(name) or b"")["run_id"])
    return str(run_id)


def _source() -> dict[str, str]:
    """What made a run, in MLflow's own tags."""
    from mlflow.tracking.context.registry import resolve_tags

    kind = "JOB" if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ else "LOCAL"
    words = [Path(sys.argv[0]).name, *sys.argv[1:2]]
    return {**resolve_tags(), "mlflow.source.name": " ".join(words), "mlflow.source.type": kind}


def without_secrets(text: str) -> str:
    """A text whose addresses have lost the name and password that they may hold."""
    return re.sub(r"(?<=://)[^/\s@'\"]+@", "", text)


_PASSING = frozenset(
    (
        *("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "IO_ERROR", "SERVICE_UNDER_MAINTENANCE", "DEADLINE_EXCEEDED"),
        *("WORKSPACE_TEMPORARILY_UNAVAILABLE", "CANCELLED", "ABORTED", "RESOURCE_EXHAUSTED", "REQUEST_LIMIT_EXCEEDED"),
        *("RESOURCE_CONFLICT", "COULD_NOT_ACQUIRE_LOCK", "UNPARSEABLE_HTTP_ERROR"),
    )
)
"""Error codes of what may be well a minute later."""


def is_permanent(error: BaseException) -> bool:
    """Whether MLflow would refuse the same request again, so that somebody has to do something."""
    import mlflow

    if not isinstance(error, mlflow.exceptions.MlflowException):
        return False
    status = error.get_http_status_code() if isinstance(error, mlflow.exceptions.RestException) else 0
    return error.error_code not in _PASSING and status < 500 and status != 429


def together(entries: list[Entry]) -> Iterator[list[Entry]]:
    """Runs of metrics as one group each (an MLflow batch holds 1,000), everything else alone."""
    group: list[Entry] = []
    for entry in entries:
        if group and (entry["do"] != "metrics" or sum(len(e["values"]) for e in [*group, entry]) > 900):
            yield group
            group = []
        if entry["do"] == "metrics":
            group.append(entry)
        else:
            yield [entry]
    if group:
        yield group


def last_steps(client: Any, run_id: str) -> dict[str, int]:
    """The last step at which each metric of a run was logged (one small request)."""
    return {m.key: int(m.step) for m in client.get_run(run_id).data.to_proto().metrics}


def log_metrics(client: Any, run_id: str, entries: list[Entry], known: dict[str, int]) -> None:
    """Log each metric at most once a step: a resumed run passes the same steps again. Updates `known`.

    Metrics of one name come in ascending steps; those of different names need not keep step with each other.
    """
    from mlflow.entities import Metric

    fresh = []
    for entry in entries:
        step = entry["step"]
        if step is None:
            step = max((s for name, s in known.items() if not name.startswith("system/")), default=0)
        for name, value in entry["values"].items():
            if known.get(name, -1) < step:
                known[name] = step
                fresh.append(Metric(name, value, entry["time"], step))
    if fresh:
        client.log_batch(run_id, fresh)


def apply(client: Any, run_id: str, parent: str, entry: Entry, output: Output) -> None:
    """Carry out one entry that is not of metrics. Repeating it changes nothing.

    What a stage reads, and when it ended, is said of the root's own run (`parent`), too.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param

    kind = entry["do"]
    if kind == "params":
        known = client.get_run(run_id).data.params
        new = {k: v for k, v in entry["values"].items() if k not in known}
        client.log_batch(run_id, params=[Param(k, str(v)[:6000]) for k, v in new.items()])
    elif kind == "inputs":
        inputs = [
            DatasetInput(
                Dataset(i["name"], i["digest"], "sar3d", json.dumps({"url": i["url"]})), [InputTag("role", "input")]
            )
            for i in entry["values"]
        ]
        for run in (run_id, parent):
            client.log_inputs(run, inputs)
    elif kind == "tags":
        for k, v in entry["values"].items():
            client.set_tag(run_id, k, v)
    elif kind == "artifact":
        within = Path(entry["name"]).relative_to("artifacts").parent.as_posix()
        _log_file(client, run_id, output, entry["name"], None if within == "." else within)
    elif kind == "model":
        _register(client, run_id, entry, output)
    elif kind == "assessments":
        log_assessments(client, run_id, entry["metric"], [Assessment(**one) for one in entry["values"]])
    elif kind == "status":
        for run in (run_id, parent):
            client.set_terminated(run, entry["status"], end_time=entry["time"])


def _log_file(client: Any, run_id: str, output: Output, name: str, within: str | None) -> None:
    """Log a file of the output, if it is still there, into a folder of the run's artifacts."""
    if not output.store.exists(name):
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, Path(name).name)
        if output.store.local:
            path.symlink_to(output.store.path(name))
        else:
            output.store.download(name, path)
        client.log_artifact(run_id, str(path), within)


def _register(client: Any, run_id: str, entry: Entry, output: Output) -> None:
    """Log a model's files and make them a version of a registered model, once."""
    import mlflow

    registered, within = entry["registered"], f"model/step-{entry['step']:06d}"
    try:
        client.create_registered_model(registered)
    except mlflow.exceptions.MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    versions = client.search_model_versions(f"name = '{registered}' and run_id = '{run_id}'")
    if any(version.tags.get("digest") == entry["digest"] for version in versions):
        return
    for name in entry["files"]:
        _log_file(client, run_id, output, name, within)
    tags = {"digest": entry["digest"], "step": str(entry["step"]), "output": output.url}
    client.create_model_version(registered, source=f"runs:/{run_id}/{within}", run_id=run_id, tags=tags)
