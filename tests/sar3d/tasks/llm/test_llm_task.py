"""Training: the loss of the answer alone, what learns in which stage, and a small model that learns to describe."""

import pickle
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_llm import CAPTIONS, CONFIG
from torch.nn import functional as F

from sar3d import hub
from sar3d.data.datasets.caption_dataset import CaptionSample, Description
from sar3d.data.loading.order import Order
from sar3d.errors import UserError
from sar3d.llm.config import CaptionDecoding, RandomLMConfig
from sar3d.llm.model import SAR3DLM
from sar3d.seeds import SampleKey
from sar3d.tasks.llm.config import LLMModelConfig, LLMTaskConfig, LoRAConfig, model_config
from sar3d.tasks.llm.evaluate import CaptionSets
from sar3d.tasks.llm.task import LLMTask
from sar3d.training.fit import fit, start
from sar3d.training.schedule import ScheduleSettings
from sar3d.training.settings import TrainSettings
from sar3d.training.step import train_step
from sar3d.training.task import Alone
from sar3d.vqvae.config import PRESETS

RANDOM = RandomLMConfig(width=32, layers=2, heads=2)
SETTINGS = TrainSettings(batch=4, ema=None)


def sample(index: int, group: int = 0) -> CaptionSample:
    """An object with tokens of its own, of which a view group changes some."""
    tokens = torch.randint(64, (42,), generator=torch.Generator().manual_seed(index))
    changed = torch.randperm(42, generator=torch.Generator().manual_seed(1000 * index + group))[:8]
    tokens[changed] = torch.randint(64, (8,), generator=torch.Generator().manual_seed(group))
    caption = CAPTIONS[index]
    return CaptionSample(f"object {index}", group, tokens, Description(caption[2:], f"kind {index % 2}", (caption,)))


@dataclass(frozen=True)
class Captions:
    """Three view groups of each object."""

    @property
    def sizes(self) -> list[int]:
        return [3 * len(CAPTIONS)]

    def batches(self, order: Order, start: int, rank: int, world: int, prefetch: int) -> Iterator[Any]:
        local, step = order.batch_size // world, start
        while True:
            rows = list(enumerate(order.batch(step).tolist()))[rank * local : (rank + 1) * local]
            yield step, [(SampleKey(order.seed, step, i), sample(row // 3, row % 3)) for i, row in rows]
            step += 1


@pytest.fixture
def task(described: str, codebook: torch.Tensor) -> LLMTask:
    return LLMTask(LLMTaskConfig(random=RANDOM, lr=2e-3), CONFIG, codebook, "digest", described)


def batch_of(task: LLMTask, count: int = 4) -> Any:
    return task.collate([sample(i) for i in range(count)], 0, [SampleKey(0, 0, i) for i in range(count)])


def test_the_loss_is_that_of_the_answers_alone(task: LLMTask) -> None:
    model = start(task, SETTINGS).model.eval()
    batch = batch_of(task)
    logits = model(batch.ids, batch.mask, batch.tokens)
    expected = []
    for row, (ids, labels) in enumerate(zip(batch.ids, batch.labels, strict=True)):
        places = (labels != -100).nonzero().flatten()
        assert torch.equal(labels[places], ids[places])
        answer = task.writer.tokenizer.decode(ids[places])
        assert answer.startswith(" ")
        assert answer.endswith("</s>")
        assert "Answer:" not in answer
        assert task.writer.tokenizer.decode(ids[: places[0]]).endswith("Answer:")
        expected.append(F.cross_entropy(logits[row, places - 1], ids[places]))
    losses = task.losses(model, batch, 0)
    assert torch.allclose(losses.total, torch.stack(expected).mean(), atol=1e-5)
    assert losses.total.dtype == torch.float32


def test_nothing_behind_an_answers_end_and_nothing_before_its_beginning_is_learned(task: LLMTask) -> None:
    model = start(task, SETTINGS).model.eval()
    batch = batch_of(task)
    changed = batch.ids.masked_fill(~batch.mask, 5)
    assert torch.allclose(
        task.losses(model, replace(batch, ids=changed), 0).total, task.losses(model, batch, 0).total, atol=1e-6
    )


def test_a_batch_does_not_depend_on_how_it_is_divided(task: LLMTask) -> None:
    model = start(task, SETTINGS).model.eval()
    whole = batch_of(task)
    halves = [
        task.collate([sample(i) for i in part], 0, [SampleKey(0, 0, i) for i in part]) for part in ((0, 1), (2, 3))
    ]
    parts = [task.losses(model, half, 0).total for half in halves]
    assert torch.allclose(task.losses(model, whole, 0).total, sum(parts) / 2, atol=1e-5)


def test_it_learns_to_describe_objects_from_views_that_it_has_not_seen(task: LLMTask) -> None:
    settings = TrainSettings(
        steps=240, batch=8, ema=None, seed=1, schedule=ScheduleSettings(kind="cosine", warmup=6), log_every=240
    )
    logged: list[dict[str, float]] = []
    shown = [sample(i, group=7) for i in range(len(CAPTIONS))]
    held_out = CaptionSets({"views": shown, "objects": []}, "a red apple", decoding=CaptionDecoding(max_new_tokens=12))
    model = fit(task, Captions(), settings, lambda _, values: logged.append(values), held_out=held_out)
    values = logged[-1]
    assert logged[0]["loss"] < 0.2
    assert values["views/noun_accuracy"] >= 0.6 > 0.2 == values["views/majority/noun_accuracy"]
    assert values["views/bleu_1"] > 1.5 * values["views/majority/bleu_1"] > 0
    told = task.draw(model, held_out)["captions_views.json"].decode()
    assert "a gray fire truck" in told
    assert list(task.draw(model, held_out)) == ["captions_views.json"]
    assert task.evaluate(model, CaptionSets(), Alone()) == {}


def pretrained(task: LLMTask, folder: Path) -> str:
    """The folder of a plain language model."""
    model = task.build()
    tokenizer = model.tokenizer
    lm = model.lm
    lm.resize_token_embeddings(model.special.patch)
    lm.save_pretrained(folder)
    from sar3d.llm.language_model import tokenizer_of

    assert task.tokenizer is not None
    tokenizer = tokenizer_of(task.tokenizer)
    tokenizer.save_pretrained(folder)
    return str(folder)


LEARNS = {
    "projector": lambda name: not name.startswith("lm."),
    "lora": lambda name: not name.startswith("lm.") or "lora_" in name,
    "all": lambda name: True,
}


@pytest.mark.parametrize("train", ["projector", "lora", "all"])
def test_each_stage_changes_what_it_trains_and_nothing_else(
    task: LLMTask, codebook: torch.Tensor, tmp_path: Path, train: Any
) -> None:
    config = LLMTaskConfig(lm=pretrained(task, tmp_path / "lm"), train=train, lora=LoRAConfig(rank=2), lr=1e-2)
    staged = LLMTask(config, CONFIG, codebook)
    state = start(staged, SETTINGS)
    before = {name: p.detach().clone() for name, p in state.model.state_dict().items()}
    for _ in range(2):  # an adapter's first matrix has no gradient in the first step
        train_step(state, [batch_of(staged)])
        state.step = 0
    learning = {name for name, p in state.model.named_parameters() if p.requires_grad}
    assert learning == {name for name, _ in state.model.named_parameters() if LEARNS[train](name)}
    tied = "lm.lm_head.weight"
    for name, value in state.model.state_dict().items():
        if name != tied:
            assert torch.equal(value, before[name]) == (name not in learning), name


def test_the_second_stage_goes_on_from_the_first(task: LLMTask, codebook: torch.Tensor, tmp_path: Path) -> None:
    lm = pretrained(task, tmp_path / "lm")
    first = LLMTask(LLMTaskConfig(lm=lm, train="projector"), CONFIG, codebook, "digest")
    state = start(first, SETTINGS)
    train_step(state, [batch_of(first)])
    first.export(state.model, tmp_path / "first")
    assert hub.describe(tmp_path / "first")["extra"] == {"vqvae": "digest"}
    for train in ("all", "lora"):
        second = LLMTask(LLMTaskConfig(lm=lm, train=train), CONFIG, codebook, start=lambda: tmp_path / "first")
        model = second.build().eval()
        batch = batch_of(second)
        assert torch.allclose(
            model(batch.ids, batch.mask, batch.tokens), state.model(batch.ids, batch.mask, batch.tokens), atol=1e-6
        )
    other = LLMTask(LLMTaskConfig(lm=lm), replace(CONFIG, num_scales=1), codebook, start=lambda: tmp_path / "first")
    with pytest.raises(UserError, match="its num_scales is 2, this one's is 1"):
        other.build()


def test_recomputed_activations_give_the_same_gradients(described: str, codebook: torch.Tensor) -> None:
    gradients = []
    for recompute in (False, True):
        config = LLMTaskConfig(random=RANDOM, checkpoint_activations=recompute)
        made = LLMTask(config, CONFIG, codebook, tokenizer=described)
        model = start(made, SETTINGS).model
        assert isinstance(model, SAR3DLM)
        made.losses(model, batch_of(made), 0).total.backward()
        gradients.append([p.grad for p in model.projector.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


def test_noise_replaces_its_share_of_the_3d_tokens_by_the_samples_key_alone(task: LLMTask) -> None:
    clean, key = sample(0), SampleKey(0, 3, 1)
    keys = [SampleKey(0, 3, index) for index in range(40)]
    noisy = LLMTask(replace(task.config, noise=0.4), CONFIG, task.codebook, tokenizer=task.tokenizer)
    noisy.build()
    tokens = noisy.collate([clean] * 40, 3, keys).tokens
    assert torch.equal(noisy.collate([clean], 3, [key]).tokens[0], tokens[1])
    assert 0.3 < float((tokens != clean.tokens[:15]).float().mean()) < 0.5
    assert torch.equal(batch_of(task).tokens[0], clean.tokens[:15])


def test_a_task_travels_to_workers(task: LLMTask) -> None:
    task.build()
    copy = pickle.loads(pickle.dumps(task))
    assert torch.equal(batch_of(copy).ids, batch_of(task).ids)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LLMTaskConfig(train="lora"), "needs a trained language model"),
        (lambda: RandomLMConfig(width=30, heads=4), "multiple of twice the heads"),
        (lambda: RandomLMConfig(vocabulary=100), "give 300 or more"),
        (lambda: LLMTaskConfig(caption_p=2.0), "from 0 to 1"),
        (lambda: LLMTaskConfig(noise=1.0), "from 0 to below 1"),
        (lambda: CaptionDecoding(max_new_tokens=0), "max_new_tokens is at least 1"),
        (lambda: LLMModelConfig(num_scales=0), "num_scales=0"),
        (
            lambda: model_config(LLMTaskConfig(model=LLMModelConfig(num_scales=11)), PRESETS["tiny"], 8),
            "the VQVAE has 10 scales",
        ),
    ],
)
def test_wrong_settings_are_one_sentence(make: Any, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_the_presets_are_the_published_system_and_a_small_one() -> None:
    paper = LLMTaskConfig(preset="paper", train="projector")
    assert (paper.source, paper.peak_lr) == ("lmsys/vicuna-7b-v1.5", 2e-3)
    assert LLMTaskConfig(preset="paper").peak_lr == 2e-5
    made = model_config(paper, PRESETS["paper"], 4096)
    assert (made.num_tokens, made.projector, made.width, made.template) == (765, (1024, 2048), 4096, "vicuna_v1_1")
    tiny = LLMTaskConfig()
    assert (tiny.source, tiny.peak_lr) == ("", 1e-3)
    assert model_config(tiny, PRESETS["tiny"], 128).num_tokens == 165
