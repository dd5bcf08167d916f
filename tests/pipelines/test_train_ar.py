"""The stages that train generators, on cached codes and conditions: what they leave behind, and what they refuse."""

import shutil
from pathlib import Path
from typing import Any

import mlflow
import pytest
import rendered

from pipelines.registry import STAGES
from pipelines.runtime import runner
from sar3d import hub
from sar3d.conditions import encoder_id
from sar3d.errors import UserError

pytestmark = pytest.mark.usefixtures("local_ray")
TEXT, IMAGE = STAGES["train_ar"], STAGES["train_ar_image"]
SETTINGS = (
    "task={model: {depth: 1, width: 32, heads: 2}, lr: 1.0e-3, progressive: {scales: 3, full_every: 2}}",
    "data={val: 0.0, test: 0.0}",
    "train.steps=2",
    "train.batch=2",
    "train.log_every=1",
    "evaluate_objects=2",
    "draw_objects=1",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root of its own with the views that other tests share, and their codes and conditions."""
    folder = tmp_path_factory.mktemp("train_ar") / "root"
    shutil.copytree(rendered.root(), folder, ignore=shutil.ignore_patterns("cache_*", "train_*"))
    for name in ("cache_tokens", "cache_conditions"):
        runner.run(STAGES[name], configure(folder), log=lambda _: None)
    return folder


def configure(root: Path, *overrides: str) -> Any:
    words = [f"{name}.{setting}" for name in ("train_ar", "train_ar_image") for setting in SETTINGS]
    return rendered.configure(
        root, "tracking.enabled=true", "train_vqvae.data={unit: object, held_out: 3}", *words, *overrides
    )


def test_codes_and_captions_become_a_generator(root: Path) -> None:
    config = configure(root)
    report, output = rendered.run(TEXT, config)
    assert (report.state, report.steps) == ("done", 2)
    described = hub.describe(output.store.path("model"))
    assert described["kind"] == "ar"
    assert described["config"]["condition"] == "text"
    assert (described["config"]["context_dim"], described["config"]["codebook_size"]) == (384, 1024)
    assert described["extra"] == {
        "vqvae": hub.digest(rendered.model()),
        "encoder": "minilm",
        "encoder_weights": "",
        "encoder_id": encoder_id("minilm"),
    }
    for picture in ("generated_known.png", "unconditional.png"):
        assert output.store.exists(f"artifacts/step-000002/{picture}")

    client = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")
    run = client.get_run(str(report.run_id))
    wanted = {"loss", "accuracy", "ce/scale_1", "ce/scale_16", "accuracy/scale_16", "known/ce", "known/nearest_truth"}
    assert wanted <= set(run.data.metrics)
    assert [m.step for m in client.get_metric_history(run.info.run_id, "ce/scale_1")] == [1, 2]
    # Short steps have no last scale.
    assert [m.step for m in client.get_metric_history(run.info.run_id, "ce/scale_16")] == [2]
    assert run.data.params["train_ar.task.progressive.full_every"] == "2"

    again, _ = rendered.run(TEXT, config)
    assert again.state == "reused"


@pytest.mark.slow
def test_pictures_prompt_the_other_stage_by_views_that_were_held_out(root: Path) -> None:
    config = configure(root, "train_ar_image.target_group=first", "train_ar_image.train.steps=1")
    report, output = rendered.run(IMAGE, config)
    assert report.state == "done"
    described = hub.describe(output.store.path("model"))
    assert described["config"]["condition"] == "image"
    assert described["extra"]["encoder"] == "efficientnet-lite0"
    assert output.store.exists("artifacts/step-000001/generated_known.png")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("train_ar.vqvae={other}", "tokens of the VQVAE"),
        ("train_ar.data={condition: image}", "contradicts"),
        ("cache_conditions.text=none", "has not been run"),
        ("train_ar.task={model: {codebook_size: 7}}", r"task\.model\.codebook_size"),
        ("train_ar.task={progressive: {scales: 11}}", "10 scales"),
        ("train_ar.train.batch=3", "batch of 3"),
    ],
)
def test_wrong_requests_are_one_sentence(root: Path, override: str, sentence: str) -> None:
    words = (override.replace("{other}", str(rendered.model(1))), "train_ar.workers=2")
    with pytest.raises(UserError, match=sentence) as caught:
        runner.run(TEXT, configure(root, *words), log=lambda _: None)
    assert "\n" not in str(caught.value)


def test_an_encoder_that_is_not_cached_is_named(root: Path) -> None:
    config = configure(root, "cache_conditions.image=none")
    rendered.run(STAGES["cache_conditions"], config)
    with pytest.raises(
        UserError, match=r"cache_conditions has none: choose an encoder there \(cache_conditions\.image\)"
    ):
        runner.run(IMAGE, config, log=lambda _: None)
