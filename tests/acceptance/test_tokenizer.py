"""What the tokenizer promises, on real objects and with the real model: the long ones. Run by `make acceptance`."""

import json
import os
from pathlib import Path
from statistics import mean

import pytest
from proofs import Record, beginning, finish, first_objects, history, killed_and_resumed, only_output

from pipelines.runtime.output import outputs
from sar3d.data.datasets.shown import ShownSamples
from sar3d.data.datasets.view_config import ViewDataConfig
from sar3d.data.datasets.view_dataset import ViewDataset
from sar3d.hub import from_pretrained
from sar3d.metrics.lpips import LaplacianPyramid
from sar3d.tasks.vqvae.evaluate import ReconstructionSets, evaluate
from sar3d.training.task import Alone

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

SHORT = (
    "download.procedural.count=8",
    "render.resolution=64",
    "train_vqvae.task.model={resolution: 64, quantizer: {codebook_size: 256}, decoder: {depth: 1}}",
    "train_vqvae.task.sampling={kind: patches, patch: 24}",
    "train_vqvae.task.loss={lpips: 0.0, depth_kind: l1, adversarial: 0.01}",
    "train_vqvae.task.codebook={quantize_start: 4, dead_code_reset_every: 5, dead_code_reset_until: 20}",
    "train_vqvae.data={unit: object, supervise: 1, held_out: 5, val: 0.0, test: 0.0}",
    "train_vqvae.train.steps=24",
    "train_vqvae.train.batch=4",
    "train_vqvae.train.log_every=1",
    "train_vqvae.train.checkpoint_every=4",
    "train_vqvae.evaluate_objects=2",
    "train_vqvae.draw_objects=2",
    "train_vqvae.cpus=1",
    "cluster.cpus=5",
    "cluster.address=local",
)
COMPARED = ("loss", "psnr", "vq", "adversarial", "discriminator", "grad_norm", "codebook/perplexity")


@pytest.mark.acceptance(
    "Learning: `tiny` on 16 real objects from random weights, at most 10 minutes on two CPU cores: at least 25 dB on unseen "
    "views, no object under 18 dB"
)
def test_sixteen_real_objects(shared: Path, tmp_path: Path, record_property: Record) -> None:
    folder, root = tmp_path / "objects", tmp_path / "root"
    assert len(first_objects(shared / "objects", 16, folder)) == 16
    words = (f"download.directory.path={folder}", "train_vqvae.evaluate_objects=16", "cluster.address=local")
    finish("run", "tiny", root, *words)
    found = {name: values[max(values)] for name, values in history(root, "train_vqvae").items()}
    # The step times of all logged intervals make up the training, without start-up and evaluation.
    steps = json.loads((only_output(root, "train_vqvae").store.read("_SUCCESS")) or b"")["steps"]
    speed = history(root, "train_vqvae")["samples_per_second"]
    seconds = steps * 8 * sum(1 / rate for rate in speed.values()) / len(speed)
    record_property("training, s", round(seconds))
    for name in ("psnr", "psnr_pooled", "psnr_worst", "psnr_foreground", "white_psnr", "mean_psnr", "ssim"):
        record_property(f"{name}", round(found[f"views/{name}"], 2))
    record_property("usage", round(found["views/usage"], 3))
    record_property("perplexity", round(found["views/perplexity"]))
    for name, value in other_objects(shared, tmp_path, root).items():
        record_property(f"unseen objects: {name}", round(value, 2))
    assert seconds <= 600
    assert found["views/psnr"] >= 25
    assert found["views/psnr_pooled"] >= 24
    assert found["views/psnr_worst"] >= 18


def other_objects(shared: Path, folder: Path, trained: Path) -> dict[str, float]:
    """How the model does on the eight objects that follow the sixteen: reported, not promised."""
    first_objects(shared / "objects", 8, folder / "others", skip=16)
    root = folder / "unseen"
    place = f"download.directory.path={folder / 'others'}"
    finish("run", "tiny", root, "stages=[download, render]", place, "cluster.address=local")
    (views,) = outputs(str(root), "render")
    data = ViewDataset(views.files(), 64, ViewDataConfig(unit="object", val=0.0, test=0.0), split="all")
    model = from_pretrained(only_output(trained, "train_vqvae").store.path("model"))
    sets = ReconstructionSets({"objects": ShownSamples(data, "all", 8)})
    found = evaluate(model, sets, LaplacianPyramid(), Alone())
    return {name: found[f"objects/{name}"] for name in ("psnr", "psnr_foreground", "white_psnr", "mean_psnr")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("undisturbed")
    for stage in ("download", "render", "train_vqvae"):
        finish(stage, "demo", root, *SHORT, "train_vqvae.workers=2")
    return root


@pytest.mark.acceptance(
    "The VQVAE with its discriminator on 2 workers, a worker and then the driver killed: the same losses and weights to the bit"
)
def test_killed_and_resumed(undisturbed: Path, tmp_path: Path) -> None:
    words = (*SHORT, "train_vqvae.workers=2")
    root = beginning(undisturbed, tmp_path / "root", "train_vqvae")
    killed_and_resumed("train_vqvae", "demo", words, undisturbed, root, 11, COMPARED)


@pytest.mark.acceptance("Training goes 2, 1, 4 workers and ZeRO 0, 2, 1 at one batch: losses within tolerance")
def test_other_numbers_of_workers(undisturbed: Path, tmp_path: Path, record_property: Record) -> None:
    root = beginning(undisturbed, tmp_path / "root", "train_vqvae")
    for steps, workers, zero in ((8, 2, 0), (16, 1, 2), (24, 4, 1)):
        extra = (f"train_vqvae.train.steps={steps}", f"train_vqvae.workers={workers}", f"train_vqvae.train.zero={zero}")
        finish("train_vqvae", "demo", root, *SHORT, "train_vqvae.train.schedule.steps=24", *extra)
    steady = beginning(undisturbed, tmp_path / "steady", "train_vqvae")
    extra = ("train_vqvae.train.schedule.steps=24", "train_vqvae.workers=2")
    finish("train_vqvae", "demo", steady, *SHORT, *extra)
    mine, theirs = history(root, "train_vqvae")["loss"], history(steady, "train_vqvae")["loss"]
    assert list(mine) == list(theirs)
    differences = [abs(mine[step] - theirs[step]) / abs(theirs[step]) for step in mine]
    record_property(
        "relative difference of the loss, mean and greatest", f"{mean(differences):.1e}, {max(differences):.1e}"
    )
    # Until the number of workers changes the runs are one. After that sums are rounded otherwise, and a code that was
    # nearly as near as another is chosen instead: a small jump, not a small error.
    assert not any(differences[:8])
    assert mean(differences) < 2e-2
    assert max(differences) < 8e-2


@pytest.mark.acceptance("`small` on the whole folder of real objects: 200 steps on CPU, the loss falls")
def test_the_whole_folder_at_small(shared: Path, tmp_path: Path, record_property: Record) -> None:
    words = (
        f"download.directory.path={shared / 'objects'}",
        "train_vqvae.gpus=0",
        "train_vqvae.cpus=2",
        "train_vqvae.task.sampling={kind: patches, patch: 24}",
        "train_vqvae.task.loss.lpips=0",
        "train_vqvae.task.loss.adversarial=0",
        "train_vqvae.task.model={volume: {coarse: 24, fine: 0}}",
        "train_vqvae.data.supervise=1",
        "train_vqvae.train.steps=200",
        "train_vqvae.train.batch=1",
        "train_vqvae.train.log_every=1",
        "train_vqvae.train.schedule.warmup=20",
        "train_vqvae.evaluate_objects=2",
        "train_vqvae.draw_objects=2",
        "train_vqvae.train.precision=fp32",
        "cluster.address=local",
    )
    for stage in ("download", "render", "train_vqvae"):
        finish(stage, "small", tmp_path, *words)
    loss = list(history(tmp_path, "train_vqvae")["loss"].values())
    third = len(loss) // 3
    first, last = sum(loss[:third]) / third, sum(loss[-third:]) / third
    record_property("mean loss, first and last third", f"{first:.3f}, {last:.3f}")
    assert last < 0.9 * first


def test_the_environment_has_no_tracking_server_of_its_own() -> None:
    """The histories above are read from the roots' own stores."""
    assert "MLFLOW_TRACKING_URI" not in os.environ
