"""The plain trainer: one process, torch alone. It is the reference for the distributed loop and serves benchmarks."""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sar3d.training.ema import EMA
from sar3d.training.feed import Feed, feed
from sar3d.training.schedule import factor
from sar3d.training.settings import TrainSettings
from sar3d.training.step import Passes, build, due, evaluating, forward_backward, moment, optimiser, set_rates
from sar3d.training.task import Alone, Batch, Dataset, Task

Log = Callable[[int, dict[str, float]], None]


@dataclass
class State:
    """Everything that training changes."""

    model: nn.Module
    optimiser: torch.optim.AdamW
    adversary: nn.Module | None
    adversary_optimiser: torch.optim.AdamW | None
    ema: EMA | None
    device: torch.device
    step: int = 0
    """The next step."""


def start(task: Task, settings: TrainSettings, device: str | torch.device = "cpu") -> State:
    """The state before step 0; the weights depend on the seed alone."""
    device = torch.device(device)
    model, adversary = build(task, settings, device)
    judge = None if adversary is None else optimiser(task.adversary_groups(adversary), settings.optimiser)
    return State(
        model=model,
        optimiser=optimiser(task.parameter_groups(model), settings.optimiser),
        adversary=adversary,
        adversary_optimiser=judge,
        ema=None if settings.ema is None else EMA(model, settings.ema),
        device=device,
    )


def train_step(task: Task, state: State, settings: TrainSettings, batches: list[Batch]) -> dict[str, Tensor | float]:
    """One optimiser step on the micro-batches of a whole batch (CPU tensors); nothing waits for the device.

    Returns:
        Metrics: () float32 tensors on the device, or numbers.
    """
    now = moment(settings, state.step, Alone(), state.device, batches)
    rate = factor(settings.schedule, state.step, settings.steps)
    metrics: dict[str, Tensor | float] = dict(task.before_step(state.model, now))
    count = len(batches)

    def add(loss: Tensor) -> None:
        (loss / count).backward()

    passes = Passes(main=lambda compute, last: add(compute(state.model)), adversary=add)
    means, judged = forward_backward(task, state.adversary, batches, state.step, 0, settings, state.device, passes)
    metrics |= means
    parameters = [p for group in state.optimiser.param_groups for p in group["params"]]
    for parameter in parameters:
        if parameter.grad is None:  # as DeepSpeed does; it decays what a step does not use
            parameter.grad = torch.zeros_like(parameter)
    clip = settings.optimiser.clip
    metrics["grad_norm"] = nn.utils.clip_grad_norm_(parameters, float("inf") if clip is None else clip)
    _apply(state.optimiser, rate)
    if judged and state.adversary_optimiser is not None:
        _apply(state.adversary_optimiser, rate)
    metrics |= task.after_step(state.model, now)
    if state.ema is not None:
        state.ema.restart(state.model, now.replaced)
        state.ema.update(state.model, state.step)
    state.step += 1
    return metrics | {"lr": state.optimiser.param_groups[0]["lr"]}


def fit(
    task: Task,
    dataset: Dataset,
    settings: TrainSettings,
    log: Log | None = None,
    device: str | torch.device = "cpu",
    held_out: Any = None,
    stop: Callable[[int], bool] | None = None,
) -> nn.Module:
    """Train in this process and return the model with the weights of `settings.export`.

    `log(steps, metrics)` gets the number of steps done with the metrics of every `log_every`-th step, and with those of
    evaluations. `stop(steps)` is asked before every step and ends training when it answers True.
    """
    state = start(task, settings, device)
    log = log or (lambda step, metrics: None)
    with closing(feed(task, dataset, settings, 0, 0, 1, pin=state.device.type == "cuda")) as batches:
        run(task, state, settings, batches, log, held_out, stop)
    if state.ema is not None and settings.export == "ema":
        state.model.load_state_dict(state.ema.weights, strict=False)
    return state.model


def run(
    task: Task,
    state: State,
    settings: TrainSettings,
    batches: Feed,
    log: Log,
    held_out: Any = None,
    stop: Callable[[int], bool] | None = None,
) -> None:
    """Steps until `settings.steps`, on what `feed` gives from `state.step` on."""
    steps, seconds, waited = 0, 0.0, 0.0
    while state.step < settings.steps and not (stop is not None and stop(state.step)):
        began = time.perf_counter()
        _, host_batches, wait = next(batches)
        metrics = train_step(task, state, settings, host_batches)
        log_now = due(settings.log_every, state.step, settings.steps)
        values = {name: float(value) for name, value in metrics.items()} if log_now else {}
        steps, seconds, waited = steps + 1, seconds + time.perf_counter() - began, waited + wait
        if log_now:
            speed = {"samples_per_second": steps * settings.batch / seconds, "data_wait": waited / seconds}
            speed |= task.speed(speed["samples_per_second"], settings, state.device, 1)
            log(state.step, values | speed)
            steps, seconds, waited = 0, 0.0, 0.0
        if held_out is not None and due(settings.evaluate_every, state.step, settings.steps):
            with evaluating(state.model, state.ema, settings, state.device):
                log(state.step, task.evaluate(state.model, held_out, Alone()))


def _apply(optimiser: torch.optim.AdamW, rate: float) -> None:
    set_rates(optimiser, rate)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
