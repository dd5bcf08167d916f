"""The stage that trains the tokenizer, on rendered views: what it leaves behind, and what it refuses."""

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rendered

from pipelines.cache_tokens import CacheTokensStage
from pipelines.runtime import runner
from pipelines.runtime.engine import prepare
from pipelines.runtime.models import trained
from pipelines.runtime.reading import read_rows
from pipelines.train_vqvae import TrainVQVAEStage
from sar3d.data.datasets.prompted_objects import object_uids
from sar3d.errors import UserError
from sar3d.hub import from_pretrained

pytestmark = pytest.mark.usefixtures("local_ray")
STAGE = TrainVQVAEStage()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root of its own with the views that other tests share."""
    folder = tmp_path_factory.mktemp("train") / "root"
    shutil.copytree(rendered.root(), folder, ignore=shutil.ignore_patterns("cache_*"))
    return folder


def configure(root: Path, *overrides: str) -> Any:
    return rendered.configure(
        root,
        "cache_tokens.vqvae=",
        "tracking.enabled=true",
        "train_vqvae.task.model={resolution: 64, quantizer: {codebook_size: 128}, decoder: {depth: 1}}",
        "train_vqvae.task.codebook={quantize_start: 2, dead_code_reset_every: 2, dead_code_reset_until: 6}",
        "train_vqvae.task.sampling.rays=64",
        "train_vqvae.train.steps=4",
        "train_vqvae.train.batch=2",
        "train_vqvae.train.log_every=1",
        "train_vqvae.train.schedule.warmup=1",
        "train_vqvae.evaluate_objects=2",
        "train_vqvae.draw_objects=1",
        "train_vqvae.cpus=1",
        *overrides,
    )


def test_views_become_a_model_that_makes_tokens(root: Path) -> None:
    config = configure(root)
    report, output = rendered.run(STAGE, config)
    assert report.state == "done"
    model = from_pretrained(output.store.path("model"))
    assert model.config.quantizer.codebook_size == 128
    assert output.store.exists("artifacts/step-000004/reconstructions_views.png")

    client = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")
    run = client.get_run(str(report.run_id))
    assert {"loss", "psnr", "views/psnr", "views/white_psnr", "views/usage", "codebook/usage_16"} <= set(
        run.data.metrics
    )
    assert len(client.get_metric_history(run.info.run_id, "loss")) == 4
    assert run.data.params["train_vqvae.task.preset"] == "tiny"

    again, _ = rendered.run(STAGE, config)
    assert again.state == "reused"

    digest = trained(output, "vqvae").digest
    tokens, cached = rendered.run(CacheTokensStage(), config)
    assert tokens.rows == 4 * rendered.OBJECTS
    assert {len(row["codes"]) for row in read_rows(cached, ["codes"])} == {2040}
    assert (cached.manifest() or {})["models"] == {"vqvae": digest}


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("train_vqvae.task.model={resolution: 128}", "64"),
        ("train_vqvae.train.batch=3", "batch of 3"),
        ("train_vqvae.task.model={quantizer: {code: 12}}", r"quantizer\.code"),
        ("train_vqvae.data.held_out.view_ids=[0]", "encode"),
    ],
)
def test_wrong_requests_are_one_sentence_and_leave_nothing(root: Path, override: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        runner.run(STAGE, configure(root, override, "train_vqvae.workers=2"), log=lambda _: None)
    assert "\n" not in str(caught.value)


def test_objects_that_are_held_out_by_attribute_are_in_no_training(root: Path, tmp_path: Path) -> None:
    config = configure(root)
    context = prepare(STAGE, config, lambda _: None)
    table = pa.concat_tables([pq.read_table(file) for file in rendered.downloads(config).files()])
    uids = table["uid"].to_pylist()
    table = table.drop_columns("held_out").append_column("held_out", pa.array([None, "pair", *[None] * len(uids[2:])]))
    pq.write_table(table, tmp_path / "objects.parquet")
    objects = SimpleNamespace(files=lambda: [str(tmp_path / "objects.parquet")])

    def trained_on(rows: dict[str, Any]) -> set[str]:
        made: Any = STAGE.build(dataclasses.replace(context, rows=rows), lambda _: None).train
        return set(object_uids(made))

    assert trained_on(context.rows) == set(uids)
    assert trained_on({**context.rows, "objects": objects}) == set(uids) - {uids[1]}
