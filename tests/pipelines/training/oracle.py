"""The training that a task and its settings describe, written out with torch alone: what the project's loop must give."""

import torch
from torch import nn
from toy_task import ToyBatch

from pipelines.runtime.training.loop import TrainWork
from sar3d.data.loading.order import Order
from sar3d.seeds import SampleKey, generator, seed_everything
from sar3d.training.task import Alone, Moment

Logged = list[tuple[int, dict[str, float]]]


def written_out(each: TrainWork) -> Logged:
    """Metrics of every step, and those of the evaluation at the end, of one process in float32 at constant rates."""
    task, chosen = each.task, each.settings
    seed_everything(chosen.seed, "build")
    model, judge = task.build().train(), task.build_discriminator()
    assert judge is not None
    settings = chosen.optimizer
    optimizer = torch.optim.AdamW(task.parameter_groups(model), betas=settings.betas, eps=settings.eps)
    other = torch.optim.AdamW(task.discriminator_groups(judge), betas=settings.betas, eps=settings.eps)
    average = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    order = Order(each.train.sizes, chosen.seed, chosen.batch, chosen.lanes, chosen.window)
    logged: Logged = []
    for step in range(chosen.steps):
        batches = micro_batches(each, order, step)
        seed_everything(chosen.seed, "step", step)
        now = Moment(step, generator(chosen.seed, "moment", step), Alone(), torch.device("cpu"), batches)
        values = dict(task.before_step(model, now))
        for name, value in gradients(each, model, judge, batches, step).items():
            values[name] = value
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        values["grad_norm"] = float(nn.utils.clip_grad_norm_(parameters, settings.clip or float("inf")))
        optimizer.step()
        optimizer.zero_grad()
        if "discriminator" in values:
            other.step()
        other.zero_grad()
        task.after_step(model, now)
        if chosen.ema is not None:
            decay = min(chosen.ema, (1 + step) / (10 + step))
            for name, p in model.named_parameters():
                if p.requires_grad:
                    average[name] += (1 - decay) * (p.detach() - average[name])
        logged.append((step + 1, {**values, "lr": optimizer.param_groups[0]["lr"]}))
    if chosen.ema is not None and chosen.export == "ema":
        model.load_state_dict(average, strict=False)
    with torch.no_grad():
        logged.append((chosen.steps, task.evaluate(model.eval(), each.held_out, Alone())))
    return logged


def micro_batches(each: TrainWork, order: Order, step: int) -> list[ToyBatch]:
    chosen, rows = each.settings, order.batch(step).tolist()
    size = chosen.micro_batch or chosen.batch
    made = []
    for first in range(0, chosen.batch, size):
        places = range(first, first + size)
        keys = [SampleKey(chosen.seed, step, place) for place in places]
        made.append(each.task.collate([each.train.picture(rows[place]) for place in places], step, keys))
    return made


def gradients(
    each: TrainWork, model: nn.Module, judge: nn.Module, batches: list[ToyBatch], step: int
) -> dict[str, float]:
    """Gradients of the mean loss over the micro-batches, in both models; the mean metrics."""
    found: dict[str, list[float]] = {}
    for index, batch in enumerate(batches):
        seed_everything(each.settings.seed, "micro-batch", step, index)
        judge.requires_grad_(False)
        losses = each.task.losses(model, batch, step, judge)
        (losses.total / len(batches)).backward()
        judge.requires_grad_(True)
        verdict = each.task.discriminator_losses(judge, batch, losses, step)
        if verdict is not None:
            (verdict.total / len(batches)).backward()
        for name, value in {**losses.metrics, **(verdict.metrics if verdict is not None else {})}.items():
            found.setdefault(name, []).append(float(value))
    return {name: sum(values) / len(values) for name, values in found.items()}
