"""MLflow: one parent run per root, one nested run per stage output, and a tracker that cannot stop the work.

Everything that is to be logged becomes an *entry* (JSON). Entries go through one background thread to the tracking
server; while the server does not answer they stay in a spool file beside the output and are sent when it is back, or
when the same stage is run again.
"""

import contextlib
import csv
import io
import json
import logging
import os
import queue
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml

from pipelines.runtime.fingerprint import identity
from pipelines.runtime.output import FAILURES, Output
from pipelines.runtime.store import Store
from sar3d.errors import UserError

_log = logging.getLogger(__name__)
Entry = dict[str, Any]


@dataclass(frozen=True)
class TrackingConfig:
    """Where experiments are recorded. Nothing here changes what is computed."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    enabled: bool = field(default=True, metadata={"identity": False})
    """Log to MLflow."""
    uri: str | None = field(default=None, metadata={"identity": False})
    """Tracking server; default `MLFLOW_TRACKING_URI`, else SQLite at `<root>/mlflow.db` for a local root."""
    experiment: str = field(default="sar3d", metadata={"identity": False})
    """Name of the MLflow experiment."""


@dataclass(frozen=True)
class Place:
    """A tracking store: its URI, and where the artifacts of a new experiment go (None: the server decides)."""

    uri: str
    experiment: str
    artifacts: str | None


def place(config: Any) -> Place | None:
    """Where this configuration is tracked; None if it is not. Raises `UserError` for a remote root without a server."""
    if not config.tracking.enabled:
        return None
    uri = config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if uri:
        return Place(uri, config.tracking.experiment, None)
    store = Store(config.root)
    if not store.local:
        raise UserError(
            f"the root {config.root} is remote, so MLflow needs a server: set MLFLOW_TRACKING_URI, "
            "or switch tracking off with tracking.enabled=false"
        )
    return Place(f"sqlite:///{store.path('mlflow.db')}", config.tracking.experiment, str(store.path("mlartifacts")))


class Tracker:
    """Sends entries to one MLflow run, creating it (under the root's parent run) when the first one goes through."""

    RETRY = 20.0

    def __init__(self, where: Place, root: str, output: Output, name: str) -> None:
        self.where, self.root, self.output, self.name = where, root, output, name
        self.run_id: str | None = None
        self._client: Any = None
        self._down_until = 0.0
        self._queue: queue.Queue[Entry | None] = queue.Queue()
        self._spool = spool_of(output)
        self._thread = threading.Thread(target=self._serve, name="mlflow", daemon=True)
        self._monitor: Any = None

    def start(self) -> None:
        self._thread.start()

    def send(self, entry: Entry) -> None:
        self._queue.put({**entry, "time": int(time.time() * 1000)})

    def finish(self, status: str, patience: float = 60.0) -> str | None:
        """Send what is left; returns a sentence if some of it had to stay in the spool."""
        self.send({"do": "status", "status": status})
        self._queue.put(None)
        self._thread.join(patience)
        if self._monitor is not None:
            with contextlib.suppress(Exception):
                self._monitor.finish()
        if self._spool.exists() or self._thread.is_alive():
            return (
                f"MLflow at {self.where.uri} did not take everything: the rest waits in {self._spool} "
                "and is sent when this stage is run again"
            )
        return None

    def _serve(self) -> None:
        while (entry := self._queue.get()) is not None:
            self._keep(entry)
            if time.monotonic() >= self._down_until:
                self._flush()
        self._down_until = 0.0
        self._flush()

    def _keep(self, entry: Entry) -> None:
        self._spool.parent.mkdir(parents=True, exist_ok=True)
        with open(self._spool, "a") as file:
            file.write(json.dumps(entry) + "\n")

    def _flush(self) -> None:
        """Send the spool, in order; what fails stays in it."""
        if not self._spool.exists():
            return
        entries = [json.loads(line) for line in self._spool.read_text().splitlines()]
        sent = 0
        try:
            self._connect()
            for entry in entries:
                apply(self._client, self.run_id or "", entry, self.output)
                sent += 1
        except Exception as error:  # whatever a tracker does, the work goes on
            _log.debug("MLflow", exc_info=True)
            _log.warning("MLflow at %s: %s", self.where.uri, str(error).splitlines()[0][:200] if str(error) else error)
            self._down_until = time.monotonic() + self.RETRY
        rest = entries[sent:]
        if rest:
            beside = self._spool.with_suffix(".new")
            beside.write_text("".join(json.dumps(e) + "\n" for e in rest))
            os.replace(beside, self._spool)
        else:
            self._spool.unlink()

    def _connect(self) -> None:
        if self.run_id is not None:
            return
        self._client = connect(self.where)
        experiment = _experiment(self._client, self.where)
        parent = _run(
            self._client, Store(self.root), "_mlflow.json", experiment, Store(self.root).url.rsplit("/", 1)[-1], None
        )
        run_id = _run(self._client, self.output.state, "mlflow.json", experiment, self.name, parent)
        self._client.update_run(run_id, status="RUNNING")
        self.run_id = run_id
        self._start_monitor(run_id)

    def _start_monitor(self, run_id: str) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._monitor = SystemMetricsMonitor(
            run_id, sampling_interval=1, samples_before_logging=1, resume_logging=True, tracking_uri=self.where.uri
        )
        self._monitor.start()


def spool_of(output: Output) -> Path:
    """Beside the output where that is a local folder, else in the user's cache."""
    if output.store.local:
        return output.state.path("mlflow-spool.jsonl")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return cache / "sar3d" / "spool" / f"{output.stage}-{output.fingerprint}.jsonl"


def connect(where: Place) -> Any:
    """A client that gives up within seconds."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    return mlflow.MlflowClient(where.uri)


def _experiment(client: Any, where: Place) -> str:
    import mlflow

    found = client.get_experiment_by_name(where.experiment)
    if found is not None:
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(where.experiment, artifact_location=where.artifacts))
    except mlflow.exceptions.MlflowException:  # another process was first
        return str(client.get_experiment_by_name(where.experiment).experiment_id)


def _run(client: Any, store: Store, name: str, experiment: str, title: str, parent: str | None) -> str:
    """The run whose id is kept in `name`, made if there is none (of several at once, one is kept)."""
    import mlflow

    known = store.read(name)
    if known is not None:
        run_id = str(json.loads(known)["run_id"])
        try:
            if client.get_run(run_id).info.experiment_id == experiment:
                return run_id
        except mlflow.exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        # Another server, or one that has forgotten: a new run takes its place.
    tags = {"mlflow.parentRunId": parent} if parent else {}
    run_id = client.create_run(experiment, run_name=title, tags=tags).info.run_id
    body = json.dumps({"run_id": run_id}).encode()
    if known is not None:
        store.put(name, body)
    elif not store.create(name, body):
        client.delete_run(run_id)
        return str(json.loads(store.read(name) or b"")["run_id"])
    if parent is None:
        client.update_run(run_id, status="FINISHED")
    return str(run_id)


def apply(client: Any, run_id: str, entry: Entry, output: Output) -> None:
    """Carry out one entry. Repeating it changes nothing."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

    kind = entry["do"]
    if kind == "metrics":
        # A metric is logged once per step: a resumed run passes the same counts again.
        known = client.get_run(run_id).data.metrics.get("step", -1.0)
        if entry["step"] is not None and entry["step"] <= known:
            return
        step = entry["step"] if entry["step"] is not None else max(int(known), 0)
        values = dict(entry["values"], **({"step": step} if entry["step"] is not None else {}))
        client.log_batch(run_id, [Metric(k, v, entry["time"], step) for k, v in values.items()])
    elif kind == "params":
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
        client.log_inputs(run_id, inputs)
    elif kind == "tags":
        for k, v in entry["values"].items():
            client.set_tag(run_id, k, v)
    elif kind == "artifact":
        data = output.store.read(entry["name"])
        if data is not None:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, Path(entry["name"]).name)
                path.write_bytes(data)
                client.log_artifact(run_id, str(path))
    elif kind == "status":
        client.set_terminated(run_id, entry["status"], end_time=entry["time"])


class StageRun:
    """The MLflow run of one stage output, for as long as a submission works on it; silent where tracking is off."""

    def __init__(self, stage: Any, config: Any, context: Any, output: Output, total: int) -> None:
        where = place(config)
        self._tracker = Tracker(where, config.root, output, stage.name) if where else None
        self._output = output
        self._last = 0.0
        self._about = (stage, config, context, total)

    def __enter__(self) -> "StageRun":
        stage, config, context, total = self._about
        self.artifact("config.yaml", yaml.safe_dump(plain(config), sort_keys=False).encode())
        if self._tracker is not None:
            self._tracker.start()
            params = flatten({stage.name: identity(context.config), "objects": total, "version": stage.version})
            self._send("params", values=params)
            tags = {"fingerprint": self._output.fingerprint, "output": self._output.url}
            self._send("tags", values=tags)
            inputs = [{"name": n, "digest": o.fingerprint, "url": o.url} for n, o in context.inputs.items()]
            self._send("inputs", values=inputs or [{"name": "listing", "digest": self._output.fingerprint, "url": ""}])
        return self

    def __exit__(self, kind: Any, error: BaseException | None, _: object) -> None:
        if self._tracker is None:
            return
        status = "FINISHED" if error is None else "FAILED" if isinstance(error, Exception) else "KILLED"
        if error is not None:
            self._send("tags", values={"stopped": str(error)[:5000]})
        left = self._tracker.finish(status)
        if left:
            _log.warning(left)

    def progress(self, objects: int, failed: int, rows: int, rate: float, final: bool = False) -> None:
        now = time.monotonic()
        if now - self._last < 1.0 and not final:
            return
        self._last = now
        values = {"objects": objects, "failed": failed, "rows": rows, "objects_per_second": rate}
        self._send("metrics", values=values, step=objects)

    def metrics(self, values: dict[str, float]) -> None:
        if values:
            self._send("metrics", values=values, step=None)

    def artifact(self, name: str, data: bytes) -> None:
        """Keep a small file with the output, and log it."""
        self._output.store.put(f"artifacts/{name}", data)
        self._send("artifact", name=f"artifacts/{name}")

    def failures(self, rows: list[dict[str, Any]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, FAILURES.names)
        writer.writeheader()
        writer.writerows(rows)
        self.artifact("failures.csv", text.getvalue().encode())

    def _send(self, do: str, **entry: Any) -> None:
        if self._tracker is not None:
            self._tracker.send({"do": do, **entry})


def replay(config: Any, output: Output, stage: str) -> None:
    """Send what an earlier submission had to leave in the spool of a finished output."""
    where = place(config)
    if where is None or not spool_of(output).exists():
        return
    tracker = Tracker(where, config.root, output, stage)
    tracker._flush()
    if tracker._monitor is not None:
        tracker._monitor.finish()


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {k: v for name, part in value.items() for k, v in flatten(part, f"{prefix}{name}.").items()}
    return {prefix[:-1]: value}


def plain(config: Any) -> Any:
    """A configuration as YAML values."""
    import dataclasses

    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: plain(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, list | tuple):
        return [plain(v) for v in config]
    return config
