"""ZeRO 3 in real processes: a captioner whose weights are split trains, resumes, moves and is exported as any other."""

from pathlib import Path
from typing import Any

import pytest
import torch
from llm_cases import captioner, captioning
from loop_cases import Told, killed, runs, weights, work
from transformers import AutoModelForCausalLM
from worker_group import together

from pipelines.runtime.store import Store
from pipelines.runtime.training import checkpoint
from pipelines.runtime.training.loop import Outcome
from sar3d import hub
from sar3d.llm.language_model import tokenizer_of

LOGGED = ("loss", "accuracy", "grad_norm", "lr", "views/noun_accuracy", "views/bleu_1")
CLOSE = 2e-5


def logged(told: Told, after: int = 0) -> list[tuple[int, dict[str, float]]]:
    assert isinstance(told.outcome, Outcome), told.outcome
    return [(s, {k: v for k, v in m.items() if k in LOGGED}) for s, m in told.hooks.logs if s > after]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def far(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name].float() - other[name].float()).abs().max()) for name in one)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Told]]:
    """Uninterrupted runs of two workers with ZeRO 3 and without any."""
    base = tmp_path_factory.mktemp("whole")
    calls = [(captioning(base / "3"), None), (captioning(base / "0", zero=0), None)]
    return base, dict(zip(("3", "0"), together(2, runs, calls)[0], strict=True))


def test_split_weights_train_as_whole_ones_do(whole: tuple[Path, dict[str, Told]]) -> None:
    base, told = whole
    for (step, mine), (other, theirs) in zip(logged(told["3"]), logged(told["0"]), strict=True):
        assert step == other
        assert mine == pytest.approx(theirs, rel=1e-4, abs=CLOSE)
    assert far(weights(base / "3"), weights(base / "0")) < CLOSE
    assert told["3"].hooks.artifacts[0][0] == "captions_views.json"
    assert told["3"].hooks.artifacts == told["0"].hooks.artifacts


def test_what_is_exported_is_the_whole_model(whole: tuple[Path, dict[str, Told]]) -> None:
    base, _ = whole
    loaded = hub.from_pretrained(base / "3" / "model", kind="llm").state_dict()
    trained = weights(base / "3", "model/")
    for name, tensor in trained.items():
        assert torch.equal(loaded[name], tensor), name
    plain = AutoModelForCausalLM.from_pretrained(base / "3" / "model" / "lm").state_dict()
    assert all(torch.equal(plain[name.removeprefix("lm.")], t) for name, t in trained.items() if name.startswith("lm."))


def test_a_resumed_run_equals_an_uninterrupted_one(whole: tuple[Path, dict[str, Told]], tmp_path: Path) -> None:
    base, told = whole
    parts = together(2, runs, [(captioning(tmp_path), stop) for stop in (2, 3, None)])[0]
    assert [part.outcome for part in parts] == [
        Outcome(2, False, "step-000000002"),
        Outcome(5, False, "step-000000005"),
        Outcome(6, True, "step-000000006"),
    ]
    assert [entry for part in parts for entry in logged(part)] == logged(told["3"])
    assert same(weights(tmp_path), weights(base / "3"))


def test_a_killed_worker_costs_nothing_but_the_steps_since_the_checkpoint(
    whole: tuple[Path, dict[str, Told]], tmp_path: Path
) -> None:
    base, told = whole
    with pytest.raises((AssertionError, RuntimeError)):
        together(2, killed, captioning(tmp_path), 4, 1, False, timeout=40)
    assert checkpoint.committed(Store(str(tmp_path / "checkpoints"))) == [3]
    resumed = together(2, runs, [(captioning(tmp_path), None)])[0][0]
    assert logged(resumed) == logged(told["3"], after=3)
    assert same(weights(tmp_path), weights(base / "3"))


@pytest.mark.slow
def test_a_run_goes_on_with_other_numbers_of_workers_and_zero_stages(
    whole: tuple[Path, dict[str, Told]], tmp_path: Path
) -> None:
    base, told = whole
    parts = []
    for world, stop, zero in ((2, 2, 3), (1, 1, 3), (1, 1, 2), (4, None, 3)):
        parts.append(together(world, runs, [(captioning(tmp_path, zero=zero), stop)])[0][0])
    entries = [entry for part in parts for entry in logged(part)]
    assert [step for step, _ in entries] == [step for step, _ in logged(told["3"])]
    for (_, mine), (_, theirs) in zip(entries, logged(told["3"]), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=CLOSE)
    assert far(weights(tmp_path), weights(base / "3")) < CLOSE


def lora(lm: str) -> Any:
    return captioner(lm=lm, train="lora", lr=1e-2)


def test_frozen_weights_are_split_as_well_and_stay_as_they_were(
    whole: tuple[Path, dict[str, Told]], tmp_path: Path
) -> None:
    """Adapters on a plain language model: the exported one without the special tokens."""
    task = captioner()
    model = task.build()
    model.lm.resize_token_embeddings(model.special.patch)
    model.lm.save_pretrained(tmp_path / "lm")
    assert task.tokenizer is not None
    tokenizer_of(task.tokenizer).save_pretrained(tmp_path / "lm")
    adapted = lora(str(tmp_path / "lm"))
    before = {name: t.clone() for name, t in adapted.build().state_dict().items()}
    calls = [(captioning(tmp_path / "split", adapted), stop) for stop in (3, None)]
    told = together(2, runs, [*calls, (captioning(tmp_path / "0", adapted, zero=0), None)])[0]
    assert isinstance(told[1].outcome, Outcome), told[1].outcome
    after = weights(tmp_path / "split", "model/")
    for name, tensor in after.items():
        learned = (not name.startswith("lm.") and name != "codebook.vectors") or "lora_" in name
        assert torch.equal(tensor, before[name]) == (not learned), name
    assert far(after, weights(tmp_path / "0", "model/")) < 10 * CLOSE
    hub.from_pretrained(tmp_path / "split" / "model", kind="llm")


def test_requests_that_cannot_be_carried_out_are_one_sentence(tmp_path: Path) -> None:
    averaged, toy = together(
        2, runs, [(captioning(tmp_path, ema=0.99), None), (work(tmp_path / "toy", zero=3, ema=None), None)]
    )[0]
    for told, words in ((averaged, "a moving average of the weights"), (toy, "toy cannot be trained with ZeRO 3")):
        assert words in str(told.outcome)
        assert "\n" not in str(told.outcome)
