"""Every stage from objects to evaluation as one submitted job, on nodes that die. Run by `make acceptance`."""

import random
import time
from pathlib import Path
from typing import Any

import pytest
import ray_cluster
from proofs import Record, finish, only_output
from ray_cluster import RayCluster

from pipelines.registry import load
from pipelines.runtime.output import outputs
from pipelines.runtime.reading import read_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

CONFIG = "configs/demo.yaml"
STAGES = "download, render, train_vqvae, train_flexicubes, cache_tokens, cache_conditions, train_ar, train_ar_image, train_llm"
SHORT = (
    f"stages=[{STAGES}, generate, caption, evaluate]",
    "download.procedural.count=6",
    "render.resolution=64",
    "train_vqvae.task.model={resolution: 64, quantizer: {codebook_size: 256, scales: [1, 2, 4, 8]}, decoder: {depth: 1}}",
    "train_vqvae.task.codebook={quantize_start: 2, dead_code_reset_every: 0, dead_code_reset_until: 0}",
    "train_vqvae.train={steps: 12, batch: 4, checkpoint_every: 4, log_every: 4}",
    "train_vqvae.evaluate_objects=2",
    "train_vqvae.draw_objects=2",
    "train_flexicubes.task={grid: 16, start: random, loss: {lpips: 0.0}}",
    "train_flexicubes.supervise=2",
    "train_flexicubes.train={steps: 12, batch: 4, checkpoint_every: 4, log_every: 4}",
    "train_flexicubes.evaluate_objects=2",
    "train_flexicubes.draw_objects=2",
    "train_ar.task.model={depth: 2, width: 64, heads: 2, drop_path: 0.0}",
    "train_ar.train={steps: 12, batch: 4, checkpoint_every: 4, log_every: 4}",
    "train_ar.evaluate_objects=2",
    "train_ar.draw_objects=2",
    "train_ar_image.task.model={depth: 2, width: 64, heads: 2, drop_path: 0.0}",
    "train_ar_image.train={steps: 8, batch: 4, checkpoint_every: 4, log_every: 4}",
    "train_ar_image.evaluate_objects=2",
    "train_ar_image.draw_objects=2",
    "train_llm.task.random={width: 64, layers: 2, heads: 2}",
    "train_llm.train={steps: 12, batch: 4, checkpoint_every: 4, log_every: 4, ema: null}",
    "generate.objects=2",
    "generate.export={formats: [glb], grid: 48, texture: 128}",
    # A tokenizer of a dozen steps may make a field without a surface: such an object is a failure, and no reason to stop.
    "max_failure_rate=1",
    "evaluate.objects=2",
    "report=false",
)
TRAINED = ("train_vqvae", "train_flexicubes", "train_ar", "train_ar_image", "train_llm")


def rows(root: Path, stage: str, columns: list[str]) -> list[dict[str, Any]]:
    return list(read_rows(only_output(root, stage), columns))


@pytest.mark.acceptance(
    "`ray job submit` of the whole run, objects to evaluation, on 3 nodes without the package, one of them killed in training: "
    "complete, and the same models, objects and captions as undisturbed on one machine"
)
def test_the_whole_run_as_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Record) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    calm, root, folder = tmp_path / "calm", tmp_path / "root", tmp_path / "cluster"
    folder.mkdir()
    finish("run", "demo", calm, *SHORT, "cluster.address=local")
    cluster = RayCluster(folder, python=ray_cluster.bare_python(tmp_path / "bare"))
    try:
        for _ in range(3):
            cluster.add_node()
        began = time.monotonic()
        job = cluster.submit("python", "-m", "pipelines.cli", "run", "--config", CONFIG, f"root={root}", *SHORT)
        while not any(o.state.read("committed.json") for o in outputs(str(root), "train_ar")):
            assert job.poll() is None, cluster.last_log()
            assert time.monotonic() - began < 1200
            time.sleep(0.2)
        cluster.lose_node("ray::RayTrainWorker", random.Random(5))
        assert job.wait(1200) == 0, cluster.last_log()
        record_property("submitted, s", round(time.monotonic() - began))
    finally:
        cluster.close()
    for stage in load(CONFIG, []).stages:
        assert only_output(root, stage).finished() is not None, stage
    for stage in TRAINED:
        assert only_output(root, stage).model_digest() == only_output(calm, stage).model_digest(), stage
    for stage, columns in (
        ("generate", ["uid", "tokens", "caption"]),
        ("caption", ["uid", "caption"]),
        ("cache_tokens", ["uid", "group", "codes"]),
        ("evaluate", ["uid", "said", "numbers"]),
    ):
        assert rows(root, stage, columns) == rows(calm, stage, columns), stage
