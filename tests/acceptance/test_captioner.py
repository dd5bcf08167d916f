"""What the captioner promises, on real objects and with the real models: the long ones. Run by `make acceptance`."""

from pathlib import Path
from typing import Any

import pytest
from proofs import (
    QUICK_TOKENIZER,
    REPOSITORY,
    Learned,
    Record,
    beginning,
    finish,
    first_objects,
    history,
    killed_and_resumed,
    learn,
    only_output,
)

from pipelines.registry import STAGES, load
from pipelines.runtime.engine import prepare
from pipelines.runtime.output import outputs
from sar3d.data.datasets.caption_config import CaptionDataConfig
from sar3d.data.datasets.caption_dataset import CaptionDataset, Descriptions
from sar3d.generate.captioner import Captioner
from sar3d.hub import digest
from sar3d.metrics.captions import caption_metrics
from sar3d.tasks.llm.evaluate import CaptionSets

pytestmark = [pytest.mark.slow, pytest.mark.timeout(4000)]

OBJECTS, OTHERS = 64, 32
TIMED = ("train_vqvae", "cache_tokens", "train_llm")
REPORTED = ("noun_accuracy", "color_accuracy", "category_accuracy", "bleu_1", "rouge_l", "minilm_similarity")

SHORT = (
    *QUICK_TOKENIZER,
    "train_llm.task={random: {width: 64, layers: 2, heads: 2}, noise: 0.1}",
    "train_llm.train={steps: 24, batch: 4, log_every: 1, checkpoint_every: 4, zero: 3, ema: null}",
    "train_llm.evaluate_objects=2",
    "train_llm.cpus=1",
)


@pytest.fixture(scope="module")
def trained(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Learned:
    """Tokenizer and captioner of 64 real objects."""
    return learn("tiny64", shared / "objects", OBJECTS, TIMED, tmp_path_factory.mktemp("learning"))


@pytest.mark.acceptance(
    "Learning: 64 real objects from random weights, at most 20 minutes on two CPU cores from views to captions: view groups "
    "that neither tokenizer nor captioner has seen get the right noun in 80 %, the right set of colors in 70 %"
)
def test_unseen_views_are_described(trained: Learned, record_property: Record) -> None:
    root, words = trained.root, trained.words
    found = {name: values[max(values)] for name, values in history(root, "train_llm").items()}
    for name in REPORTED:
        record_property(
            f"{name}, the majority caption's", f"{found[f'views/{name}']:.3f}, {found[f'views/majority/{name}']:.3f}"
        )
    record_property("seconds", trained.timing())
    config = load(REPOSITORY / "configs" / "tiny64.yaml", [f"root={root}", *words])
    assert config.train_vqvae.data.held_out_groups == config.train_llm.data.held_out.groups
    assert config.train_llm.evaluate_objects >= OBJECTS
    assert trained.total <= 20 * 60
    assert found["views/noun_accuracy"] >= 0.8
    assert found["views/color_accuracy"] >= 0.7


@pytest.mark.acceptance("Objects that were never trained on, described: reported beside the majority caption")
def test_unseen_objects_are_described(trained: Learned, shared: Path, tmp_path: Path, record_property: Record) -> None:
    root, words = trained.root, trained.words
    first_objects(shared / "objects", OTHERS, tmp_path / "objects", skip=OBJECTS)
    model = only_output(root, "train_vqvae").store.path("model")
    others = [f"download.directory.path={tmp_path / 'objects'}", f"cache_tokens.vqvae={model}", "cluster.address=local"]
    finish("run", "tiny64", tmp_path / "root", *others, "stages=[download, render, cache_tokens]")
    (objects,), (tokens,) = (list(outputs(str(tmp_path / "root"), name)) for name in ("download", "cache_tokens"))
    settings = CaptionDataConfig(val=0.0, test=0.0)
    samples = CaptionDataset(
        tokens.files(), Descriptions(objects.files()), settings, vqvae=digest(model), split="all"
    ).shown(OTHERS)
    known = _held_out(root, words)
    captioner = Captioner.from_pretrained(only_output(root, "train_llm").store.path("model"))
    said = [captioner.caption(sample.tokens)[0] for sample in samples]
    abouts = [sample.about for sample in samples]
    truth = ([a.captions for a in abouts], [a.name for a in abouts], [a.category for a in abouts])
    assert len(said) == OTHERS
    for whose, captions in (("ours", said), ("majority", [known.majority] * OTHERS)):
        values = caption_metrics(captions, *truth, known=known.known)["values"]
        record_property(whose, {name: round(values[name], 3) for name in REPORTED})


def _held_out(root: Path, words: list[str]) -> CaptionSets:
    config = load(REPOSITORY / "configs" / "tiny64.yaml", [f"root={root}", *words])
    stage: Any = STAGES["train_llm"]
    found = stage.build(prepare(stage, config, print), print).held_out
    assert isinstance(found, CaptionSets)
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("undisturbed")
    for stage in ("download", "render", "train_vqvae", "cache_tokens", "train_llm"):
        finish(stage, "demo", root, *SHORT, "train_llm.workers=2")
    return root


@pytest.mark.acceptance(
    "The captioner with ZeRO 3 on 2 workers, a worker and then the driver killed: the same losses and weights to the bit"
)
def test_killed_and_resumed(undisturbed: Path, tmp_path: Path) -> None:
    words = (*SHORT, "train_llm.workers=2")
    root = beginning(undisturbed, tmp_path / "root", "train_llm")
    killed_and_resumed("train_llm", "demo", words, undisturbed, root, 13, ("loss", "accuracy", "grad_norm"))
