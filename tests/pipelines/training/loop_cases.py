"""What the training processes of test_loop do; imported by them."""

import os
import signal
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from toy_task import ToyDataset, ToyTask
from worker_group import Recorder

from pipelines.runtime.store import Store
from pipelines.runtime.training import checkpoint
from pipelines.runtime.training.loop import Outcome, TrainWork, run
from pipelines.runtime.training.state import start
from pipelines.runtime.training.sync import Workers
from sar3d.data.loading.order import Order
from sar3d.seeds import SampleKey
from sar3d.training.feed import feed
from sar3d.training.fit import fit
from sar3d.training.settings import TrainSettings
from sar3d.training.step import build, train_step


@dataclass
class Told:
    """One call of the loop: how it ended, and what its hooks were told."""

    outcome: Outcome | BaseException
    hooks: Recorder


def settings(**changes: Any) -> TrainSettings:
    """Six steps of eight samples in micro-batches of two, every step logged, a checkpoint every third."""
    return TrainSettings(**{"steps": 6, "batch": 8, "micro_batch": 2, "log_every": 1, "checkpoint_every": 3} | changes)


def work(folder: Path, task: ToyTask | None = None, data: ToyDataset | None = None, **changes: Any) -> TrainWork:
    return TrainWork(
        task=task or ToyTask(),
        train=data or ToyDataset(),
        settings=settings(**changes),
        folder=str(folder / "checkpoints"),
        model_folder=str(folder / "model"),
        held_out=ToyDataset(6),
    )


def runs(calls: list[tuple[TrainWork, int | None]]) -> list[Told]:
    """Each work in turn, stopped after that many steps of the call; errors are results."""
    told = []
    for each, stop_after in calls:
        hooks = Recorder(stop_after)
        try:
            told.append(Told(run(each, hooks), hooks))
        except Exception as error:
            told.append(Told(error, hooks))
    return told


def fitted(each: TrainWork) -> list[tuple[int, dict[str, float]]]:
    """What the plain trainer logs for the same work."""
    entries: list[tuple[int, dict[str, float]]] = []
    fit(each.task, each.train, each.settings, lambda *entry: entries.append(entry), held_out=each.held_out)
    return entries


def dtypes(each: TrainWork) -> dict[str, set[torch.dtype]]:
    """What two steps under DeepSpeed compute in, kind by kind."""
    state = start(each, Workers())
    seen: dict[str, set[torch.dtype]] = {name: set() for name in ("activations", "gradients", "losses", "masters")}
    for module in state.model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, inputs, output: seen["activations"].add(output.dtype))
    for parameter in state.model.parameters():
        if parameter.requires_grad:
            parameter.register_hook(lambda gradient: seen["gradients"].add(gradient.dtype))
    original, task = type(each.task).losses, each.task

    def losses(*arguments: Any) -> Any:
        made = original(task, *arguments)
        seen["losses"] |= {made.total.dtype, *(value.dtype for value in made.metrics.values())}
        return made

    object.__setattr__(task, "losses", losses)
    with closing(feed(task, each.train, each.settings, 0, state.sync.rank, state.sync.world)) as batches:
        for _ in range(2):
            train_step(state, next(batches)[1])
    discriminator = state.discriminator
    assert discriminator is not None
    if each.settings.zero:
        seen["masters"] = {flat.dtype for flat in state.engine._deepspeed.optimizer.single_partition_of_fp32_groups}
    moments = [tensor for _, tensor in (*state.engine.state(), *discriminator.state())]
    return seen | {
        "parameters": {p.dtype for module in (state.model, discriminator.module) for p in module.parameters()},
        "moments": {tensor.dtype for tensor in moments},
        "averages": {tensor.dtype for tensor in state.ema.weights.values()} if state.ema else set(),
    }


@dataclass
class Killer(Recorder):
    """Kills its own process, without a chance to clean up: before a step, or just before a checkpoint's record."""

    kill_before: int = 0
    kill_rank: int = 0
    record: bool = False

    def should_stop(self) -> bool:
        self.asked += 1
        if not self.record and self.asked > self.kill_before and dist.get_rank() == self.kill_rank:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    def committing(self, step: int) -> None:
        super().committing(step)
        if self.record and step > self.kill_before:
            Store.create = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment,method-assign]


def killed(each: TrainWork, before: int, rank: int, record: bool) -> None:
    """One rank of the group dies before that step of the call, or at the first commit after it."""
    run(each, Killer(kill_before=before, kill_rank=rank, record=record))


def weights(folder: Path, prefix: str = "") -> dict[str, Tensor]:
    """Tensors of the newest checkpoint by name."""
    store = Store(str(folder / "checkpoints"))
    record = checkpoint.newest(store)
    assert record is not None
    return dict(checkpoint.read_tensors(store, record, prefix))


class Whole(nn.Module):
    """The toy model with its loss inside, as plain DDP wants it."""

    def __init__(self, model: nn.Module, task: ToyTask) -> None:
        super().__init__()
        self.model, self.task = model, task

    def forward(self, batch: Any, step: int, discriminator: nn.Module) -> Any:
        losses = self.task.losses(self.model, batch, step, discriminator)
        return losses.total, losses.metrics["reconstruction"], losses.extras


def plain_ddp(each: TrainWork) -> tuple[list[float], dict[str, Any]]:
    """The same training written out with torch alone: DDP, AdamW, no DeepSpeed, no accumulation."""
    task, chosen = each.task, each.settings
    rank, world = dist.get_rank(), dist.get_world_size()
    model, discriminator = build(task, chosen, torch.device("cpu"))
    assert discriminator is not None
    parallel = DistributedDataParallel(Whole(model, task), forward_sync_buffers=False)
    judge = DistributedDataParallel(discriminator)
    optimizer = torch.optim.AdamW(task.parameter_groups(model), betas=chosen.optimizer.betas)
    other = torch.optim.AdamW(task.discriminator_groups(discriminator))
    order = Order(each.train.sizes, chosen.seed, chosen.batch, chosen.lanes, chosen.window)
    logged = []
    for step in range(chosen.steps):
        rows = order.batch(step).tolist()
        places = range(rank * chosen.batch // world, (rank + 1) * chosen.batch // world)
        keys = [SampleKey(chosen.seed, step, place) for place in places]
        batch = task.collate([each.train.picture(rows[place]) for place in places], step, keys)
        discriminator.requires_grad_(False)
        total, rebuilt, made = parallel(batch, step, discriminator)
        total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        discriminator.requires_grad_(True)
        if step >= task.discriminator_start:
            real, fake = judge(torch.cat([batch.pictures, made])).chunk(2)
            ((1 - real).relu().mean() + (1 + fake).relu().mean()).backward()
            other.step()
            other.zero_grad()
        dist.all_reduce(rebuilt)
        logged.append(float(rebuilt) / world)
    trained = {**model.state_dict(), **{f"discriminator.{k}": v for k, v in discriminator.state_dict().items()}}
    return logged, {name: tensor.numpy() for name, tensor in trained.items()}
