"""What MLflow knows of a root's outputs: metrics, curves and addresses. A tracker that is down costs curves only."""

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from pipelines.reporting.content import Chart, RunSummary
from pipelines.runtime.mlflow_run import Place, connect, without_secrets
from pipelines.runtime.store import Store
from pipelines.runtime.tracking_store import database_uri, how_to_open

_log = logging.getLogger(__name__)
_UI = "http://127.0.0.1:5000"
"""Where `mlflow ui` listens by default."""
_CHARTS = 6
_POINTS = 240
_FIRST = ("loss", "psnr", "accuracy", "views/psnr", "objects/psnr", "perplexity", "lr")
"""Metrics that are drawn before others."""


@dataclass
class Runs:
    """The runs of one tracking store. `problem` says what could not be read; then there are names and links only."""

    place: Place | None
    problem: str = ""
    _client: Any = field(default=None, repr=False)

    def of(self, stage: str, run_id: str | None) -> RunSummary | None:
        """The run of an output, or None where it has none."""
        if run_id is None or self.place is None:
            return None
        if not self.problem:
            try:
                return self._read(stage, run_id, self.place)
            except Exception as error:  # as in tracking: whatever a tracker does, the work goes on
                _log.debug("MLflow", exc_info=True)
                first = (str(error).splitlines() or [type(error).__name__])[0][:200]
                self.problem = f"MLflow at {self.place.uri} does not answer, so curves are left out: {first}"
                self.problem = without_secrets(self.problem)
        return RunSummary(stage, run_id, "")

    def _read(self, stage: str, run_id: str, place: Place) -> RunSummary:
        self._client = self._client or connect(place)
        run = self._client.get_run(run_id)
        base = place.uri.rstrip("/") if place.uri.startswith("http") else _UI
        metrics = {k: v for k, v in sorted(run.data.metrics.items()) if not k.startswith("system/")}
        url = f"{without_secrets(base)}/#/experiments/{run.info.experiment_id}/runs/{run_id}"
        return RunSummary(stage, run_id, url, metrics, self._charts(run_id, metrics))

    def _charts(self, run_id: str, metrics: dict[str, float]) -> Sequence[Chart]:
        def rank(name: str) -> tuple[int, str]:
            return (_FIRST.index(name) if name in _FIRST else len(_FIRST), name)

        charts: list[Chart] = []
        for name in sorted(
            (m for m in metrics if m in _FIRST or m.endswith(("/loss", "/psnr", "/accuracy"))), key=rank
        ):
            history = self._client.get_metric_history(run_id, name)
            values = {int(m.step): float(m.value) for m in history if math.isfinite(m.value)}
            if len(values) > 1 and len(charts) < _CHARTS:
                charts.append(Chart(name, thinned(sorted(values.items()))))
        return charts


def thinned(points: list[tuple[int, float]], count: int = _POINTS) -> list[tuple[int, float]]:
    """At most `count` of the points, evenly spread, the first and the last among them."""
    if len(points) <= count:
        return points
    return [points[round(i * (len(points) - 1) / (count - 1))] for i in range(count)]


def place_of(root: str, config: str) -> Place | None:
    """Where a root's runs are tracked, from the configuration kept with an output; None: nowhere."""
    tracking = ((yaml.safe_load(config) if config else None) or {}).get("tracking") or {}
    if tracking.get("enabled") is False:
        return None
    experiment = str(tracking.get("experiment") or "sar3d")
    uri = tracking.get("uri") or os.environ.get("MLFLOW_TRACKING_URI")
    if uri:
        return Place(str(uri), experiment, None)
    store = Store(root)
    if not store.local or not store.exists("mlflow.db"):
        return None
    return Place(database_uri(root), experiment, None)


def how_to_look(place: Place | None) -> str:
    """One sentence: how the runs can be looked at."""
    if place is None:
        return "These stages were not tracked, or their tracking server is not known here."
    if place.uri.startswith("http"):
        return f"Tracked in the experiment {place.experiment!r} at {without_secrets(place.uri)}."
    return f"The links work while this runs: {how_to_open(place.uri)}"
