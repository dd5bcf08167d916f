"""The stages that train the captioner, on cached codes: what they leave behind, and what they refuse."""

import itertools
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import mlflow
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rendered
import torch
from transformers import AutoModelForCausalLM

from pipelines.cache_tokens import CacheTokensStage
from pipelines.registry import STAGES
from pipelines.runtime import runner
from pipelines.runtime.engine import current
from pipelines.runtime.output import Output
from pipelines.train_llm import TrainLLMProjectorStage, TrainLLMStage, lm_digest
from sar3d import hub
from sar3d.data.datasets.caption_config import CaptionDataConfig
from sar3d.data.datasets.caption_dataset import CaptionDataset, Descriptions
from sar3d.data.held_out import HeldOut
from sar3d.data.loading.order import Order
from sar3d.errors import UserError
from sar3d.generate.captioner import Captioner
from sar3d.llm.config import RandomLMConfig
from sar3d.llm.language_model import random_lm, tokenizer_of, train_tokenizer

pytestmark = pytest.mark.usefixtures("local_ray")
STAGE = TrainLLMStage()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root of its own with views and tokens."""
    folder = tmp_path_factory.mktemp("llm") / "root"
    shutil.copytree(rendered.root(), folder, ignore=shutil.ignore_patterns("cache_*"))
    rendered.run(CacheTokensStage(), configure(folder))
    return folder


def configure(root: Path, *overrides: str, stage: str = "train_llm") -> Any:
    settings = (
        "task.model={num_scales: 2, projector: [16]}",
        "task.random={width: 32, layers: 1, heads: 2, vocabulary: 400}",
        "task.decoding={max_new_tokens: 6}",
        "data.held_out.groups=[1]",
        "train.steps=2",
        "train.batch=4",
        "train.log_every=1",
        "evaluate_objects=3",
        "cpus=1",
    )
    return rendered.configure(root, *(f"{stage}.{setting}" for setting in settings), *overrides)


def test_codes_become_a_captioner(root: Path) -> None:
    config = configure(root, "tracking.enabled=true")
    report, output = rendered.run(STAGE, config)
    assert (report.state, report.steps) == ("done", 2)
    folder = output.store.path("model")
    captioner = Captioner.from_pretrained(folder)
    assert captioner.vqvae == hub.digest(rendered.model())
    said = captioner.caption(torch.zeros(2, 2040, dtype=torch.long))
    assert len(said) == 2
    assert AutoModelForCausalLM.from_pretrained(folder / "lm").config.model_type == "llama"

    told = json.loads(output.store.read("artifacts/step-000002/captions_views.json") or b"")
    assert len(told["captions"]) == 3
    assert {one["group"] for one in told["captions"]} == {1}
    assert all(one["captions"] for one in told["captions"])
    run = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db").get_run(str(report.run_id))
    assert {"loss", "accuracy", "views/noun_accuracy", "views/majority/noun_accuracy"} <= set(run.data.metrics)

    again, _ = rendered.run(STAGE, config)
    assert again.state == "reused"


def plain_lm(root: Path) -> Path:
    """A language model on disk, of which nothing knows 3D tokens."""
    folder = root.parent / "lm"
    if not folder.exists():
        tokenizer = tokenizer_of(train_tokenizer(["a red cup"], 400))
        torch.manual_seed(0)
        random_lm(RandomLMConfig("qwen2", width=32, layers=1, heads=2), tokenizer).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_two_stages_of_training_in_one_pipeline(root: Path) -> None:
    lm = plain_lm(root)
    first = (f"train_llm_projector.task.lm={lm}", "train_llm_projector.task.train=projector")
    second = (f"train_llm.task.lm={lm}", "train_llm.task.train=lora", "train_llm.init_from=train_llm_projector")
    settings = [f"train_llm_projector.{key}" for key in ("train.steps=1", "train.batch=4", "cpus=1")]
    both = configure(
        root, *first, *second, *settings, "train_llm_projector.task.model={num_scales: 2, projector: [16]}"
    )
    _, projector = rendered.run(TrainLLMProjectorStage(), both)
    made = hub.from_pretrained(projector.store.path("model"), kind="llm")
    mine = made.lm.state_dict()
    for name, tensor in AutoModelForCausalLM.from_pretrained(lm).state_dict().items():
        assert torch.equal(mine[name][: len(tensor)], tensor)  # words were added behind

    report, output = rendered.run(STAGE, both)
    assert report.state == "done"
    adapted = hub.from_pretrained(output.store.path("model"), kind="llm")
    assert not torch.equal(adapted.projector.layers[0].weight, made.projector.layers[0].weight)
    assert torch.allclose(adapted.projector.layers[0].weight, made.projector.layers[0].weight, atol=0.01)
    assert "init_from" in (output.manifest() or {})["models"]


def test_what_counts_of_a_language_model_is_its_content(root: Path, tmp_path: Path) -> None:
    lm = plain_lm(root)
    shutil.copytree(lm, tmp_path / "copy")
    assert lm_digest(str(lm)) == lm_digest(str(tmp_path / "copy"))
    (tmp_path / "copy" / "config.json").write_text("{}")
    assert lm_digest(str(lm)) != lm_digest(str(tmp_path / "copy"))
    assert lm_digest("maker/model") == "maker/model"


def dataset(root: Path, apart: bool = False, **settings: Any) -> CaptionDataset:
    config = configure(root)
    tokens = current(STAGES["cache_tokens"], config)
    assert isinstance(tokens, Output)
    descriptions = Descriptions(rendered.downloads(config).files())
    return CaptionDataset(tokens.files(), descriptions, CaptionDataConfig(**settings), held_out=apart, split="all")


def test_held_out_view_groups_are_the_others(root: Path) -> None:
    train, apart = (
        dataset(root, held_out=HeldOut(groups=(1, 3))),
        dataset(root, True, held_out=HeldOut(groups=(1, 3))),
    )
    assert {sample.group for sample in train.samples()} == {0, 2}
    assert {sample.group for sample in apart.samples()} == {1, 3}
    assert (train.size, train.objects, train.without_caption) == (2 * rendered.OBJECTS, rendered.OBJECTS, 0)
    assert [sample.group for sample in apart.shown(3)] == [1, 1, 1]
    assert len({sample.uid for sample in apart.shown(3)}) == 3
    with pytest.raises(UserError, match=r"held_out\.groups=\[0, 1, 2, 3\] does not fit"):
        dataset(root, held_out=HeldOut(groups=(0, 1, 2, 3)))


def test_tokens_of_an_object_s_groups_are_mixed_in_training_alone(root: Path) -> None:
    plain = dataset(root, held_out=HeldOut(groups=(1,)))
    mixed = pickle.loads(pickle.dumps(dataset(root, held_out=HeldOut(groups=(1,)), token_mixup=0.4)))
    own = {(sample.uid, sample.group): sample.tokens for sample in plain.samples()}
    assert all((sample.tokens == own[sample.uid, sample.group]).all() for sample in mixed.samples())
    shares = []
    first, second = (mixed.batches(Order(mixed.sizes, 0, 6)) for _ in range(2))
    for (_, pairs), (_, again) in itertools.islice(zip(first, second, strict=False), 4):
        for (_, sample), (_, same) in zip(pairs, again, strict=True):
            mine = own[sample.uid, sample.group]
            others = [codes for (uid, group), codes in own.items() if uid == sample.uid and group != sample.group]
            assert torch.equal(sample.tokens, same.tokens)
            assert any(((sample.tokens == codes) | (sample.tokens == mine)).all() for codes in others)
            shares.append(float((sample.tokens != mine).float().mean()))
    first.close()
    second.close()
    assert 0.2 < sum(shares) / len(shares) < 0.4, "two groups may agree on a token"


def test_samples_bear_the_description_of_their_object_in_every_batch(root: Path) -> None:
    train = pickle.loads(pickle.dumps(dataset(root, held_out=HeldOut(groups=(1,)))))
    about = {sample.uid: sample.about for sample in train.samples()}
    assert all(found.captions and found.name for found in about.values())
    batches = train.batches(Order(train.sizes, 0, 6), 0, 1, 2)
    step, pairs = next(batches)
    assert (step, [key.index for key, _ in pairs]) == (0, [3, 4, 5])
    assert all(sample.about == about[sample.uid] and sample.group != 1 for _, sample in pairs)
    batches.close()


def test_objects_without_a_caption_are_one_sentence(root: Path, tmp_path: Path) -> None:
    config = configure(root)
    tokens = current(STAGES["cache_tokens"], config)
    assert isinstance(tokens, Output)
    files = []
    for number, file in enumerate(rendered.downloads(config).files()):
        table = pq.read_table(file).to_pylist()
        for row in table:
            row["captions"] = [" "]
        files.append(str(tmp_path / f"{number}.parquet"))
        pq.write_table(pa.Table.from_pylist(table), files[-1])
    with pytest.raises(UserError, match="no object of the tokens dataset has a caption"):
        CaptionDataset(tokens.files(), Descriptions(files), split="all")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["train_llm.task.train=lora"], "needs a trained language model"),
        (["train_llm.task.lm=/nowhere/at/all"], "/nowhere/at/all"),
        (["train_llm.task.model={num_scales: 12}"], "num_scales=12"),
        (["train_llm.data.held_out.groups=[0, 1, 2, 3]"], "held_out.groups"),
        (["train_llm.data.token_mixup=1"], "token_mixup=1 is wrong"),
        (["train_llm.train.zero=3", "train_llm.train.ema=0.9"], "ema=null"),
        (["train_llm.init_from=train_llm"], "cannot read its own output"),
        (["train_llm.init_from=render"], "name a stage that writes a model of kind llm"),
    ],
)
def test_wrong_requests_are_one_sentence(root: Path, overrides: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        runner.run(STAGE, configure(root, *overrides), log=lambda _: None)
    assert "\n" not in str(caught.value)
