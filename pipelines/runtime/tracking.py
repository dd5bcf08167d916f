"""MLflow: one parent run per root, one nested run per stage output, and a tracker that cannot stop the work.

Everything that is to be logged becomes an *entry* (JSON). Entries go through one background thread to the tracking
server; while the server does not answer they stay in a spool file beside the output and are sent when it is back, or
when the same stage is run again.
"""

import contextlib
import csv
import hashlib
import io
import json
import logging
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml

from pipelines.runtime.fingerprint import identity
from pipelines.runtime.mlflow_evaluation import Assessment
from pipelines.runtime.mlflow_run import (
    Entry,
    Place,
    apply,
    connect,
    experiment_of,
    is_permanent,
    last_steps,
    log_metrics,
    run_of,
    together,
    without_secrets,
)
from pipelines.runtime.output import FAILURES, Output
from pipelines.runtime.store import Store
from pipelines.runtime.tracking_store import artifact_location, database_uri
from sar3d.errors import UserError

_log = logging.getLogger(__name__)


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
    return Place(database_uri(config.root), config.tracking.experiment, artifact_location(config.root))


class Tracker:
    """Sends entries to one MLflow run, creating it (under the root's parent run) when the first one goes through.

    An entry is in the spool when `send` returns, so a kill loses none.
    """

    RETRY = 20.0

    def __init__(self, where: Place, root: str, output: Output, name: str) -> None:
        self.where, self.root, self.output, self.name = where, root, output, name
        self.run_id: str | None = None
        self._parent = ""
        self._certain = False
        """Whether the run was seen to be there since something last went wrong."""
        self._refused: dict[str, str] = {}
        """Why MLflow takes some entries never, by what they are."""
        self._trouble: BaseException | None = None
        self._said = ""
        """What was said of it: the same is not said every time that sending is tried again."""
        self._client: Any = None
        self._known: dict[str, int] | None = None
        """The last step of every metric that the run has; None: ask."""
        self._spool = spool_of(output)
        self._lock = threading.Lock()
        self._wake, self._last = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._serve, name="mlflow", daemon=True)
        self._monitor: Any = None

    def start(self) -> None:
        self._thread.start()

    def send(self, *entries: Entry) -> None:
        now = int(time.time() * 1000)
        lines = [json.dumps({"time": now, **entry}) + "\n" for entry in entries]
        with self._lock:
            self._spool.parent.mkdir(parents=True, exist_ok=True)
            with open(self._spool, "a") as file:
                file.writelines(lines)
        self._wake.set()

    def finish(self, status: str, patience: float = 60.0) -> str | None:
        """Send what is left; returns a sentence if some of it had to stay in the spool."""
        self.send({"do": "status", "status": status})
        self._last.set()
        self._wake.set()
        self._thread.join(patience)
        if self._monitor is not None:
            with contextlib.suppress(Exception):
                # The monitor samples every second; a stage that took no longer has one sample, too.
                self._monitor.collect_metrics()
                self._monitor.publish_metrics(self._monitor.aggregate_metrics())
                self._monitor.finish()
        return self._left()

    def _left(self) -> str | None:
        """One sentence about what did not get through, and what to do."""
        server = without_secrets(self.where.uri)
        if self._refused:
            kinds = ", ".join(f"{what} ({why})" for what, why in self._refused.items())
            return (
                f"MLflow at {server} does not take {kinds}: that is kept in {self._aside} and in the output's own files"
            )
        if not self._spool.exists() and not self._thread.is_alive():
            return None
        rest = f"the rest waits in {self._spool} and is sent when this stage is run again"
        if self._trouble is not None and is_permanent(self._trouble):
            return f"MLflow at {server} refuses what is recorded ({_first_line(self._trouble)}): mend that; {rest}"
        return f"MLflow at {server} did not take everything: {rest}"

    @property
    def _aside(self) -> Path:
        """Entries that MLflow never takes."""
        return self._spool.with_name(f"{self._spool.stem}-refused.jsonl")

    def _serve(self) -> None:
        down_until = 0.0
        while not self._last.is_set():
            self._wake.wait()
            self._wake.clear()
            if time.monotonic() >= down_until and not self._last.is_set() and not self.flush():
                down_until = time.monotonic() + self.RETRY
        self.flush()

    def flush(self) -> bool:
        """Send the spool, in order; what fails stays in it. Says whether all went through."""
        with self._lock:
            lines = self._spool.read_bytes().splitlines(keepends=True) if self._spool.exists() else []
        if not lines:
            return True
        sent = 0
        self._trouble = None
        try:
            waiting = [json.loads(line) for line in lines]
            self._connect(waiting[0]["time"])
            for entries in together(waiting):
                self._apply_or_refuse(entries)
                sent += len(entries)
        except Exception as error:  # whatever a tracker does, the work goes on
            self._known, self._certain, self._trouble = None, False, error
            _log.debug("MLflow", exc_info=True)
            if _first_line(error) != self._said:
                self._said = _first_line(error)
                _log.warning("MLflow at %s: %s", without_secrets(self.where.uri), self._said)
        self._forget(sum(map(len, lines[:sent])))
        return sent == len(lines)

    def _apply_or_refuse(self, entries: list[Entry]) -> None:
        """Carry out entries. What MLflow refuses although the run is there is put aside: the rest must not wait for it.

        A run, or its experiment, may be deleted at any time: it is looked at again, and restored, before that is said.
        """
        try:
            self._apply(entries)
        except Exception as error:
            if not is_permanent(error):
                raise
            self._known, self._certain = None, False
            self._connect(entries[0]["time"])
            for entry in entries:
                try:
                    self._apply([entry])
                except Exception as again:
                    if not is_permanent(again):
                        raise
                    self._known = None
                    self._refused[str(entry["do"])] = _first_line(again)
                    with open(self._aside, "a") as file:
                        file.write(json.dumps(entry) + "\n")

    def _forget(self, size: int) -> None:
        """Take what was sent off the front of the spool; more may have come meanwhile."""
        if not size:
            return
        with self._lock:
            rest = self._spool.read_bytes()[size:]
            if rest:
                beside = self._spool.with_suffix(".new")
                beside.write_bytes(rest)
                os.replace(beside, self._spool)
            else:
                self._spool.unlink()

    def _apply(self, entries: list[Entry]) -> None:
        assert self.run_id is not None
        if entries[0]["do"] != "metrics":
            for entry in entries:
                apply(self._client, self.run_id, self._parent, entry, self.output)
            return
        if self._known is None:
            self._known = last_steps(self._client, self.run_id)
        log_metrics(self._client, self.run_id, entries, self._known)

    def _connect(self, began: int) -> None:
        """Find or make the runs; new ones began at that time (ms), when what is sent was recorded."""
        if self._certain:
            return
        self._client = connect(self.where)
        experiment = experiment_of(self._client, self.where)
        title = Store(self.root).url.rsplit("/", 1)[-1]
        self._parent = run_of(self._client, Store(self.root), "_mlflow.json", experiment, title, None, began)
        run_id = run_of(self._client, self.output.state, "mlflow.json", experiment, self.name, self._parent, began)
        for run in (self._parent, run_id):
            self._client.update_run(run, status="RUNNING")
        self._certain = True
        if run_id != self.run_id:
            self.run_id = run_id
            self._start_monitor(run_id)

    def _start_monitor(self, run_id: str) -> None:
        if self._monitor is not None:
            self._monitor.finish()
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._monitor = SystemMetricsMonitor(
            run_id, sampling_interval=1, samples_before_logging=1, resume_logging=True, tracking_uri=self.where.uri
        )
        self._monitor.start()


def _first_line(error: BaseException) -> str:
    lines = without_secrets(str(error)).splitlines()
    return lines[0][:200] if lines else type(error).__name__


def spool_of(output: Output) -> Path:
    """Beside the output where that is a local folder, else in the user's cache."""
    if output.store.local:
        return output.state.path("mlflow-spool.jsonl")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    # Equal settings under two roots have equal fingerprints.
    root = hashlib.sha256(output.url.encode()).hexdigest()[:8]
    return cache / "sar3d" / "spool" / f"{output.stage}-{output.fingerprint}-{root}.jsonl"


class StageRun:
    """The MLflow run of one stage output, for as long as a submission works on it; silent where tracking is off."""

    def __init__(self, stage: Any, config: Any, context: Any, output: Output, total: int) -> None:
        where = place(config)
        self._tracker = Tracker(where, config.root, output, stage.name) if where else None
        self._output = output
        self._spoken = 0.0
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
            inputs = [{"name": n, "digest": o.fingerprint, "url": o.url} for n, o in context.upstream().items()]
            inputs += [{"name": n, "digest": m.digest[:36], "url": m.url} for n, m in context.models.items()]
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
        if now - self._spoken < 1.0 and not final:
            return
        self._spoken = now
        values = {"objects": objects, "failed": failed, "rows": rows, "objects_per_second": rate}
        self._send("metrics", values=values, step=objects)

    def metrics(self, values: dict[str, float]) -> None:
        if values:
            self._send("metrics", values=values, step=None)

    def entries(self, entries: list[Entry]) -> None:
        """Pass on entries that a worker made; they are safe when this returns."""
        if self._tracker is not None and entries:
            self._tracker.send(*entries)

    def tags(self, values: dict[str, str]) -> None:
        self._send("tags", values=values)

    def model(self, registered: str, step: int, digest: str, files: list[str]) -> None:
        """Register a model that lies in `files` of the output."""
        self._send("model", registered=registered, step=step, digest=digest, files=files)

    def artifact(self, name: str, data: bytes) -> None:
        """Keep a small file with the output, and log it."""
        self._output.store.put(f"artifacts/{name}", data)
        self._send("artifact", name=f"artifacts/{name}")

    def assessments(self, metric: str, values: Sequence[Assessment]) -> None:
        """Pass on judged texts, for the tracker's evaluation view."""
        if values:
            self._send("assessments", metric=metric, values=[asdict(value) for value in values])

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
    tracker.flush()
    if tracker._monitor is not None:
        tracker._monitor.finish()
    if left := tracker._left():
        _log.warning(left)


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
