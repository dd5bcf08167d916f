"""Metrics are entries: measured of one object, made one value over all, and added without any other change."""

import math
import re
from pathlib import Path

import pytest
import torch

from sar3d.metrics.image import psnr
from sar3d.metrics.lpips import LaplacianPyramid
from sar3d.metrics.registry import (
    CAPTIONS,
    GENERATION,
    OURS,
    RECONSTRUCTION,
    TARGET,
    CaptionBatch,
    Metric,
    Numbers,
    Pictures,
    Subject,
    Tools,
    caption_totals,
    measure,
    totals,
)

SIDE = 16


def looks(seed: int) -> Pictures:
    """Three views of something round."""
    random = torch.Generator().manual_seed(seed)
    rgb = torch.rand(3, 3, SIDE, SIDE, generator=random)
    row = torch.linspace(-1, 1, SIDE)
    inside = (row[:, None] ** 2 + row**2 < 0.5).float().expand(3, -1, -1)
    normal = torch.nn.functional.normalize(torch.randn(3, 3, SIDE, SIDE, generator=random), dim=1)
    return Pictures(rgb, inside, inside * (1.5 + torch.rand(3, SIDE, SIDE, generator=random)), normal)


def values(records: list[dict], metric: str) -> dict[str, float]:
    return {r["of"]: r["value"][0] for r in records if r["metric"] == metric}


def test_what_is_shown_is_measured_and_baselines_stand_beside_it() -> None:
    target = looks(0)
    white = Pictures(torch.ones_like(target.rgb))
    subject = Subject(target, {OURS: looks(1), "white_image": white})
    records = measure(subject, RECONSTRUCTION, Tools(perceptual=LaplacianPyramid()))
    found = values(records, "psnr")
    assert found[OURS] == pytest.approx(float(psnr(looks(1).rgb, target.rgb).mean()))
    assert found["white_image"] == pytest.approx(float(psnr(white.rgb, target.rgb).mean()))
    assert set(values(records, "substitute_laplacian")) == {OURS, "white_image"}, "the distance bears its own name"
    # A picture alone has no depth.
    assert set(values(records, "depth_error")) == set(values(records, "normal_error")) == {OURS}
    assert values(records, "depth_missing")[OURS] == 0


def test_the_truth_itself_is_perfect() -> None:
    target = looks(0)
    records = measure(Subject(target, {OURS: target}), RECONSTRUCTION, Tools(perceptual=LaplacianPyramid()))
    expected = {"psnr": math.inf, "ssim": 1.0, "substitute_laplacian": 0, "depth_error": 0, "normal_error": 0}
    expected |= {"mask_iou": 1}
    assert {name: values(records, name)[OURS] for name in expected} == pytest.approx(expected, abs=1e-4)


def test_a_metric_without_its_tool_gives_no_number() -> None:
    records = measure(Subject(looks(0), {OURS: looks(1)}, prompt="a cup", told={OURS: "a cup"}), GENERATION, Tools())
    assert {record["metric"] for record in records} == {"psnr"}


def test_totals_are_means_over_what_could_be_measured() -> None:
    rows = [
        [{"entry": "depth", "metric": "depth_error", "of": OURS, "value": [value]}] for value in (1.0, math.nan, 3.0)
    ]
    rows[0].append({"entry": "gone", "metric": "gone", "of": OURS, "value": [1.0]})
    (total,) = totals(rows, RECONSTRUCTION)
    assert (total.metric, total.values, total.objects, total.better) == ("depth_error", {OURS: 2.0}, 2, "lower")
    nothing = [[{"entry": "depth", "metric": "depth_error", "of": OURS, "value": [math.nan]}]]
    assert totals(nothing, RECONSTRUCTION)[0].values == {}


def test_a_distance_of_features_is_one_more_entry() -> None:
    """As a Fréchet distance would be: features of each object, and one value for all of them."""

    def features(subject: Subject, tools: Tools) -> Numbers:
        of = {OURS: subject.shown[OURS], TARGET: subject.target}
        return {"mean_color_distance": {name: p.rgb.mean((0, 2, 3)).tolist() for name, p in of.items()}}

    def distance(numbers):
        ours, true = (torch.tensor(numbers[name]).mean(0) for name in (OURS, TARGET))
        return {OURS: float((ours - true).norm())}

    metrics = {**GENERATION, "mean_color_distance": Metric(features, "lower", distance)}
    # Each object has the other's colors: apart they are far from the truth, together they are not.
    dark, light = (Pictures(torch.full((1, 3, SIDE, SIDE), level)) for level in (0.2, 0.8))
    rows = [measure(Subject(t, {OURS: o}), metrics, Tools()) for t, o in ((dark, light), (light, dark))]
    found = {total.metric: total for total in totals(rows, metrics)}
    assert found["mean_color_distance"].values == {OURS: pytest.approx(0, abs=1e-6)}
    assert found["psnr"].values[OURS] < 10
    assert (found["mean_color_distance"].objects, found["mean_color_distance"].better) == (2, "lower")


def test_the_documented_entry_is_a_metric() -> None:
    """The example of docs/evaluate.md."""
    text = (Path(__file__).parents[3] / "docs" / "evaluate.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    try:
        exec(block, {})
        entry = GENERATION["color_distance"]
    finally:
        GENERATION.pop("color_distance", None)
    dark, light = (Pictures(torch.full((1, 3, SIDE, SIDE), level)) for level in (0.2, 0.8))
    metrics = {"color_distance": entry}
    (total,) = totals([measure(Subject(dark, {OURS: light}), metrics, Tools())], metrics)
    assert total.values == {OURS: pytest.approx(0.6 * 3**0.5)}


def test_captions_are_measured_by_every_entry() -> None:
    said = CaptionBatch(["a red cup"], [["a red cup"]], ["cup"], ["dish"])
    more = {**CAPTIONS, "length": lambda s: {"values": {"words": 3.0}, "absent": {"rhyme": "nobody knows"}}}
    found = caption_totals(said, more)
    assert found["values"]["noun_accuracy"] == 1
    assert found["values"]["words"] == 3
    assert found["absent"]["rhyme"] == "nobody knows"
