"""The training loop in real processes: the same numbers whatever ZeRO stage, worker count or interruption."""

from pathlib import Path

import numpy as np
import pytest
import torch
from loop_cases import Told, dtypes, fitted, killed, plain_ddp, runs, weights, work
from oracle import written_out
from toy_task import ToyDataset, ToyTask
from worker_group import together

from pipelines.runtime.store import Store
from pipelines.runtime.training import checkpoint
from pipelines.runtime.training.loop import Outcome
from sar3d.errors import UserError
from sar3d.training.settings import GuardSettings

ZERO = (0, 1, 2)
CLOSE = 5e-5  # Adam's first steps turn rounding of small gradients into steps of up to the learning rate (3e-3)
LOGGED = ("loss", "reconstruction", "fooled", "discriminator", "grad_norm", "lr", "error", "moved")


def logged(told: Told, after: int = 0) -> list[tuple[int, dict[str, float]]]:
    """What was logged after a step, without the speed."""
    assert isinstance(told.outcome, Outcome), told.outcome
    kept = [(s, {k: v for k, v in m.items() if k in LOGGED}) for s, m in told.hooks.logs if s > after]
    return kept


def far(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Largest difference of the weights and averages; moments follow them."""
    assert one.keys() == other.keys()
    kept = [k for k in one if not k.endswith(("exp_avg", "exp_avg_sq", "step"))]
    return max(float((one[k].float() - other[k].float()).abs().max()) for k in kept)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether all tensors, moments included, are equal to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Told]]:
    """Uninterrupted runs of two workers with each ZeRO stage and precision."""
    base = tmp_path_factory.mktemp("whole")
    names = [f"{zero}-{precision}" for zero in ZERO for precision in ("fp32", "bf16")]
    calls = [(work(base / name, zero=int(name[0]), precision=name[2:]), None) for name in names]
    told = together(2, runs, calls)[0]
    return base, dict(zip(names, told, strict=True))


def test_zero_stages_and_the_plain_trainer_give_the_same_numbers(whole: tuple[Path, dict[str, Told]]) -> None:
    base, told = whole
    plain = together(1, fitted, work(base))[0]
    expected = together(1, written_out, work(base))[0]
    for (step, mine), (other, theirs) in zip(plain, expected, strict=True):
        assert step == other
        assert {k: mine[k] for k in theirs} == pytest.approx(theirs, rel=1e-5, abs=CLOSE)
    for zero in ZERO:
        for (step, mine), (other, theirs) in zip(logged(told[f"{zero}-fp32"]), plain, strict=True):
            assert step == other
            assert mine == pytest.approx({k: theirs[k] for k in mine}, rel=1e-5, abs=CLOSE)
        assert far(weights(base / f"{zero}-fp32"), weights(base / "0-fp32")) < CLOSE


def test_bf16_stays_close_to_fp32(whole: tuple[Path, dict[str, Told]]) -> None:
    for zero in ZERO:
        exact, rounded = (logged(whole[1][f"{zero}-{precision}"])[-2][1]["loss"] for precision in ("fp32", "bf16"))
        assert rounded != exact
        assert rounded == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("zero", ZERO)
def test_bf16_computes_in_autocast_and_keeps_everything_else_in_fp32(tmp_path: Path, zero: int) -> None:
    found = together(2, dtypes, work(tmp_path, ToyTask(move_every=0), zero=zero, precision="bf16"))
    assert found[0] == found[1]
    assert found[0].pop("activations") == {torch.bfloat16}
    assert found[0].pop("masters") == ({torch.float32} if zero else set())
    assert found[0].keys() == {"gradients", "losses", "parameters", "moments", "averages"}
    assert all(kinds == {torch.float32} for kinds in found[0].values())


def test_zero_stages_agree_with_plain_ddp_while_the_discriminator_trains(tmp_path: Path) -> None:
    task = ToyTask(dropout=0.0, move_every=0)
    calls = [(work(tmp_path / str(zero), task, zero=zero, micro_batch=2 if zero else None), None) for zero in ZERO]
    told = together(2, runs, calls)[0]
    losses, expected = together(2, plain_ddp, calls[0][0])[0]
    for zero in ZERO:
        mine = [metrics["reconstruction"] for _, metrics in logged(told[zero]) if "reconstruction" in metrics]
        assert mine == pytest.approx(losses, rel=1e-5)
        trained = weights(tmp_path / str(zero), "model/") | {
            f"discriminator.{name}": tensor for name, tensor in weights(tmp_path / str(zero), "discriminator/").items()
        }
        assert trained.keys() == expected.keys()
        for name, tensor in trained.items():
            if name in ("mean", "steps"):  # set in after_step, which the plain version has not
                continue
            difference = np.abs(tensor.numpy() - expected[name])
            assert difference.mean() < CLOSE, name
            assert difference.max() < 10 * CLOSE, (
                name
            )  # half a step of the discriminator, of which single biases are noise


def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(
    whole: tuple[Path, dict[str, Told]], tmp_path: Path
) -> None:
    base, told = whole
    calls = [(work(tmp_path / str(zero), zero=zero), stop) for zero in ZERO for stop in (2, 3, None)]
    parts = together(2, runs, calls)[0]
    for zero in ZERO:
        mine = parts[3 * zero : 3 * zero + 3]
        assert [part.outcome for part in mine] == [
            Outcome(2, False, "step-000000002"),
            Outcome(5, False, "step-000000005"),
            Outcome(6, True, "step-000000006"),
        ]
        assert [entry for part in mine for entry in logged(part)] == logged(told[f"{zero}-fp32"])
        assert mine[-1].hooks.artifacts == told[f"{zero}-fp32"].hooks.artifacts
        assert same(weights(tmp_path / str(zero)), weights(base / f"{zero}-fp32"))
        for name in ("model.safetensors", "config.json"):
            exported = [
                Path(folder, "model", name).read_bytes() for folder in (tmp_path / str(zero), base / f"{zero}-fp32")
            ]
            assert exported[0] == exported[1]


@pytest.mark.parametrize(("before", "rank", "zero", "record"), [(4, 0, 0, False), (5, 1, 2, False), (3, 0, 1, True)])
def test_a_killed_worker_costs_nothing_but_the_steps_since_the_checkpoint(
    whole: tuple[Path, dict[str, Told]], tmp_path: Path, before: int, rank: int, zero: int, record: bool
) -> None:
    base, told = whole
    with pytest.raises((AssertionError, RuntimeError)):
        together(2, killed, work(tmp_path, zero=zero), before, rank, record, timeout=20)
    store = Store(str(tmp_path / "checkpoints"))
    assert checkpoint.committed(store) == [3]
    assert any(name.startswith("step-000000006") for name in store.names()) == record
    resumed = together(2, runs, [(work(tmp_path, zero=zero), None)])[0][0]
    assert logged(resumed) == logged(told[f"{zero}-fp32"], after=3)
    assert same(weights(tmp_path), weights(base / f"{zero}-fp32"))


def test_a_run_goes_on_with_other_numbers_of_workers_and_zero_stages(
    whole: tuple[Path, dict[str, Told]], tmp_path: Path
) -> None:
    base, told = whole
    parts = []
    for world, stop, zero in ((2, 2, 1), (1, 1, 0), (4, None, 2)):
        parts.append(together(world, runs, [(work(tmp_path, zero=zero), stop)])[0][0])
    entries = [entry for part in parts for entry in logged(part)]
    expected = logged(told["0-fp32"])
    assert [step for step, _ in entries] == [step for step, _ in expected]
    for (_, mine), (_, theirs) in zip(entries, expected, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5, abs=CLOSE)
    assert far(weights(tmp_path), weights(base / "0-fp32")) < CLOSE


def test_a_finished_run_only_exports_again_and_more_steps_continue_it(tmp_path: Path) -> None:
    calls = [(work(tmp_path), None), (work(tmp_path), None), (work(tmp_path, steps=8), None)]
    first, again, longer = together(1, runs, calls)[0]
    assert first.outcome == again.outcome == Outcome(6, True, "step-000000006")
    assert again.hooks.logs == again.hooks.commits == []
    assert longer.outcome == Outcome(8, True, "step-000000008")
    assert [step for step, _ in longer.hooks.logs] == [7, 8, 8]


def test_requests_that_cannot_be_carried_out_are_one_sentence(tmp_path: Path) -> None:
    base = work(tmp_path)
    done, *refused = together(
        2,
        runs,
        [
            (base, 3),
            (work(tmp_path, batch=7), None),
            (work(tmp_path, micro_batch=3), None),
            (work(tmp_path, zero=3), None),
            (work(tmp_path, seed=1), None),
            (work(tmp_path, ToyTask(adversarial=False)), None),
            (work(tmp_path / "new", ToyTask(explode_at=1)), None),
            (work(tmp_path / "zero", ToyTask(explode_at=1), zero=2), None),
            (work(tmp_path / "surge", ToyTask(surge_at=5), guard=GuardSettings(window=3, recent=2), steps=12), None),
        ],
    )[0]
    assert isinstance(done.outcome, Outcome)
    for told, words in zip(
        refused,
        (
            "a batch of 7 cannot be shared evenly by 2 workers",
            "a micro_batch of 3 does not divide the 4 samples",
            "cannot be trained with ZeRO 3",
            "was made with seed=0 and this run has seed=1",
            "does not fit this model: it has a tensor discriminator",
            "the training diverged: its loss is not finite",
            "the training diverged: its loss is not finite",
            "the training diverged: its loss rose from",
        ),
        strict=True,
    ):
        assert isinstance(told.outcome, Exception), words
        assert words in str(told.outcome)
        assert "\n" not in str(told.outcome)
    assert all(isinstance(told.outcome, UserError) for told in refused)
    assert checkpoint.committed(Store(str(tmp_path / "surge" / "checkpoints"))) == [3]


def test_what_a_worker_raises_ends_its_loop(tmp_path: Path) -> None:
    unread = together(1, runs, [(work(tmp_path / "unread", data=ToyDataset(broken=3)), None)])[0][0]
    assert isinstance(unread.outcome, OSError)
    assert "row 3 cannot be read" in str(unread.outcome)
    differing = together(2, runs, [(work(tmp_path / "differing", ToyTask(break_buffers=True)), None)])[0][0]
    assert isinstance(differing.outcome, RuntimeError)
    assert "the buffer mean of toy differs between workers" in str(differing.outcome)


def test_a_new_run_starts_from_the_weights_of_another(tmp_path: Path) -> None:
    import dataclasses

    first = work(tmp_path / "first")
    start = dataclasses.replace(work(tmp_path / "second", seed=5, zero=1, steps=1), initial=first.model_folder)
    wrong = dataclasses.replace(work(tmp_path / "third"), initial=str(tmp_path / "nowhere"))
    done, started, missing = together(1, runs, [(first, None), (start, None), (wrong, None)])[0]
    exported = weights(tmp_path / "second", "model/")
    before = weights(tmp_path / "first", "ema/")
    assert isinstance(started.outcome, Outcome)
    assert max(float((exported[name] - before[name]).abs().max()) for name in before if name != "offset") < 0.01
    assert isinstance(missing.outcome, UserError)
    assert "there is no model to start from" in str(missing.outcome)
    assert isinstance(done.outcome, Outcome)


def test_only_committed_steps_are_told_and_everything_logged_is_safe_before(
    whole: tuple[Path, dict[str, Told]],
) -> None:
    told = whole[1]["1-fp32"]
    assert told.hooks.commits == [(3, "step-000000003"), (6, "step-000000006")]
    assert told.hooks.safe == [3, 6]
    assert {"step_seconds", "samples_per_second", "data_wait", "memory_gib"} <= told.hooks.logs[0][1].keys()
