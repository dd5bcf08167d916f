"""The plain trainer: one process, torch alone. It is the reference for the distributed loop and serves benchmarks."""

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import torch
from torch import nn

from sar3d.training.ema import EMA
from sar3d.training.feed import Feed, feed
from sar3d.training.guard import watching
from sar3d.training.plain import PlainDiscriminatorEngine, PlainEngine
from sar3d.training.settings import TrainSettings, local_batch
from sar3d.training.step import State, build, due, evaluating, train_step
from sar3d.training.task import Alone, Dataset, Task

Log = Callable[[int, dict[str, float]], None]


def start(task: Task, settings: TrainSettings, device: str | torch.device = "cpu") -> State:
    """The state before step 0; the weights depend on the seed alone."""
    device = torch.device(device)
    model, judge = build(task, settings, device)
    accumulation, _ = local_batch(settings, 1)
    return State(
        task=task,
        settings=settings,
        sync=Alone(),
        device=device,
        model=model,
        engine=PlainEngine(task, model, settings, accumulation),
        discriminator=None if judge is None else PlainDiscriminatorEngine(task, judge, settings, accumulation),
        ema=None if settings.ema is None else EMA(model, settings.ema),
        accumulation=accumulation,
    )


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

    Raises:
        UserError: training diverged, see `sar3d.training.guard`.
    """
    state = start(task, settings, device)
    log = log or (lambda step, metrics: None)
    with closing(feed(task, dataset, settings, 0, 0, 1, pin=state.device.type == "cuda")) as batches:
        run(state, batches, log, held_out, stop)
    if state.ema is not None and settings.export == "ema":
        state.model.load_state_dict(state.ema.weights, strict=False)
    return state.model


def run(
    state: State,
    batches: Feed,
    log: Log,
    held_out: Any = None,
    stop: Callable[[int], bool] | None = None,
) -> None:
    """Steps until `settings.steps`, on what `feed` gives from `state.step` on."""
    task, settings = state.task, state.settings
    guard = watching(task, settings)
    steps, seconds, waited = 0, 0.0, 0.0
    while state.step < settings.steps and not (stop is not None and stop(state.step)):
        began = time.perf_counter()
        _, host_batches, wait = next(batches)
        moved, metrics = train_step(state, host_batches)
        guard.add(metrics)
        if guard.due():
            guard.check(Alone())
        log_now = due(settings.log_every, state.step, settings.steps)
        values = {name: float(value) for name, value in {**moved, **metrics}.items()} if log_now else {}
        steps, seconds, waited = steps + 1, seconds + time.perf_counter() - began, waited + wait
        if log_now:
            speed = {"samples_per_second": steps * settings.batch / seconds, "data_wait": waited / seconds}
            speed |= task.speed(speed["samples_per_second"], settings, state.device, 1)
            log(state.step, values | speed)
            steps, seconds, waited = 0, 0.0, 0.0
        if held_out is not None and due(settings.evaluate_every, state.step, settings.steps):
            with evaluating(state.model, state.ema, settings, state.device):
                log(state.step, task.evaluate(state.model, held_out, Alone()))
