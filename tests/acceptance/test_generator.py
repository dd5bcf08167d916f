"""What the generator promises, on real objects and with the real models: the long ones. Run by `make acceptance`."""

import dataclasses
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
import torch
from proofs import (
    QUICK_TOKENIZER,
    REPOSITORY,
    Learned,
    Record,
    beginning,
    finish,
    history,
    killed_and_resumed,
    learn,
    only_output,
)
from torch import Tensor

from pipelines.registry import STAGES, load
from pipelines.runtime.engine import prepare
from sar3d import Sar3D
from sar3d.ar.transformer import ARTransformer
from sar3d.data.datasets.prompted_objects import PromptedObjects
from sar3d.export.turntable import poses_around, render_views
from sar3d.hub import from_pretrained
from sar3d.metrics.image import psnr
from sar3d.tasks.ar.contact_sheet import FREE
from sar3d.tasks.ar.evaluate import EQUAL, FieldRenderer, GenerationSets, decoded, make
from sar3d.tasks.ar.likelihood import next_inputs, sequential_code_vectors
from sar3d.tasks.ar.task import ARTask
from sar3d.training.task import Alone

pytestmark = [pytest.mark.slow, pytest.mark.timeout(4000)]

OBJECTS = 32
UNSEEN_VIEWS = 5
"""Of each object, all of them prompts for the image model."""
SIDE = 32
"""Of the pictures by which objects are told apart: every answer is drawn as each of the 32 objects is seen."""
TIMED = ("train_vqvae", "cache_tokens", "cache_conditions", "train_ar", "train_ar_image")
FREE_SAMPLES = 32

SHORT = (
    *QUICK_TOKENIZER,
    "train_ar.task={model: {depth: 2, width: 48, heads: 2, drop_path: 0.1, sequential_scales: 2}, lr: 1.0e-3, "
    "progressive: {scales: 6, full_every: 4}}",
    "train_ar.train={steps: 24, batch: 4, log_every: 1, checkpoint_every: 4, schedule: {kind: lin0, warmup: 4, steps: 24}}",
    "train_ar.evaluate_objects=1",
    "train_ar.draw_objects=1",
    "train_ar.cpus=1",
)
COMPARED = ("loss", "accuracy", "ce/scale_1", "ce/scale_16", "grad_norm")


@pytest.fixture(scope="module")
def trained(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Learned:
    """Tokenizer and generators of 32 real objects."""
    return learn("tiny32", shared / "objects", OBJECTS, TIMED, tmp_path_factory.mktemp("learning"))


def asked_of(trained: Learned, stage: str) -> tuple[ARTask, ARTransformer, GenerationSets]:
    """A trained generator, and all 32 objects to ask it for."""
    root, words = trained.root, trained.words
    section = [f"{stage}.evaluate_objects={OBJECTS}", f"{stage}.evaluate_prompts={UNSEEN_VIEWS}"]
    config = load(REPOSITORY / "configs" / "tiny32.yaml", [f"root={root}", *words, *section])
    material = STAGES[stage].build(prepare(STAGES[stage], config, print), print)  # type: ignore[attr-defined]
    model = from_pretrained(only_output(root, stage).store.path("model"))
    assert isinstance(material.task, ARTask)
    assert isinstance(model, ARTransformer)
    return material.task, model, dataclasses.replace(material.held_out, side=64)


@pytest.mark.acceptance(
    "Learning: 32 real objects from random weights, at most 20 minutes on two CPU cores from views to both generators: the "
    "prompted object's reconstruction is nearest in 95 %, its ground truth in 88 % of prompts (captions; all five unseen views)"
)
@pytest.mark.parametrize("stage", ["train_ar", "train_ar_image"])
def test_prompts_bring_their_objects(trained: Learned, stage: str, record_property: Record) -> None:
    task, model, held_out = asked_of(trained, stage)
    found = task.evaluate(model, held_out, Alone())
    for name in ("nearest_reconstruction", "nearest_truth", "psnr_reconstruction", "psnr_truth", "reconstruction_psnr"):
        record_property(f"{stage}: {name}", round(found[f"known/{name}"], 3))
    record_property("seconds", trained.timing())
    assert trained.total <= 20 * 60
    assert found["known/nearest_reconstruction"] >= 0.95
    assert found["known/nearest_truth"] >= 0.88


@pytest.mark.acceptance(
    "Learning: from the empty condition without guidance come varied and valid objects: three of four are more like a known one "
    "than any two known ones are alike, and among these every second is another one"
)
@pytest.mark.parametrize("stage", ["train_ar", "train_ar_image"])
def test_nobody_asked(trained: Learned, stage: str, record_property: Record) -> None:
    task, model, held_out = asked_of(trained, stage)
    known = held_out.sets["known"]
    assert isinstance(known, PromptedObjects)
    vqvae = task.vqvae.load("cpu")
    cameras = known[0].target.cameras
    expected = torch.stack([FieldRenderer(vqvae, decoded(vqvae, prompted.tokens))(cameras, 64) for prompted in known])
    empty = task._empty(torch.device("cpu"))
    made = list(make(model, vqvae, empty.expand(FREE_SAMPLES), empty, FREE, range(FREE_SAMPLES)))
    near = alike(torch.stack([look(cameras, 64) for look in made]), expected)
    apart = alike(expected, expected).fill_diagonal_(-torch.inf)
    valid = near.amax(1) > apart.max()
    different = len(set(near.argmax(1)[valid].tolist()))
    record_property(f"{stage}: valid, different among them", f"{int(valid.sum())}, {different} of {FREE_SAMPLES}")
    least, median = near.amax(1).clamp(max=EQUAL).quantile(torch.tensor([0.0, 0.5])).tolist()
    record_property(f"{stage}: PSNR to the nearest, least and median", f"{least:.1f}, {median:.1f}")
    record_property(
        "of known objects to the nearest other, mean and greatest", f"{apart.amax(1).mean():.1f}, {apart.max():.1f}"
    )
    assert valid.sum() >= FREE_SAMPLES * 3 / 4
    assert different >= FREE_SAMPLES / 2


def alike(some: Tensor, others: Tensor) -> Tensor:
    """Mean PSNR over the views of each object (V, 3, H, W) against each other one."""
    return torch.stack([torch.stack([psnr(one, other).mean() for other in others]) for one in some])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("undisturbed")
    for stage in ("download", "render", "train_vqvae", "cache_tokens", "cache_conditions", "train_ar"):
        finish(stage, "demo", root, *SHORT, "train_ar.workers=2")
    return root


@pytest.mark.acceptance(
    "The generator on 2 workers, a worker and then the driver killed: the same losses and weights to the bit"
)
def test_killed_and_resumed(undisturbed: Path, tmp_path: Path) -> None:
    words = (*SHORT, "train_ar.workers=2")
    root = beginning(undisturbed, tmp_path / "root", "train_ar")
    killed_and_resumed("train_ar", "demo", words, undisturbed, root, 12, COMPARED)


@pytest.mark.acceptance("The generator goes 2, 1, 4 workers and ZeRO 0, 2, 1 at one batch: losses within tolerance")
def test_other_numbers_of_workers(undisturbed: Path, tmp_path: Path, record_property: Record) -> None:
    root = beginning(undisturbed, tmp_path / "root", "train_ar")
    for steps, workers, zero in ((8, 2, 0), (16, 1, 2), (24, 4, 1)):
        extra = (f"train_ar.train.steps={steps}", f"train_ar.workers={workers}", f"train_ar.train.zero={zero}")
        finish("train_ar", "demo", root, *SHORT, *extra)
    mine, theirs = history(root, "train_ar")["loss"], history(undisturbed, "train_ar")["loss"]
    assert list(mine) == list(theirs)
    differences = [abs(mine[step] - theirs[step]) / abs(theirs[step]) for step in mine]
    record_property(
        "relative difference of the loss, mean and greatest", f"{mean(differences):.1e}, {max(differences):.1e}"
    )
    assert not any(differences[:8])
    assert max(differences) < 1e-4


KEPT = 3
"""Of six scales."""


@pytest.mark.acceptance(
    "Variations: with 3 of 6 scales of 32 objects kept and another object's caption, the silhouette is more like the original's "
    "than a random other object's is for at least 28, and the redrawn tokens are likelier under the new caption for at least 28"
)
def test_variations_keep_the_shape_and_follow_the_caption(trained: Learned, record_property: Record) -> None:
    _, model, held_out = asked_of(trained, "train_ar")
    known = held_out.sets["known"]
    system = Sar3D.from_pretrained(trained.root, device="cpu")
    tokens = [prompted.tokens for prompted in known]
    outlines = [outline(system, one) for one in tokens]
    alike_count = likelier = 0
    for i, prompted in enumerate(known):
        new, other = known[(i + 1) % OBJECTS], (i + 7) % OBJECTS
        (varied,) = system.vary(prompted.tokens, keep_scales=KEPT, text=new.label, seed=i)
        begin = model.config.ends[KEPT - 1]
        assert torch.equal(varied.tokens[:begin], prompted.tokens[:begin])
        drawn = outline(system, varied.tokens)
        alike_count += overlap(drawn, outlines[i]) > overlap(outlines[other], outlines[i])
        scores = [log_likelihood(system, varied.tokens, text)[begin:].sum() for text in (new.label, prompted.label)]
        likelier += bool(scores[0] > scores[1])
    record_property(
        "silhouettes more like the original; likelier under the new caption, of 32", f"{alike_count}; {likelier}"
    )
    assert alike_count >= 28
    assert likelier >= 28


def outline(system: Sar3D, tokens: Tensor) -> Tensor:
    """Where an object is, in eight views from fixed places."""
    vqvae = system.vqvae
    with torch.no_grad():
        field = vqvae.field(vqvae.decode_tokens(tokens[None]))
    half = np.full(3, field.side / 2)
    poses = poses_around(-half, half, field.side, 8, 20.0)
    return torch.from_numpy((render_views(field, poses, 64, vqvae.config.volume) < 200).any(-1))


def overlap(one: Tensor, other: Tensor) -> float:
    """Intersection over union."""
    return float((one & other).sum() / (one | other).sum().clamp(min=1))


@torch.no_grad()
def log_likelihood(system: Sar3D, tokens: Tensor, text: str) -> Tensor:
    """Of each token (L,), given those of coarser scales and a caption."""
    generator, quantizer = system.generator("text"), system.vqvae.quantizer
    condition = generator.encoder.encode([text]).float()
    known = sequential_code_vectors(quantizer, tokens[None], generator.model.config)
    logits = generator.model(next_inputs(quantizer, tokens[None]), condition, code_vectors=known)
    return logits.log_softmax(-1)[0].gather(-1, tokens[:, None])[:, 0]
