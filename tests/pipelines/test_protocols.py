"""The protocols `published` and `heldout`: a row for every system of an object, with pictures, shapes and latency."""

from pathlib import Path
from typing import Any

import generators
import numpy as np
import pytest
import rendered
import torch
from evaluated import configure, root

from pipelines.evaluate import EvaluateStage
from pipelines.evaluating.protocols import images_of, numbers_of
from pipelines.measuring.lines import from_json
from pipelines.measuring.pictures import colors
from pipelines.measuring.truth import TrueObjects
from pipelines.registry import STAGES
from pipelines.runtime.engine import prepare
from pipelines.runtime.output import Output
from pipelines.runtime.reading import read_rows
from sar3d.compare.draw import ring
from sar3d.data.formats.views import split_of
from sar3d.errors import UserError
from sar3d.generate import Sar3D
from sar3d.metrics.image import psnr
from sar3d.metrics.rows import features_of, points_of
from sar3d.render import RenderSettings
from sar3d.tasks.ar.evaluate import FieldRenderer

pytestmark = pytest.mark.usefixtures("local_ray")
STAGE = EvaluateStage()
SMALL = (
    "evaluate.captions=false",
    "evaluate.objects=2",
    "evaluate.backend=raycast",
    "evaluate.network=efficientnet-lite0",
    "evaluate.similarity=efficientnet-lite0",
    "evaluate.musiq=off",
    "evaluate.shape={points: 128, volume_points: 512}",
    f"generate.export={{grid: {generators.EXPORT['grid']}, level: {generators.EXPORT['level']}, texture: 32}}",
)
PUBLISHED = (
    *SMALL,
    "evaluate.protocol=published",
    "evaluate.text=false",
    "evaluate.turntable=3",
    "evaluate.resolution=48",
)
ALL_HELD_OUT = [f"{stage}.data.val=0.5" for stage in ("train_vqvae", "train_ar", "train_ar_image", "train_llm")]


@pytest.fixture(scope="module")
def published(local_ray: object) -> tuple[Any, Output]:
    root()
    config = configure(*PUBLISHED)
    return config, rendered.run(STAGE, config)[1]


def by_system(output: Output) -> dict[str, dict[str, dict[str, Any]]]:
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in read_rows(output):
        found.setdefault(row["system"], {})[row["uid"]] = row
    return found


def test_published_measures_every_system_of_every_object(published: tuple[Any, Output]) -> None:
    rows = by_system(published[1])
    systems = {f"image/{of}" for of in ("ours", "own_codes", "mean_image", "nearest_training_object")}
    assert set(rows) == systems | {"truth", "noise_floor"}
    assert {len(objects) for objects in rows.values()} == {2}
    for uid, row in rows["image/ours"].items():
        assert row["protocol"] == "published, training objects", "nothing was held out, and it says so"
        assert row["prompt"] == "the front"
        assert features_of(row).full.shape == (3, 1280)
        assert set(dict(row["seconds"])) == {"condition", "tokens", "triplane", "mesh", "texture", "file"}
        assert "threads" in row["device"]
        assert points_of(row).shape == (2048, 3)
        numbers = {system: dict(of[uid]["numbers"]) for system, of in rows.items()}
        assert numbers["image/ours"].keys() >= {"psnr", "efficientnet-lite0_similarity", "chamfer_l1_posed"}
        assert numbers["noise_floor"]["chamfer_l1_posed"] == pytest.approx(0, abs=1e-6)
    for row in rows["image/mean_image"].values():
        assert row["points"] is None
        assert dict(row["absent"])["chamfer_l1_unit_box"] == "a picture has no shape"
        assert not row["seconds"]


@pytest.mark.slow
def test_published_generates_from_the_front_and_draws_the_turntable(published: tuple[Any, Output]) -> None:
    config, output = published
    context = prepare(STAGE, config, lambda _: None)
    item = next(i for i in STAGE.items(context, lambda _: None) if i["what"] == "image")
    files = TrueObjects(context.config.source, context.rows["objects_of"], context.config, "y")
    cameras = ring(3)
    truth = files.placed(item["object"], item["_truth"]).scene
    assert truth is not None
    seen = files.renderer.render(truth, *cameras, RenderSettings(48)).rgb
    system = Sar3D.from_pretrained(generators.bundle(), device="cpu")
    (sample,) = system.generate(image=seen[0], decoding="evaluation", seed=item["seed"])
    drawn = FieldRenderer(system.vqvae, sample.planes)(numbers_of(*cameras), 48)
    (row,) = [r for r in read_rows(output) if (r["uid"], r["system"]) == (item["object"], "image/ours")]
    expected = float(psnr(drawn, colors(seen)).mean())
    assert dict(row["numbers"])["psnr"] == pytest.approx(expected, abs=1e-3)
    assert images_of(torch.ones(1, 3, 2, 2)).tolist() == np.full((1, 2, 2, 3), 255).tolist()


def test_the_summary_has_intervals_latencies_and_what_it_depends_on(published: tuple[Any, Output]) -> None:
    summary = from_json((Path(published[1].url) / "artifacts" / "evaluation.json").read_bytes())
    lines = {(line.system, line.metric): line for line in summary.lines if not line.shift}
    ours = lines["image/ours", "psnr"]
    assert ours.value is not None
    assert ours.low is not None
    assert ours.high is not None
    assert ours.low <= ours.value <= ours.high
    for part in ("condition", "tokens", "triplane", "mesh", "texture", "file", "total"):
        median, late = (lines["image/ours", f"latency_{part}{end}"] for end in ("", "_p95"))
        assert median.value is not None
        assert late.value is not None
        assert 0 < median.value <= late.value
        assert "warm, one object at a time, on" in median.about
    assert "sar3d weights fetch inception" in lines["image/ours", "fid"].note
    assert "frechet_efficientnet" in {metric for _, metric in lines}
    assert summary.identity["settings"]["protocol"] == "published"
    assert summary.identity["networks"]["network"].startswith("efficientnet-lite0:")
    assert summary.identity["protocols"] == ["published, training objects"]


def test_sets_of_shapes_may_be_those_of_a_protocol_alone(published: tuple[Any, Output]) -> None:
    stage = STAGES["set_distances"]
    words = ("set_distances.measured=evaluate",)
    context = prepare(stage, configure(*PUBLISHED, *words), lambda _: None)
    items = list(stage.items(context, lambda _: None))
    assert {item["system"] for item in items} >= {"image/ours", "image/own_codes", "noise_floor", "truth"}
    assert "image/mean_image" not in {item["system"] for item in items}
    with pytest.raises(UserError, match=r"name a stage that writes systems rows \(compare\)"):
        prepare(stage, configure(*words), lambda _: None)


def test_heldout_takes_what_no_training_has_seen() -> None:
    held_out = configure(*SMALL, *ALL_HELD_OUT, "evaluate.protocol=heldout", "evaluate.objects=9")
    context = prepare(STAGE, held_out, lambda _: None)
    items = list(STAGE.items(context, lambda _: None))
    hashes = {row["uid"]: row["sha256"] for row in read_rows(rendered.downloads(held_out))}
    test = held_out.train_ar.data.test
    assert {i["object"] for i in items} == {u for u, h in hashes.items() if split_of(h, 0.5, test) != "train"}
    assert {i["what"] for i in items} == {"truth", "reconstruction", "text", "image"}
    assert {i["part"] for i in items} == {"heldout"}
    seen = configure(*SMALL, "train_vqvae.data.val=0.5", "evaluate.protocol=heldout")
    with pytest.raises(UserError, match="finds no object of render that every training held out"):
        list(STAGE.items(prepare(STAGE, seen, lambda _: None), lambda _: None))
    with pytest.raises(UserError, match="generates from frontal pictures"):
        STAGE.check(prepare(STAGE, configure(*PUBLISHED, "evaluate.image=false", "evaluate.text=true"), print))


@pytest.mark.slow
def test_heldout_shows_reconstruction_and_generation_side_by_side(local_ray: object) -> None:
    words = ("evaluate.protocol=heldout", "evaluate.compared=4", "evaluate.objects=1")
    rows = by_system(rendered.run(STAGE, configure(*SMALL, *ALL_HELD_OUT, *words))[1])
    assert {s for s in rows if s.endswith("/ours")} == {"reconstruction/ours", "text/ours", "image/ours"}
    ours = next(iter(rows["reconstruction/ours"].values()))
    codes = rows["image/own_codes"][ours["uid"]]
    assert ours["protocol"] == "heldout, heldout objects"
    assert dict(ours["numbers"])["psnr"] == pytest.approx(dict(codes["numbers"])["psnr"], abs=1e-3)
    assert ours["points"] == codes["points"]
