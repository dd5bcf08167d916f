"""One training step of the mesh decoder: what it compares, where it starts, and that it learns."""

import io
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from balls import RADIUS, sample
from flexi_cases import MODEL, Balls, few
from losses import LOSS_PRESETS, PUBLISHED_MESH_LOSS
from PIL import Image
from torch import Tensor

from sar3d.data.datasets.view_dataset import ViewSample
from sar3d.errors import UserError
from sar3d.flexicubes import extract, regular_grid
from sar3d.hub import from_pretrained, save_pretrained
from sar3d.metrics.lpips import LaplacianPyramid
from sar3d.presets import merged
from sar3d.seeds import SampleKey
from sar3d.tasks.flexicubes.config import FlexiTaskConfig, MeshLossConfig
from sar3d.tasks.flexicubes.evaluate import drawn, evaluate, reconstruct, shape_metrics
from sar3d.tasks.flexicubes.losses import PictureTargets, picture_parts
from sar3d.tasks.flexicubes.pictures import mesh_pictures, published_cameras
from sar3d.tasks.flexicubes.task import FlexiTask
from sar3d.tasks.vqvae.config import CodebookConfig, LRConfig, SamplingConfig, VQVAETaskConfig
from sar3d.tasks.vqvae.evaluate import ReconstructionSets
from sar3d.tasks.vqvae.task import VQVAETask
from sar3d.training.fit import fit, start
from sar3d.training.schedule import ScheduleSettings
from sar3d.training.settings import TrainSettings
from sar3d.training.step import train_step
from sar3d.training.task import Alone
from sar3d.vqvae.config import PRESETS, from_dict, to_dict
from sar3d.vqvae.model import VQVAE

GRID = 16
PLAIN = MeshLossConfig(lpips=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a VQVAE with random weights, whose field is about half full."""
    torch.manual_seed(0)
    vqvae = VQVAE(from_dict(MODEL))
    made = tmp_path_factory.mktemp("vqvae")
    save_pretrained(vqvae, made)
    return made


def task_of(folder: Path, **changes: Any) -> FlexiTask:
    values: dict[str, Any] = {"grid": GRID, "loss": PLAIN, "lr": 2e-3, "samples": 1}
    return FlexiTask(FlexiTaskConfig(**(values | changes)), lambda: folder)


def batch_of(task: FlexiTask, count: int = 2) -> Any:
    return task.collate([few(n) for n in range(count)], 0, [SampleKey(0, 0, n) for n in range(count)])


def true_ball(number: int) -> tuple[Tensor, Tensor]:
    """The ball of `sample(number)` as a mesh."""
    center = torch.tensor(np.random.default_rng(number).uniform(-0.1, 0.1, 3)).float()
    grid = regular_grid(48, 0.9)[None]
    (mesh,) = extract(grid, (grid - center).norm(dim=-1) - RADIUS, torch.zeros(1, 48, 48, 48, 21), training=False)
    return mesh.vertices, mesh.faces


def targets_of(balls: list[ViewSample]) -> PictureTargets:
    true = [ball.supervision for ball in balls]
    return PictureTargets(
        rgb=torch.stack([(one.image + 1) / 2 for one in true]),
        alpha=torch.stack([one.mask for one in true]),
        depth=torch.stack([one.depth for one in true]),
        normal=torch.stack([one.normal for one in true if one.normal is not None]),
    )


def test_pictures_of_the_true_shape_have_hardly_any_loss():
    balls = [few(0), few(1)]
    cameras = torch.stack([ball.supervision.cameras for ball in balls])
    meshes = [true_ball(0), true_ball(1)]
    made = mesh_pictures(meshes, lambda points: torch.full_like(points, 0.5), cameras, 32, 32, 2)
    parts = {
        name: float(value)
        for one, ball in zip(made, balls, strict=True)
        for name, (_, value) in picture_parts(one, targets_of([ball]), PLAIN, 0).items()
    }
    assert parts["depth"] < 2e-3
    assert parts["normal"] < 2e-3
    assert parts["mask"] < 0.02
    swapped = picture_parts(made[0], targets_of([balls[1]]), PLAIN, 0)
    assert float(swapped["mask"][1]) > 0.04
    metrics = shape_metrics(
        drawn(meshes[0], lambda p: p * 0 + 0.5, balls[0].supervision, "cpu", torch.zeros(1, 1)), balls[0].supervision
    )
    assert metrics["mask_iou"] > 0.94
    assert metrics["chamfer"] < 0.012


def test_published_rules_can_be_chosen():
    ball = few(0)
    cameras = ball.supervision.cameras[None]
    mesh = true_ball(0)
    made = mesh_pictures([mesh], lambda points: torch.full_like(points, 0.5), cameras, 32, 32, 1)[0]
    published = replace(PUBLISHED_MESH_LOSS, lpips=0.0)
    parts = picture_parts(made, targets_of([ball]), published, 0)
    assert float(parts["depth"][1]) < 0.01
    # Half the depth has the same scale- and shift-invariant error.
    half = picture_parts(replace(made, depth=made.depth / 2), targets_of([ball]), published, 0)
    torch.testing.assert_close(half["depth"][1], parts["depth"][1], atol=1e-3, rtol=0.2)
    dropped = replace(published, depth_zero_above=0.0)
    assert float(picture_parts(made, targets_of([ball]), dropped, 0)["depth"][1]) == 0
    changed = published_cameras(cameras)
    nearer = mesh_pictures([mesh], lambda points: torch.full_like(points, 0.5), changed, 32, 32, 1)[0]
    # 1.5 % larger, and nearer by a tenth.
    assert 0.9 < float(nearer.mask.sum() / made.mask.sum()) < 1.2
    assert torch.equal(changed[..., :3], cameras[..., :3])


def test_colors_move_silhouettes_unless_told_not_to():
    vertices, faces = true_ball(0)
    cameras = few(0).supervision.cameras[None]
    for told in (True, False):
        moving = vertices.clone().requires_grad_()
        made = mesh_pictures([(moving, faces)], lambda p: p * 0 + 0.2, cameras, 24, 24, 1, color_silhouettes=told)
        assert made[0].mask.requires_grad
        assert made[0].rgb.requires_grad == told


def test_training_starts_where_the_field_has_its_surface(folder: Path):
    task = task_of(folder)
    settings = TrainSettings(steps=2, batch=2)
    state = start(task, settings)
    learning = {name.split(".")[0] for name, p in state.model.named_parameters() if p.requires_grad}
    assert learning == {"heads"}
    batches = [batch_of(task)]
    moved, metrics = train_step(state, batches)
    metrics |= {name: torch.tensor(value) for name, value in moved.items()}
    assert metrics["valid"] == 1
    assert float(metrics["faces"]) > 50
    for name in ("rgb_l1", "mask", "depth", "normal", "sign", "deviation", "weight", "start/level", "start/steepness"):
        assert np.isfinite(float(metrics[name])), name
    moved, _ = train_step(state, batches)
    assert "start/level" not in moved
    vqvae = from_pretrained(folder, kind="vqvae")
    frozen = {n: t for n, t in state.model.state_dict().items() if not n.startswith("heads.")}
    assert all(torch.equal(tensor, vqvae.state_dict()[name]) for name, tensor in frozen.items())


def test_the_decoder_learns_if_it_is_told_to(folder: Path):
    task = task_of(folder, train="decoder")
    model = task.build()
    assert [len(group["params"]) for group in task.parameter_groups(model)] == [
        len(list(model.heads.parameters())),
        len(list(model.decoder.parameters())),
    ]
    losses = task.losses(model, batch_of(task), 0)
    losses.total.backward()
    assert model.decoder.token_conv.weight.grad is not None
    assert model.encoder.conv_in.weight.grad is None
    assert model.quantizer.codebook.grad is None


def test_a_discriminator_judges_whole_pictures(folder: Path):
    task = task_of(folder, loss=replace(PLAIN, adversarial=0.01, adversarial_start=1), start="random")
    model, discriminator = task.build(), task.build_discriminator()
    assert discriminator is not None
    batch = batch_of(task)
    before, after = (task.losses(model, batch, step, discriminator) for step in (0, 1))
    assert "adversarial" not in before.metrics
    assert "adversarial" in after.metrics
    assert task.discriminator_losses(discriminator, batch, before, 0) is None
    judged = task.discriminator_losses(discriminator, batch, after, 1)
    assert judged is not None
    assert judged.metrics["discriminator"] > 0


def test_what_cannot_be_is_refused(folder: Path):
    with pytest.raises(UserError, match="start=field"):
        FlexiTaskConfig(start="random", level=3.0)
    with pytest.raises(UserError, match="samples"):
        FlexiTaskConfig(samples=0)
    ball = few(0)
    blind = replace(ball, supervision=replace(ball.supervision, normal=None))
    with pytest.raises(UserError, match="normals"):
        task_of(folder).collate([blind], 0, [SampleKey(0, 0, 0)])
    assert pickle.loads(pickle.dumps(FlexiTask(FlexiTaskConfig(), Path))).config == FlexiTaskConfig()


def trained_vqvae(folder: Path) -> VQVAE:
    codebook = CodebookConfig(quantize_start=40, dead_code_reset_every=20, dead_code_reset_until=80)
    rates = LRConfig(encoder=2e-3, transformer=2e-3, field=2e-3, other=2e-3)
    sampling = SamplingConfig(kind="rays", rays=128)
    model_config = from_dict(merged(to_dict(PRESETS["tiny"]), MODEL))
    task = VQVAETask(
        VQVAETaskConfig(model=model_config, loss=LOSS_PRESETS["tiny"], sampling=sampling, lr=rates, codebook=codebook)
    )
    settings = TrainSettings(steps=200, batch=4, ema=0.95, schedule=ScheduleSettings(kind="cosine", warmup=10))
    model = fit(task, Balls(4, 12), settings)
    assert isinstance(model, VQVAE)
    save_pretrained(model.eval(), folder)
    return model


@pytest.mark.slow
def test_meshes_come_nearer_to_the_objects_than_the_field_was(tmp_path: Path):
    trained_vqvae(tmp_path / "vqvae")
    held_out = ReconstructionSets({"views": [sample(n) for n in range(4)]})
    found = {}
    for name, steps in (("start", 1), ("end", 150)):
        task = task_of(tmp_path / "vqvae", lr=3e-3 if steps > 1 else 1e-9, samples=2)
        settings = TrainSettings(steps=steps, batch=2, schedule=ScheduleSettings(kind="cosine", warmup=1))
        model = fit(task, Balls(4, 4), settings).eval()
        found[name] = evaluate(model, held_out, LaplacianPyramid(), Alone())
    for metric, better in (("chamfer", -1), ("mask_iou", 1), ("normal_error", -1), ("psnr", 1)):
        before, after = found["start"][f"views/{metric}"], found["end"][f"views/{metric}"]
        assert better * (after - before) > 0, (metric, before, after)
    task.export(model, tmp_path / "model")
    again = from_pretrained(tmp_path / "model", kind="flexicubes")
    torch.testing.assert_close(reconstruct(model, sample(0)).rgb, reconstruct(again, sample(0)).rgb)
    (name, png), *_ = task.draw(model, held_out).items()
    assert name == "meshes_views.png"
    assert np.asarray(Image.open(io.BytesIO(png))).std() > 20
