"""A pipeline's models are judged beside baselines, on the objects that training held out or under an honest name."""

import csv
import dataclasses
import io
import json
import shutil
from pathlib import Path
from typing import Any

import generators
import mlflow
import numpy as np
import pyarrow.parquet as pq
import pytest
import rendered
import torch
from evaluated import HELD_OUT, OBJECTS, configure, root
from PIL import Image

from pipelines.evaluate import EvaluateStage
from pipelines.evaluating.baselines import BaselineCandidates, Neighbors
from pipelines.evaluating.objects import EvaluationSource, evaluation_items
from pipelines.evaluating.table import metrics_of, read_table
from pipelines.evaluating.targets import compared, facing, open_views
from pipelines.evaluating.worker import open_evaluator
from pipelines.registry import STAGES
from pipelines.reporting.collect import collect
from pipelines.runtime import runner
from pipelines.runtime.engine import Options, prepare
from pipelines.runtime.output import Failure, Output
from pipelines.runtime.reading import read_rows
from pipelines.runtime.stage import StageReport
from sar3d import hub
from sar3d.data.datasets.shown import ShownSamples
from sar3d.data.datasets.view_config import ViewDataConfig
from sar3d.data.datasets.view_dataset import ViewDataset
from sar3d.data.formats.conditions import decode_condition
from sar3d.data.formats.views import split_of
from sar3d.data.held_out import HeldOut
from sar3d.errors import UserError
from sar3d.generate import Sar3D
from sar3d.metrics.image import psnr
from sar3d.metrics.lpips import LaplacianPyramid
from sar3d.tasks.ar.evaluate import FieldRenderer
from sar3d.tasks.vqvae.evaluate import ReconstructionSets, evaluate
from sar3d.training.task import Alone

pytestmark = pytest.mark.usefixtures("local_ray")
STAGE = EvaluateStage()


@pytest.fixture(scope="module")
def made(local_ray: Any) -> tuple[Any, StageReport, Output, list[str]]:
    """The stage on everything, and what was said."""
    root()
    said: list[str] = []
    config = configure("tracking.enabled=true")
    return config, *rendered.run(STAGE, config, said.append), said


def rows_by_what(output: Output) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in read_rows(output):
        found.setdefault(row["what"], []).append(row)
    return found


def numbers(row: dict[str, Any], metric: str) -> dict[str, float]:
    return {n["of"]: n["value"][0] for n in row["numbers"] if n["metric"] == metric}


def target_of(uid: str, held_out: bool = False) -> Any:
    data = ViewDataConfig(
        unit="object", normals=False, held_out=HeldOut(views=HELD_OUT if held_out else 0), cache_decoded=False
    )
    views = ViewDataset(rendered.views(configure()).files(), None, data, split="all", uids=[uid])
    return next(views.samples(views="held_out" if held_out else "all"))


def test_every_object_has_a_row_for_everything_that_is_judged(made: tuple[Any, StageReport, Output, list[str]]) -> None:
    _, report, output, said = made
    assert (report.state, report.rows, report.failures) == ("done", 4 * OBJECTS, 0)
    rows = rows_by_what(output)
    assert {what: len(of) for what, of in rows.items()} == dict.fromkeys(
        ("reconstruction", "text", "image", "captions"), OBJECTS
    )
    # The configuration holds out 2 % of 5 objects, which is none: the numbers must not be called held out.
    assert {row["part"] for of in rows.values() for row in of} == {"training"}
    assert any("image is judged by training objects, 5 in all" in line for line in said)
    assert any(line.startswith("evaluate: training/text of 2 objects: psnr") for line in said)


def test_reconstruction_agrees_with_what_training_reports(made: tuple[Any, StageReport, Output, list[str]]) -> None:
    vqvae = hub.from_pretrained(rendered.model(), kind="vqvae")
    data = ViewDataConfig(unit="object", held_out=HeldOut(views=HELD_OUT), cache_decoded=False)
    uids = [row["object"] for row in rows_by_what(made[2])["reconstruction"]]
    views = ViewDataset(rendered.views(configure()).files(), None, data, split="all", uids=uids)
    held_out = ReconstructionSets({"views": ShownSamples(views, "held_out", OBJECTS)})
    expected = evaluate(vqvae, held_out, LaplacianPyramid(), Alone())
    table = {line.metric: line for line in read_table(made[2]) if line.what == "training/reconstruction"}
    for name in ("psnr", "psnr_foreground", "ssim", "substitute_laplacian", "depth_error", "normal_error"):
        assert table[name].ours == pytest.approx(expected[f"views/{name}"], abs=1e-4), name
    assert table["psnr"].baselines["white_image"] == pytest.approx(expected["views/white_psnr"], abs=1e-4)
    assert table["psnr"].baselines["mean_image"] > table["psnr"].baselines["white_image"]
    assert set(table["depth_error"].baselines) == set()
    assert (table["psnr"].objects, table["psnr"].better, table["depth_error"].better) == (OBJECTS, "higher", "lower")


def test_what_is_generated_is_what_the_prompt_gives(made: tuple[Any, StageReport, Output, list[str]]) -> None:
    system = Sar3D.from_pretrained(generators.bundle(), device="cpu")
    captions = {row["uid"]: row["captions"] for row in read_rows(rendered.downloads(configure()))}
    decoding = configure().generate.decoding
    for row in rows_by_what(made[2])["text"]:
        assert row["prompt"] == captions[row["object"]][0]
        (sample,) = system.generate(text=row["prompt"], decoding=decoding)
        target = target_of(row["object"])
        targets = compared(target, HELD_OUT, encoded=True)
        seen = FieldRenderer(system.vqvae, sample.planes)(targets.cameras, targets.image.shape[-1])
        found = numbers(row, "psnr")
        assert found["ours"] == pytest.approx(float(psnr(seen, (targets.image + 1) / 2).mean()), abs=1e-3)
        assert set(found) == {"ours", "own_codes", "mean_image", "nearest_training_object"}
        assert set(numbers(row, "minilm_caption_similarity")) == {"ours", "own_codes", "nearest_training_object"}
    for row in rows_by_what(made[2])["image"]:
        view = int(row["prompt"].removeprefix("view "))
        assert view in target_of(row["object"], held_out=True).supervision_ids, "a view that no training was given"
        assert set(numbers(row, "efficientnet-lite0_similarity")) >= {"ours", "nearest_training_object"}
        assert numbers(row, "minilm_caption_similarity") == {}


def test_the_nearest_training_object_is_another_one_with_the_nearest_caption(
    made: tuple[Any, StageReport, Output, list[str]],
) -> None:
    conditions = rendered.current(STAGES["cache_conditions"], configure())
    found = [c for c in map(decode_condition, read_rows(conditions)) if c.kind == "text" and c.uid]
    vectors = {
        (c.uid, c.index): c.pooled.astype(np.float32) / np.linalg.norm(c.pooled.astype(np.float32)) for c in found
    }
    for row in rows_by_what(made[2])["text"]:
        uid = row["object"]
        others = {key: float(vector @ vectors[uid, 0]) for key, vector in vectors.items() if key[0] != uid}
        best = max(others, key=lambda key: others[key])[0]
        assert row["nearest"] == best
        targets = compared(target_of(uid), HELD_OUT, encoded=True)
        shown = target_of(best).supervision
        seen = (shown.image[facing(shown.cameras, targets.cameras)] + 1) / 2
        expected = float(psnr(seen, (targets.image + 1) / 2).mean())
        assert numbers(row, "psnr")["nearest_training_object"] == pytest.approx(expected, abs=1e-4)


def test_captions_stand_beside_the_one_that_fits_most_objects(made: tuple[Any, StageReport, Output, list[str]]) -> None:
    table = {line.metric: line for line in read_table(made[2]) if line.what == "training/captions"}
    assert {"bleu_1", "rouge_l", "minilm_similarity", "noun_accuracy", "color_accuracy"} <= set(table)
    assert all(set(line.baselines) == {"majority_caption"} for line in table.values() if line.ours is not None)
    assert table["noun_accuracy"].baselines["majority_caption"] <= 1
    absent = [line for line in table.values() if line.ours is None]
    assert all(line.note for line in absent)
    for row in rows_by_what(made[2])["captions"]:
        assert row["references"]
        assert row["said"] is not None
        assert row["name"]


def test_table_metrics_and_page_tell_the_same(made: tuple[Any, StageReport, Output, list[str]]) -> None:
    config, report, output, _ = made
    artifacts = Path(output.url) / "artifacts"
    lines = list(csv.DictReader(io.StringIO((artifacts / "evaluation.csv").read_text())))
    values = json.loads((artifacts / "evaluation.json").read_text())
    assert [line["metric"] for line in lines] == [row[1] for row in values["data"]]
    assert {"what", "metric", "ours", "nearest training object", "mean image", "objects"} <= set(lines[0])
    table = read_table(output)
    assert [float(line["ours"]) for line in lines if line["ours"]] == pytest.approx(
        [line.ours for line in table if line.ours is not None], rel=1e-3
    )
    logged = mlflow.MlflowClient(f"sqlite:///{config.root}/mlflow.db").get_run(str(report.run_id)).data.metrics
    for name, value in metrics_of(table).items():
        assert logged[name] == pytest.approx(value), name
    assert {"training/text/psnr", "training/text/nearest_training_object/psnr", "training/captions/rouge_l"} <= set(
        logged
    )
    (stage,) = [stage for stage in collect(config.root).stages if stage.name == "evaluate"]
    (shown,) = stage.tables
    assert shown.columns[:3] == ["what", "metric", "ours"]
    assert len(shown.rows) == len(lines)
    assert len(stage.pictures) == 3
    for name in ("reconstructed", "from_text", "from_image"):
        assert Image.open(artifacts / f"{name}.png").height > 2 * 96


def test_again_nothing_is_done_and_what_decides_a_number_decides_the_output(
    made: tuple[Any, StageReport, Output, list[str]],
) -> None:
    config, report, _, _ = made
    again, _ = rendered.run(STAGE, config)
    assert (again.state, again.fingerprint) == ("reused", report.fingerprint)

    def foreseen(*overrides: str) -> str:
        return runner.run(STAGE, configure(*overrides), Options(dry_run=True), lambda _: None).fingerprint

    for same in ("evaluate.batch=1", "evaluate.workers=1", "evaluate.device=cpu", "tracking.enabled=false"):
        assert foreseen(same) == report.fingerprint, same
    different = ("seed=1", "compared=1", "candidates=2", "objects=1", "split=training", "text=false")
    prints = {foreseen(f"evaluate.{change}") for change in different} | {foreseen("generate.guidance=1")}
    assert len(prints | {report.fingerprint}) == 8


def listed(config: Any) -> list[dict[str, Any]]:
    """Items that the stage lists."""
    return list(STAGE.items(prepare(STAGE, config, lambda _: None), lambda _: None))


def test_rows_do_not_depend_on_the_shard_and_a_bad_object_is_a_failure(
    made: tuple[Any, StageReport, Output, list[str]], tmp_path: Path
) -> None:
    context = prepare(STAGE, configure("evaluate.captions=false", "evaluate.text=false"), lambda _: None)
    items = list(STAGE.items(context, lambda _: None))
    good, bad = items[0], {**items[1], "_file": str(tmp_path / "views.parquet")}
    table = pq.read_table(items[1]["_file"])
    rows = table.to_pylist()
    for row in rows:
        row["rgb"] = [b"no picture"] * len(row["rgb"])
    pq.write_table(type(table).from_pylist(rows, schema=table.schema), bad["_file"])
    found = list(open_evaluator(context).rows([good, bad]))
    assert isinstance(found[1], Failure)
    assert (found[1].uid, found[1].error) == (bad["uid"], "bad_row")
    (expected,) = [row for row in read_rows(made[2]) if row["uid"] == good["uid"]]
    assert not isinstance(found[0], Failure)
    assert found[0]["numbers"] == expected["numbers"]


def test_held_out_objects_are_judged_where_there_are_some_and_never_retrieved() -> None:
    words = [f"{stage}.data.val=0.5" for stage in ("train_vqvae", "train_ar", "train_ar_image", "train_llm")]
    config = configure(*words, "evaluate.objects=9")
    hashes = {row["uid"]: row["sha256"] for row in read_rows(rendered.downloads(config))}
    apart = {uid for uid, sha256 in hashes.items() if split_of(sha256, 0.5, config.train_ar.data.test) != "train"}
    assert 0 < len(apart) < rendered.OBJECTS
    items = listed(config)
    assert {item["part"] for item in items} == {"heldout"}
    assert {item["object"] for item in items} == apart
    context = prepare(STAGE, config, lambda _: None)
    evaluator = open_evaluator(
        dataclasses.replace(context, config=dataclasses.replace(context.config, reconstruction=False))
    )
    neighbors = evaluator.baselines.neighbors("text", evaluator.system.generator("text").encoder.id)
    assert set(neighbors.candidates.uids) == set(hashes) - apart
    training = configure(*words, "evaluate.split=training", "evaluate.objects=9")
    assert {item["object"] for item in listed(training)} == set(hashes) - apart


def test_objects_of_the_same_content_are_no_neighbors() -> None:
    views = open_views(rendered.views(configure()).files(), ViewDataConfig(cache_decoded=False), None)
    known = BaselineCandidates(["a", "b", "c"], ["same", "other", "far"], [0, 0, 0], torch.eye(3))
    neighbors = Neighbors(known, views, {"b": ["a cup"]})
    assert neighbors.nearest(torch.tensor([1.0, 0.5, 0.1]), "same") == 1
    assert neighbors.nearest(torch.tensor([1.0, 0.5, 0.1]), "") == 0
    assert neighbors.caption(1) == "a cup"
    alone = Neighbors(known.only({"a"}), views, {})
    assert alone.nearest(torch.tensor([1.0, 0.5, 0.1]), "same") is None


def test_views_that_were_encoded_are_compared_only_where_there_are_no_others() -> None:
    sample = target_of(next(iter(read_rows(rendered.views(configure()), ["uid"])))["uid"])
    cameras = {view: i for i, view in enumerate(sample.supervision_ids)}
    encoded = sample.supervision.cameras[[cameras[view] for view in sample.encoder_ids]]

    def overlap(targets: Any) -> bool:
        return any(torch.equal(a, b) for a in targets.cameras for b in encoded)

    assert not overlap(compared(sample, 8, encoded=False))
    assert overlap(compared(sample, 99, encoded=True))
    ids = sample.supervision_ids
    only = dataclasses.replace(sample, encoder_ids=ids)
    assert len(compared(only, 4, encoded=False).cameras) == 4
    shown = sample.supervision.cameras
    assert facing(shown, shown[[3, 1]]) == [3, 1]


def test_what_the_stages_train_is_evaluated_unless_said_otherwise(tmp_path: Path) -> None:
    def whats(*overrides: str) -> tuple[str, ...]:
        return rendered.configure(tmp_path, *overrides).evaluate.whats

    assert whats("stages=[download, render, train_vqvae]") == ("reconstruction",)
    assert whats("stages=[train_vqvae, train_ar_image, train_llm, evaluate]") == ("reconstruction", "image", "captions")
    assert whats("stages=[train_vqvae, train_ar]", "evaluate.text=false") == ("reconstruction",)
    assert whats("stages=[]", "evaluate.captions=true") == ("captions",)
    inherited = rendered.configure(tmp_path, "generate.text_model=/models/a", "train_vqvae.perceptual=lpips").evaluate
    assert (inherited.text_model, inherited.perceptual) == ("/models/a", "lpips")
    assert inherited.vqvae == str(rendered.model())


def test_what_cannot_be_evaluated_is_one_sentence(
    made: tuple[Any, StageReport, Output, list[str]], tmp_path: Path
) -> None:
    bundle = generators.bundle()
    cases = [
        (["evaluate.text_model=", "generate.text_model="], "reads the output of train_ar, which has not been run"),
        (["evaluate.captioner=/none"], "there is no folder /none with a model"),
        (["evaluate.split=test"], r"evaluate\.split=test holds no object of render"),
        (["evaluate.text=false", f"evaluate.image_model={bundle}/ar_text"], "takes text conditions, not image"),
        ([f"evaluate.vqvae={rendered.model(7)}"], "was trained on the tokens of the VQVAE"),
        ([f"evaluate.vqvae={bundle}/ar_text"], "of kind ar"),
        (["evaluate.objects=0"], r"evaluate\.objects=0 is wrong"),
    ]
    for words, sentence in cases:
        with pytest.raises(UserError, match=sentence) as raised:
            rendered.run(STAGE, configure(*words))
        assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="there is no finished model to evaluate: list a stage that trains one"):
        rendered.run(STAGE, rendered.configure(root(), "stages=[render]"))


def test_conditions_of_another_encoder_and_objects_without_captions_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "root"
    shutil.copytree(rendered.root(), folder, ignore=shutil.ignore_patterns("cache_*"))
    only_images = ("cache_conditions.text=none", "evaluate.captions=false", "evaluate.image=false")
    rendered.run(STAGES["cache_conditions"], configure(*only_images, where=folder))
    with pytest.raises(
        UserError, match=r"cache_conditions holds no text conditions, but the generator takes those of minilm"
    ):
        rendered.run(STAGE, configure(*only_images, where=folder))
    downloads = rendered.downloads(configure())
    silent = tmp_path / "silent"
    (silent / "download").mkdir(parents=True)
    table = pq.read_table(downloads.files()[0])
    empty = type(table).from_pylist([{**row, "captions": []} for row in table.to_pylist()], schema=table.schema)
    pq.write_table(empty, silent / "part.parquet")

    class Silent:
        def files(self) -> list[str]:
            return [str(silent / "part.parquet")]

    asked = [EvaluationSource("captions", rendered.views(configure()), (0.0, 0.0), True)]
    items: Any = evaluation_items(asked, Silent(), "auto", 2, 0, lambda _: None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"no training object has a caption, .* evaluate\.captions=false"):
        list(items)
