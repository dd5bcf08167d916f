"""Seeds, schedules, averages and the plain trainer."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sar3d.data.loading.order import Order
from sar3d.errors import UserError
from sar3d.seeds import SampleKey, derive, generator
from sar3d.training.ema import EMA
from sar3d.training.feed import feed
from sar3d.training.fit import fit, start
from sar3d.training.schedule import ScheduleSettings, factor
from sar3d.training.settings import OptimizerSettings, TrainSettings, local_batch
from sar3d.training.step import train_step
from sar3d.training.task import Alone, Losses, Moment, Task, move, worker_slice

RATE = 0.02


@dataclass(frozen=True)
class Numbers:
    """Points on a line, and what they are mapped to."""

    sizes: tuple[int, ...] = (10, 10)
    broken: bool = False

    def batches(
        self, order: Order, start: int, rank: int, world: int, prefetch: int
    ) -> Iterator[tuple[int, list[tuple[SampleKey, Tensor]]]]:
        step = start
        while True:
            if self.broken and step == 2:
                raise OSError("the disk has gone")
            rows = order.batch(step).tolist()
            yield step, [(SampleKey(order.seed, step, i), torch.tensor([row / 20])) for i, row in enumerate(rows)]
            step += 1


@dataclass(frozen=True)
class Line(Task):
    """Learns y = 3x + 1 from noisy points, with a discriminator that scores the error."""

    name: str = "line"
    with_discriminator: bool = False
    low_precision: bool = False

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.2), nn.Linear(8, 1))

    def build_discriminator(self) -> nn.Module | None:
        return nn.Linear(1, 1) if self.with_discriminator else None

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        return [{"params": list(model.parameters()), "lr": RATE, "weight_decay": 0.0}]

    def discriminator_groups(self, discriminator: nn.Module) -> list[dict[str, Any]]:
        return [{"params": list(discriminator.parameters()), "lr": RATE, "weight_decay": 0.0}]

    def collate(self, samples: list[Tensor], step: int, keys: list[SampleKey]) -> dict[str, Tensor]:
        noise = torch.stack([torch.randn(1, generator=key.generator()) for key in keys])
        points = torch.stack(samples)
        return {"x": points, "y": 3 * points + 1 + 0.01 * noise}

    def losses(
        self, model: nn.Module, batch: dict[str, Tensor], step: int, discriminator: nn.Module | None = None
    ) -> Losses:
        made = model(batch["x"])
        error = ((made.float() - batch["y"]) ** 2).mean()
        total = error.bfloat16() if self.low_precision else error
        if discriminator is not None:
            assert not any(p.requires_grad for p in discriminator.parameters())
            total = total - 0.01 * discriminator(made).float().mean()
        return Losses(total, {"error": error.detach()}, made.detach())

    def discriminator_losses(
        self, discriminator: nn.Module, batch: dict[str, Tensor], losses: Losses, step: int
    ) -> Losses | None:
        if step < 2:
            return None
        assert all(p.grad is None for p in discriminator.parameters())
        score = discriminator(losses.extras).float().mean() - discriminator(batch["y"]).float().mean()
        return Losses(score, {"score": score.detach()})

    def before_step(self, model: nn.Module, moment: Moment) -> dict[str, float]:
        return {"samples": float(sum(len(batch["x"]) for batch in moment.batches()))}


def settings(**changes: Any) -> TrainSettings:
    return TrainSettings(**{"steps": 60, "batch": 8, "log_every": 1, **changes})


def trained(task: Task | None = None, data: Any = None, **changes: Any) -> tuple[list[dict[str, float]], nn.Module]:
    entries: list[dict[str, float]] = []
    model = fit(task or Line(), data or Numbers(), settings(**changes), lambda _, metrics: entries.append(metrics))
    return entries, model


def test_streams_depend_on_their_names_alone() -> None:
    key = SampleKey(seed=1, step=2, index=3)
    assert torch.equal(torch.rand(4, generator=key.generator()), torch.rand(4, generator=key.generator()))
    others = [SampleKey(0, 2, 3), SampleKey(1, 3, 2), SampleKey(1, 23, 0), SampleKey(1, 2, 30)]
    first = {float(torch.rand(1, generator=k.generator())) for k in (key, *others)}
    assert len(first) == 5
    # Runs of earlier versions go on with the same numbers.
    assert derive(1, "sample", 2, 3) == 4426747183966548576


def test_the_transformers_schedule_is_the_recorded_one(shared: Path) -> None:
    golden = np.load(shared / "goldens" / "lr_lin0.npz")
    schedule = ScheduleSettings(
        "lin0", warmup=int(golden["warmup"]), start=float(golden["wp0"]), final=float(golden["wpe"])
    )
    rates = [float(golden["peak"]) * factor(schedule, int(step), int(golden["max_it"])) for step in golden["iters"]]
    assert rates == pytest.approx(golden["lr"].tolist(), rel=1e-9)


@pytest.mark.parametrize(("kind", "middle"), [("constant", 1.0), ("linear", 0.6), ("cosine", 0.6), ("lin0", 0.6210526)])
def test_schedules_warm_up_and_come_down(kind: Any, middle: float) -> None:
    schedule = ScheduleSettings(kind, warmup=10, start=0.1, final=0.2)
    course = [factor(schedule, step, 111) for step in range(120)]
    assert course[0] == pytest.approx(0.1)
    assert course[5] == pytest.approx(0.55)
    assert course[10] == 1.0
    assert course[60] == pytest.approx(middle)
    last = 1.0 if kind == "constant" else 0.2
    assert course[110:] == pytest.approx([last] * 10)
    fixed = ScheduleSettings(kind, warmup=10, start=0.1, final=0.2, steps=111)
    assert [factor(fixed, step, 5000) for step in range(120)] == course


def test_the_average_follows_the_weights_and_gives_them_back() -> None:
    model = nn.Linear(1, 1)
    model.bias.requires_grad_(False)
    ema = EMA(model, 0.5)
    expected = model.weight.detach().clone()
    for step in range(30):
        with torch.no_grad():
            model.weight.add_(1.0)
        ema.update(model, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    assert ema.weights.keys() == {"weight"}
    assert ema.weights["weight"] == pytest.approx(expected.numpy(), rel=1e-6)
    own = model.weight.detach().clone()

    def use() -> None:
        with ema.applied(model):
            assert model.weight.detach() == pytest.approx(expected.numpy(), rel=1e-6)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        use()
    assert torch.equal(model.weight, own)
    assert ema.weights["weight"] == pytest.approx(expected.numpy(), rel=1e-6)


def test_the_average_of_replaced_weights_begins_anew() -> None:
    class Replacing(Line):
        def after_step(self, model: nn.Module, moment: Moment) -> dict[str, float]:
            if moment.step == 3:
                with torch.no_grad():
                    model[2].bias.fill_(100.0)
                moment.replaced.append(model[2].bias)
            return {}

    model = trained(Replacing(), steps=4)[1]
    assert model[2].bias.item() == 100.0
    assert abs(model[0].bias[0].item()) < 2


@pytest.mark.parametrize(("world", "micro", "expected"), [(1, None, (1, 12)), (2, 2, (3, 2)), (4, 100, (1, 3))])
def test_a_batch_is_shared_evenly(world: int, micro: int | None, expected: tuple[int, int]) -> None:
    assert local_batch(settings(batch=12, micro_batch=micro), world) == expected


@pytest.mark.parametrize(
    ("world", "micro", "words"), [(5, None, "shared evenly by 5 workers"), (2, 4, "micro_batch of 4")]
)
def test_a_batch_that_cannot_be_shared_is_refused(world: int, micro: int | None, words: str) -> None:
    with pytest.raises(UserError, match=words):
        local_batch(settings(batch=12, micro_batch=micro), world)


@pytest.mark.parametrize("name", ["steps", "batch", "log_every", "checkpoint_every", "keep_checkpoints", "prefetch"])
def test_settings_that_mean_nothing_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"{name}=0"):
        settings(**{name: 0})


@pytest.mark.parametrize("world", [1, 2, 3, 4, 12])
def test_evaluation_is_shared_without_gap_and_in_order(world: int) -> None:
    shared = [i for rank in range(world) for i in worker_slice(11, Alone(rank, world))]
    assert shared == list(range(11))


def test_batches_of_any_structure_move() -> None:
    @dataclass(frozen=True)
    class Inner:
        points: Tensor
        name: str

    batch = {"a": [torch.ones(2)], "b": (Inner(torch.zeros(1), "x"), SampleKey(0, 1, 2)), "c": None}
    moved = move(batch, "meta")
    assert moved["a"][0].device.type == moved["b"][0].points.device.type == "meta"
    assert moved["b"][0].name == "x"
    assert moved["b"][1] == SampleKey(0, 1, 2)
    assert moved["c"] is None


def test_the_plain_trainer_learns_and_repeats_itself_to_the_bit() -> None:
    first, model = trained()
    again, same = trained()
    assert [entry["error"] for entry in first] == [entry["error"] for entry in again]
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), same.state_dict().values(), strict=True))
    assert first[0]["error"] > 20 * np.mean([entry["error"] for entry in first[-10:]])
    assert first[0].keys() >= {"grad_norm", "lr", "samples", "samples_per_second", "data_wait"}
    other, _ = trained(seed=1)
    assert other[0]["error"] != first[0]["error"]


def test_the_model_has_the_weights_that_were_asked_for() -> None:
    averaged, raw, none = (trained(steps=5, **kind)[1] for kind in ({}, {"export": "raw"}, {"ema": None}))
    weight = [model.state_dict()["0.weight"] for model in (averaged, raw, none)]
    assert torch.equal(weight[1], weight[2])
    assert not torch.equal(weight[0], weight[1])


def test_micro_batches_change_nothing_but_the_memory() -> None:
    class Dry(Line):
        def build(self) -> nn.Module:
            return nn.Sequential(nn.Linear(1, 8), nn.Linear(8, 1))

    whole, parts = (trained(Dry(), micro_batch=micro)[0] for micro in (None, 2))
    assert [e["error"] for e in parts] == pytest.approx([e["error"] for e in whole], rel=1e-3)
    assert {e["samples"] for e in parts} == {8.0}


def test_clipping_bounds_the_step_and_the_norm_is_reported_before_it() -> None:
    def sgd_like(clip: float | None) -> list[dict[str, float]]:
        optimizer = OptimizerSettings(clip=clip, eps=1e3)  # with a large eps Adam's step grows with the gradient
        return trained(steps=2, optimizer=optimizer)[0]

    clipped, free = sgd_like(1e-3), sgd_like(None)
    assert clipped[0]["grad_norm"] == free[0]["grad_norm"] > 1e-3
    assert clipped[1]["error"] > free[1]["error"]


def test_bf16_keeps_parameters_moments_and_losses_in_fp32() -> None:
    task, chosen = Line(with_discriminator=True), settings(precision="bf16")
    state = start(task, chosen)
    seen = []
    state.model[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    state.model[0].weight.register_hook(lambda gradient: seen.append(gradient.dtype))
    order = Order(Numbers().sizes, 0, 8)
    for step in range(4):
        pairs = next(Numbers().batches(order, step, 0, 1, 1))[1]
        _, metrics = train_step(state, [task.collate([s for _, s in pairs], step, [k for k, _ in pairs])])
    assert set(seen[0::2]) == {torch.bfloat16}
    assert set(seen[1::2]) == {torch.float32}
    for module, optimizer in (
        (state.model, state.engine.optimizer),  # type: ignore[attr-defined]
        (state.discriminator.module, state.discriminator.optimizer),  # type: ignore[union-attr]
    ):
        moments = [value for moments in optimizer.state.values() for value in moments.values()]
        assert {t.dtype for t in (*module.parameters(), *moments)} == {torch.float32}
    assert metrics["error"].dtype == metrics["score"].dtype == torch.float32
    with pytest.raises(TypeError, match="compute losses in float32"):
        trained(Line(low_precision=True), steps=1)


def test_what_the_data_raise_is_raised_and_no_thread_stays() -> None:
    before = threading.active_count()
    with pytest.raises(OSError, match="the disk has gone"):
        trained(data=Numbers(broken=True))
    batches = feed(Line(), Numbers(), settings(micro_batch=4), 5, 0, 1)
    step, micro, waited = next(batches)
    assert (step, [len(batch["x"]) for batch in micro]) == (5, [4, 4])
    assert waited >= 0
    batches.close()
    assert threading.active_count() == before


def test_random_streams_of_modules_do_not_depend_on_history() -> None:
    torch.manual_seed(5)
    first = trained(steps=3)[0]
    torch.manual_seed(6)
    assert [e["error"] for e in trained(steps=3)[0]] == [e["error"] for e in first]
    assert torch.rand(1, generator=generator(0, "a")) != torch.rand(1, generator=generator(0, "b"))
