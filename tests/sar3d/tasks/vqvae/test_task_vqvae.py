"""One training step of the VQVAE: what it compares, in which precision, and that it learns."""

import io
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from balls import sample
from losses import LOSS_PRESETS
from PIL import Image

from sar3d.data.loading.order import Order
from sar3d.errors import UserError
from sar3d.hub import from_pretrained
from sar3d.metrics.lpips import LaplacianPyramid
from sar3d.seeds import SampleKey
from sar3d.tasks.vqvae.config import (
    CodebookConfig,
    LossConfig,
    LRConfig,
    SamplingConfig,
    VQVAETaskConfig,
)
from sar3d.tasks.vqvae.evaluate import ReconstructionSets, draw, evaluate, reconstruct
from sar3d.tasks.vqvae.task import VQVAETask
from sar3d.training.fit import fit, start
from sar3d.training.schedule import ScheduleSettings
from sar3d.training.settings import TrainSettings
from sar3d.training.step import train_step
from sar3d.training.task import Alone
from sar3d.vqvae.config import PRESETS

TINY = PRESETS["tiny"]
MODEL = replace(
    TINY,
    resolution=32,
    encoder=replace(TINY.encoder, channels=16, multipliers=(1,), attention_width=16),
    quantizer=replace(TINY.quantizer, codebook_size=64, scales=(1, 2, 4)),
    decoder=replace(TINY.decoder, width=32, depth=1, channels=8, multipliers=(1, 1, 1), blocks=1, plane_channels=8),
    field=replace(TINY.field, hidden=16),
    volume=replace(TINY.volume, coarse=12),
)
FAST = LRConfig(encoder=2e-3, transformer=2e-3, field=2e-3, other=2e-3)


def configure(**changes: Any) -> VQVAETaskConfig:
    values: dict[str, Any] = {
        "model": MODEL,
        "loss": LOSS_PRESETS["tiny"],
        "sampling": SamplingConfig(kind="rays", rays=128),
        "lr": FAST,
    }
    return VQVAETaskConfig(**(values | changes))


class Balls:
    """The dataset protocol over a few balls."""

    def __init__(self, count: int) -> None:
        self.samples = [sample(n) for n in range(count)]
        self.sizes = [1] * count

    def batches(self, order: Order, start: int, rank: int, world: int, prefetch: int) -> Iterator[Any]:
        step = start
        while True:
            chosen = order.batch(step)
            pairs = [(SampleKey(order.seed, step, i), self.samples[int(n)]) for i, n in enumerate(chosen)]
            part = len(pairs) // world
            yield step, pairs[rank * part : (rank + 1) * part]
            step += 1


def batch_of(task: VQVAETask, count: int = 2, step: int = 0) -> Any:
    return task.collate([sample(n) for n in range(count)], step, [SampleKey(0, step, n) for n in range(count)])


def test_a_batch_holds_true_pixels_and_depends_on_its_keys_alone() -> None:
    task = VQVAETask(configure())
    a, b, other = batch_of(task), batch_of(task), batch_of(task, step=1)
    assert torch.equal(a.rays.directions, b.rays.directions)
    assert not torch.equal(a.rays.directions, other.rays.directions)
    alone = task.collate([sample(1)], 0, [SampleKey(0, 0, 1)])
    assert torch.equal(a.rgb[1], alone.rgb[0])
    points = a.rays.origins + a.rays.directions * (a.depth / a.cosine)[..., None]
    hit = a.depth[0] > 0
    center = np.random.default_rng(0).uniform(-0.1, 0.1, 3)
    radii = (points[0][hit] - torch.tensor(center).float()).norm(dim=-1)
    assert hit.float().mean() > 0.3
    torch.testing.assert_close(radii, torch.full_like(radii, 0.3), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_training_learns_unseen_views_through_the_codes(tmp_path: Path) -> None:
    torch.set_num_threads(2)
    codebook = CodebookConfig(quantize_start=40, dead_code_reset_every=20, dead_code_reset_until=80)
    task = VQVAETask(configure(codebook=codebook))
    settings = TrainSettings(steps=140, batch=4, ema=0.95, schedule=ScheduleSettings(kind="cosine", warmup=10))
    logged: list[dict[str, float]] = []
    model = fit(task, Balls(4), settings, lambda step, metrics: logged.append(metrics))
    held_out = ReconstructionSets({"views": [sample(n) for n in range(4)]})
    found = evaluate(model.eval(), held_out, LaplacianPyramid(), Alone())
    assert found["views/psnr"] > found["views/mean_psnr"] + 2
    assert found["views/depth_error"] < 0.1
    assert found["views/normal_error"] < 60
    assert found["views/psnr_worst"] <= found["views/psnr"]
    assert logged[0]["vq"] == 0
    assert logged[-1]["vq"] > 0
    assert 0 < logged[-1]["codebook/usage_4"] <= 1

    task.export(model, tmp_path / "model")
    again = from_pretrained(tmp_path / "model")
    made, remade = reconstruct(model, sample(0)), reconstruct(again, sample(0))
    assert torch.equal(made.tokens, remade.tokens)
    torch.testing.assert_close(made.rgb, remade.rgb)

    (name, png), *_ = draw(model, held_out).items()
    picture = np.asarray(Image.open(io.BytesIO(png)))
    assert name == "reconstructions_views.png"
    assert picture.shape[2] == 3
    assert picture.std() > 10


def test_patches_carry_the_perceptual_and_the_adversarial_loss() -> None:
    loss = LossConfig(lpips=0.5, lpips_start=0, adversarial=0.01, normal=0.2)
    task = VQVAETask(configure(loss=loss, sampling=SamplingConfig(kind="patches", patch=24)))
    settings = TrainSettings(steps=2, batch=1)
    state = start(task, settings)
    assert state.discriminator is not None
    before = [p.detach().clone() for p in state.discriminator.module.parameters()]
    _, metrics = train_step(state, [batch_of(task, 1)])
    wanted = {"rgb_l1", "substitute_laplacian", "depth", "mask", "normal", "adversarial", "discriminator", "vq", "psnr"}
    assert wanted <= set(metrics)
    assert any(not torch.equal(a, b) for a, b in zip(before, state.discriminator.module.parameters(), strict=True))


def test_bf16_reaches_neither_quantizer_nor_rendering_nor_losses() -> None:
    task = VQVAETask(configure())
    settings = TrainSettings(steps=1, batch=2, precision="bf16")
    state = start(task, settings)
    batch = batch_of(task)
    seen: dict[str, torch.dtype] = {}

    def note(name: str) -> Any:
        return lambda module, inputs, output: seen.__setitem__(name, output.dtype)

    model = state.model
    model.encoder.conv_in.register_forward_hook(note("conv"))  # type: ignore[union-attr]
    with torch.autocast("cpu", torch.bfloat16):
        planes, quantized = model(batch.views, True)
        losses = task.losses(model, batch, 0)
    assert seen["conv"] == torch.bfloat16
    assert quantized.f_hat.dtype == quantized.loss.dtype == planes.dtype == torch.float32
    assert losses.total.dtype == losses.extras.dtype == torch.float32
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_settings_that_do_not_fit_are_one_sentence() -> None:
    with pytest.raises(UserError, match="compare patches"):
        configure(loss=LossConfig())
    with pytest.raises(UserError, match="50 pixels"):
        configure(model=replace(MODEL, resolution=50))


def test_every_parameter_is_trained_at_its_rate() -> None:
    task = VQVAETask(configure(lr=LRConfig(encoder=1.0, transformer=2.0, field=3.0, other=4.0)))
    model = task.build()
    groups = task.parameter_groups(model)
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters())
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert rate[id(model.encoder.conv_in.weight)] == 1.0
    assert rate[id(model.decoder.pos_embed)] == 2.0
    assert rate[id(model.field_mlp.net[0].weight)] == 3.0
    assert rate[id(model.quantizer.codebook)] == 4.0


def test_the_task_travels_to_workers() -> None:
    task = VQVAETask(configure())
    task._distance(torch.device("cpu"), needed=True)
    again = pickle.loads(pickle.dumps(task))
    assert again.model_config == task.model_config
