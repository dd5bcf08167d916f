"""What the tokenizer promises on a whole folder of real objects: those it was not trained on, and a stable training."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange
from proofs import Record, finish, history, only_output

from pipelines.runtime.output import outputs
from sar3d.data.datasets.shown import ShownSamples
from sar3d.data.datasets.view_config import ViewDataConfig
from sar3d.data.datasets.view_dataset import ViewDataset
from sar3d.hub import from_pretrained
from sar3d.metrics.image import psnr
from sar3d.vqvae.cameras import rays_of
from sar3d.vqvae.model import VQVAE
from sar3d.vqvae.volume import Rays, render

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]

RISE = 1.5
"""What the reconstruction loss may rise to, in units of what it was."""
SPAN = 50
"""Steps whose mean is looked at."""
SMALL_ON_CPU = (
    "train_vqvae.gpus=0",
    "train_vqvae.cpus=2",
    "train_vqvae.task.sampling={kind: patches, patch: 24}",
    "train_vqvae.task.loss.lpips=0",
    "train_vqvae.task.loss.adversarial=0",
    "train_vqvae.task.model.volume={coarse: 24, fine: 0}",
    "train_vqvae.data.supervise=1",
    "train_vqvae.train.batch=1",
    "train_vqvae.train.schedule.warmup=20",
    "train_vqvae.train.precision=fp32",
)


def held_out(root: Path, metric: str) -> float:
    """A value of the table that `evaluate` leaves."""
    table = json.loads(only_output(root, "evaluate").store.read("artifacts/evaluation.json") or b"{}")
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    (found,) = [row["ours"] for row in rows if (row["what"], row["metric"]) == ("heldout/reconstruction", metric)]
    return float(found)


@pytest.mark.acceptance(
    "Whole folder: `folder` from random weights in at most 60 minutes on two CPU cores: held-out objects at least 20.5 dB, "
    "none under 14 dB"
)
def test_objects_that_nothing_was_trained_on(shared: Path, tmp_path: Path, record_property: Record) -> None:
    finish("run", "folder", tmp_path, f"download.directory.path={shared / 'objects'}", "cluster.address=local")
    seconds = {s: only_output(tmp_path, s).finished() or {} for s in ("download", "render", "train_vqvae", "evaluate")}
    total = sum(end["seconds"] for end in seconds.values())
    record_property("all stages, s", round(total))
    for metric in ("psnr", "psnr_worst", "psnr_foreground"):
        record_property(f"held-out objects: {metric}", round(held_out(tmp_path, metric), 2))
    known = {name: values[max(values)] for name, values in history(tmp_path, "train_vqvae").items()}
    record_property("known objects, unseen views: psnr", round(known["views/psnr"], 2))
    assert total <= 3600
    assert held_out(tmp_path, "psnr") >= 20.5
    assert held_out(tmp_path, "psnr_worst") >= 14


def reconstruction(root: Path, weight: float = 1.0) -> Any:
    """The loss without the quantizer's term, step by step, and the first step that quantized."""
    told = history(root, "train_vqvae")
    loss, vq = (np.array([told[name][step] for step in sorted(told["loss"])]) for name in ("loss", "vq"))
    return loss - weight * vq, int(np.argmax(vq > 0))


def rise(losses: Any, start: int) -> float:
    """How far the mean of `SPAN` steps rises: within 500 steps of the start above the mean before it; for a training that
    quantizes from the first step, above any earlier mean."""
    means = np.convolve(losses, np.ones(SPAN) / SPAN, "valid")
    if start == 0:
        return float((means / np.minimum.accumulate(means)).max())
    return float(means[start : start + 500 - SPAN + 1].max() / means[start - SPAN])


@torch.no_grad()
def gap(root: Path) -> float:
    """By how many dB decoding the tokens of held-out objects is worse than decoding their latents."""
    (views,) = outputs(str(root), "render")
    data = ViewDataset(views.files(), 64, ViewDataConfig(unit="group", val=0.15, test=0.0, normals=False), split="val")
    model = from_pretrained(only_output(root, "train_vqvae").store.path("model"))
    assert isinstance(model, VQVAE)
    found: dict[bool, list[float]] = {False: [], True: []}
    for sample in ShownSamples(data, "all", 24):
        true = sample.supervision.first(6)
        rays = rays_of(true.cameras, 64, 64)
        flat = Rays(*(rearrange(x, "v n c -> 1 (v n) c") for x in (rays.origins, rays.directions)))
        latent = model.latent(sample.encoder_input[None])
        for quantized in found:
            f = model.quantizer.encode_with_f_hat(latent)[1] if quantized else latent
            rgb = render(model.field(model.decode(f)), flat, model.config.volume).rgb
            made = rearrange(rgb, "1 (v h w) c -> v c h w", v=6, h=64).clamp(0, 1)
            found[quantized].append(float(psnr(made, (true.image + 1) / 2).mean()))
    return float(np.mean(found[False]) - np.mean(found[True]))


@pytest.mark.acceptance(
    "Stability: on the whole folder, quantized from the first step and from step 400, 3,000 and 10,000 on, the loss without "
    "the quantizer's term rises to less than 1.5 times what it was, and tokens end within 0.5 dB of the latent"
)
@pytest.mark.parametrize("start", [0, 400, 3000, 10000])
def test_quantization_begins_without_a_collapse(
    start: int, shared: Path, tmp_path: Path, record_property: Record
) -> None:
    words = (
        f"download.directory.path={shared / 'objects'}",
        f"train_vqvae.task.codebook={{quantize_start: {start}, dead_code_reset_every: 25, dead_code_reset_until: {start + 600}}}",
        f"train_vqvae.train.steps={start + 1000}",
        "train_vqvae.train.log_every=1",
        "train_vqvae.evaluate_objects=2",
        "cluster.address=local",
    )
    finish("run", "folder", tmp_path, "stages=[download, render, train_vqvae]", *words)
    losses, began = reconstruction(tmp_path)
    assert began == start
    highest, difference = rise(losses, start), gap(tmp_path)
    record_property(f"start {start}: highest mean of {SPAN} steps", round(highest, 3))
    record_property(f"start {start}: latent less tokens, dB", round(difference, 2))
    assert highest < RISE
    assert difference < 0.5


@pytest.mark.acceptance("Stability: `small` on the whole folder on CPU, quantized from step 500 on: the same rule")
def test_small_begins_to_quantize_without_a_collapse(shared: Path, tmp_path: Path, record_property: Record) -> None:
    words = (
        f"download.directory.path={shared / 'objects'}",
        *SMALL_ON_CPU,
        "train_vqvae.task.codebook={quantize_start: 500, dead_code_reset_every: 100, dead_code_reset_until: 800}",
        "train_vqvae.train.steps=1000",
        "train_vqvae.train.log_every=1",
        "train_vqvae.evaluate_objects=2",
        "train_vqvae.draw_objects=2",
        "cluster.address=local",
    )
    finish("run", "small", tmp_path, "stages=[download, render, train_vqvae]", *words)
    losses, began = reconstruction(tmp_path)
    assert began == 500
    highest = rise(losses, began)
    record_property("highest mean of 50 steps", round(highest, 3))
    assert highest < RISE
