"""What a person sees of a run in MLflow's own page: a real server, a real browser."""

import io
import json
import math
from pathlib import Path

import mlflow
import pytest
from browser import Page, browser, visit
from PIL import Image
from proofs import Record
from services import MlflowServer

from pipelines.runtime.mlflow_run import Place
from pipelines.runtime.output import Output
from pipelines.runtime.store import Store
from pipelines.runtime.tracking import Tracker

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
PATIENCE = 240
"""Seconds that a part of the page may take on a busy machine."""


def recorded(root: Path, uri: str) -> Output:
    """A training as `train_vqvae` records it: a curve, a picture, a table, a model."""
    output = Output(str(root), "train_vqvae", "0123456789abcdef")
    tracker = Tracker(Place(uri, "sar3d", None), str(root), output, "train_vqvae")
    picture = io.BytesIO()
    Image.new("RGB", (64, 48), (200, 30, 40)).save(picture, "PNG")
    output.store.put("artifacts/contact_sheet.png", picture.getvalue())
    output.store.put("artifacts/failures.csv", b"uid,reason\n")
    output.store.put("model/config.json", b"{}")
    tracker.send(
        {"do": "params", "values": {"train_vqvae.train.steps": 20}},
        {"do": "inputs", "values": [{"name": "views", "digest": "fedcba98", "url": f"{root}/render/fedcba98"}]},
        *({"do": "metrics", "values": {"loss": math.exp(-step / 5)}, "step": step} for step in range(20)),
        {"do": "artifact", "name": "artifacts/contact_sheet.png"},
        {"do": "artifact", "name": "artifacts/failures.csv"},
        {
            "do": "model",
            "registered": "sar3d-train_vqvae",
            "step": 20,
            "digest": "0" * 64,
            "files": ["model/config.json"],
        },
    )
    tracker.start()
    assert tracker.finish("FINISHED", patience=120) is None
    return output


async def shows(page: Page, *words: str) -> None:
    """Wait until all of `words` can be read on the page."""
    for word in words:
        await page.until(f"document.body.innerText.includes({json.dumps(word)})", PATIENCE)


@pytest.mark.acceptance(
    "In a real browser on a real MLflow server: the view Model training, runs, source, duration, dataset, charts, pictures and "
    "registered models"
)
def test_runs_charts_pictures_and_models_are_seen(tmp_path: Path, record_property: Record) -> None:
    program = browser()
    root = tmp_path / "objects"
    store = f"sqlite:///{tmp_path}/m.db"
    with MlflowServer(tmp_path / "server", store, str(tmp_path / "artifacts")) as server:
        output = recorded(root, server.uri)
        run = mlflow.MlflowClient(server.uri).get_run(output.run_id() or "")
        parent = json.loads(Store(str(root)).read("_mlflow.json") or b"")["run_id"]
        experiment = f"{server.uri}/#/experiments/{run.info.experiment_id}"

        async def look(page: Page) -> None:
            await page.open(f"{experiment}/runs")
            await shows(page, "Model training", "objects", "train_vqvae")
            for identifier in (parent, run.info.run_id):
                await page.open(f"{experiment}/runs/{identifier}")
                await shows(page, "Source", "Duration", "Finished", "views")
            await shows(page, "loss", "sar3d-train_vqvae")
            await page.open(f"{experiment}/runs/{run.info.run_id}/model-metrics")
            await page.until("document.querySelectorAll('.js-plotly-plot').length > 0", PATIENCE)
            await page.open(f"{experiment}/runs/{run.info.run_id}/artifacts/contact_sheet.png")
            shown = "[...document.images].some(i => i.naturalWidth === 64 && i.naturalHeight === 48)"
            await page.until(f"{shown} || document.querySelectorAll('.js-plotly-plot image').length > 0", PATIENCE)
            await page.open(f"{server.uri}/#/models/sar3d-train_vqvae")
            await shows(page, "sar3d-train_vqvae", "Version 1")

        visit(program, look)
        record_property("pages", ["experiment", "parent run", "stage run", "charts", "picture", "registered model"])
