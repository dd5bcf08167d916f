"""When a training counts as diverged: noise and steps of design pass, a collapse is stopped before its next checkpoint."""

import math
import random
from collections.abc import Callable

import pytest
import torch

from sar3d.errors import UserError
from sar3d.training.guard import Guard
from sar3d.training.settings import GuardSettings
from sar3d.training.task import Alone

Course = Callable[[int], dict[str, float]]


def stopped_at(course: Course, steps: int = 1000, **settings: float | None) -> tuple[int | None, str]:
    """The step at which a course of metrics is stopped, and why."""
    guard = Guard(GuardSettings(**settings), ("loss", "grad_norm", "vq"))  # type: ignore[arg-type]
    for step in range(steps):
        guard.add({name: torch.tensor(value) for name, value in course(step).items()})
        if guard.due():
            try:
                guard.check(Alone())
            except UserError as error:
                return step + 1, str(error)
    return None, ""


def noisy(step: int, level: float = 0.2, seed: int = 0) -> float:
    """Log-normal noise about a falling loss, every hundredth value a thousand times as high."""
    spike = 1000.0 if step % 100 == 37 else 1.0
    return level * (0.2 + math.exp(-step / 300)) * math.exp(random.Random(f"{seed} {step}").gauss(0, 0.7)) * spike


def test_noise_single_spikes_and_a_term_that_begins_small_are_let_pass() -> None:
    def course(step: int) -> dict[str, float]:
        vq = 0.0 if step < 300 else 0.003 * 1.02 ** min(step - 300, 150)
        return {"loss": noisy(step) + vq, "grad_norm": noisy(step, 0.4, 1), "vq": vq}

    assert stopped_at(course) == (None, "")


def test_the_jump_when_quantization_begins_is_let_pass_and_a_collapse_is_not() -> None:
    def begins(vq: float) -> Course:
        return lambda step: {"loss": 0.135 + vq * (step >= 500), "vq": vq * (step >= 500)}

    assert stopped_at(begins(0.47)) == (None, "")
    step, why = stopped_at(begins(59.0))
    assert step == 520
    assert why.startswith("the training diverged: its loss rose from 0.135 (median of 200 steps) to 59.1")
    assert "\n" not in why


@pytest.mark.parametrize("name", ["loss", "grad_norm", "vq"])
def test_each_watched_metric_stops_a_run(name: str) -> None:
    values = {"loss": 0.2, "grad_norm": 0.3, "vq": 0.1}
    step, why = stopped_at(lambda step: {**values, name: values[name] * (25 if step >= 700 else 1)})
    assert step == 720
    assert f"its {name} rose" in why
    assert stopped_at(lambda step: {**values, name: values[name] * (15 if step >= 700 else 1)})[0] is None


def test_what_is_not_finite_stops_at_the_next_look_whatever_the_multiple() -> None:
    course: Course = lambda step: {"loss": float("nan") if step == 33 else 1.0}  # noqa: E731
    assert stopped_at(course)[0] == 40
    assert stopped_at(course, multiple=None)[0] == 40


def test_a_checkpoint_waits_while_the_newest_step_is_beyond_the_limit() -> None:
    guard = Guard(GuardSettings(window=10, recent=5), ("loss",))
    for step in range(16):
        guard.add({"loss": 1.0 if step < 15 else 30.0})
    assert not guard.check(Alone())
    guard.add({"loss": 1.0})
    assert guard.check(Alone())


@pytest.mark.parametrize("values", [{"multiple": 1.0}, {"recent": 0}, {"window": 0}])
def test_settings_that_would_stop_everything_or_nothing_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(values))):
        GuardSettings(**values)  # type: ignore[arg-type]
