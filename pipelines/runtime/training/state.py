"""What one worker holds during training: how it begins, what a checkpoint keeps of it, and how it is put back."""

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse
from torch import Tensor, nn

from pipelines.runtime.store import Store
from pipelines.runtime.training import checkpoint
from pipelines.runtime.training.checkpoint import Targets
from pipelines.runtime.training.discriminator import DiscriminatorEngine
from pipelines.runtime.training.engine import Engine, named_state, places
from pipelines.runtime.training.split import SplitEngine
from pipelines.runtime.training.sync import Workers
from sar3d.errors import UserError
from sar3d.training.ema import EMA
from sar3d.training.settings import TrainSettings, local_batch
from sar3d.training.step import State, build, evaluating
from sar3d.training.task import Dataset, Task


@dataclass(frozen=True)
class TrainWork:
    """What is trained, on what, how, and where it goes; picklable."""

    task: Task
    train: Dataset
    settings: TrainSettings
    folder: str
    """Folder or URL of the checkpoints, seen by all workers."""
    model_folder: str
    """Folder or URL of the final model; it holds nothing else."""
    held_out: Any = None
    """What the task evaluates and draws; none for neither."""
    initial: str | None = None
    """Folder or URL of a committed model (model.safetensors) that a new run starts from."""
    at_least: int = 0
    """A step whose checkpoint is known to have been committed; to find neither it nor a later one is an error."""


@dataclass
class TrainRun(State):
    """The state of one worker, and what it is trained for."""

    engine: Engine
    discriminator: DiscriminatorEngine | None
    sync: Workers
    work: TrainWork = field(kw_only=True)
    saved: int = field(default=0, kw_only=True)
    """Step of the newest committed checkpoint; 0 for none."""

    @property
    def store(self) -> Store:
        """Where the checkpoints lie."""
        return Store(self.work.folder)


def start(work: TrainWork, sync: Workers) -> TrainRun:
    """The state before step 0. Raises `UserError` if the batch cannot be shared by these workers."""
    accumulation, micro = local_batch(work.settings, sync.world)
    model, judge = build(work.task, work.settings, sync.device)
    engine = SplitEngine if work.settings.zero == 3 else Engine
    return TrainRun(
        work=work,
        task=work.task,
        settings=work.settings,
        sync=sync,
        device=sync.device,
        model=model,
        engine=engine(work.task, model, work.settings, accumulation, micro),
        discriminator=None if judge is None else DiscriminatorEngine(work.task, judge, work.settings, accumulation),
        ema=None if work.settings.ema is None else EMA(model, work.settings.ema),
        accumulation=accumulation,
    )


def resume(run: TrainRun) -> None:
    """Go on from the newest committed checkpoint; where there is none, from the initial model, if one is named.

    Raises:
        UserError: the checkpoint or the initial model cannot be used; nothing of it has been loaded.
    """
    store, work = run.store, run.work
    # One worker looks: another might see a checkpoint that a replaced attempt has committed in between.
    record = run.sync.first(lambda: checkpoint.newest(store, work.at_least))
    if record is not None:
        checkpoint.check_identity(store, record, identity(run))
        checkpoint.load(store, record, _targets(run), run.sync)
        run.step = run.saved = record.step
    elif work.initial is not None and not work.task.own_start:
        _initialize(run.engine.weight_targets(), work.initial)
        run.ema = None if run.settings.ema is None else EMA(run.model, run.settings.ema)
    run.engine.refresh()


def commit(run: TrainRun) -> str:
    """Write a checkpoint of the state and return its name; older ones may go then."""
    _check_buffers(run)
    record = checkpoint.save(run.store, run.step, _content(run), identity(run), run.sync)
    run.saved = run.step
    run.sync.first(lambda: checkpoint.prune(run.store, run.settings.keep_checkpoints))
    return record.name


def export(run: TrainRun) -> None:
    """Write the final model, with the weights of `settings.export`; one worker does."""
    model = _whole(run) if isinstance(run.engine, SplitEngine) else run.model
    run.sync.first(lambda: _export(run, model))


def _whole(run: TrainRun) -> nn.Module:
    """The model with all of its parameters on the first worker; another one elsewhere. All workers take part."""
    model = build(run.work.task, run.settings, torch.device("cpu"))[0] if run.sync.rank == 0 else run.model
    targets = places(named_state(model)) if run.sync.rank == 0 else {}
    for name, tensor in run.engine.weights():
        if run.sync.rank == 0:
            targets[name].put(tensor)
    return model


def _export(run: TrainRun, model: nn.Module) -> None:
    store = Store(run.work.model_folder)
    with tempfile.TemporaryDirectory(prefix="sar3d-export-") as place:
        folder = Path(place)
        with evaluating(model, run.ema, run.settings, run.sync.device):
            run.work.task.export(model, folder)
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        for name, path in sorted(files.items()):
            store.upload(path, name)
    store.delete([name for name in store.names() if name not in files])


def identity(run: TrainRun) -> dict[str, Any]:
    """What must be the same in every run that goes on from a checkpoint: what gives the data and the weights."""
    settings = run.settings
    return {
        "task": run.work.task.name,
        "seed": settings.seed,
        "batch": settings.batch,
        "lanes": settings.lanes,
        "window": settings.window,
        "samples": int(sum(run.work.train.sizes)),
    }


def _content(run: TrainRun) -> Iterator[tuple[str, Tensor]]:
    """Everything that a checkpoint holds. The random generators are not among it: seed and step determine them."""
    for name, tensor in run.engine.weights():
        yield f"model/{name}", tensor
    for name, tensor in run.engine.state():
        yield f"optimizer/{name}", tensor
    if run.ema is not None:
        for name, tensor in run.ema.weights.items():
            yield f"ema/{name}", tensor
    if run.discriminator is not None:
        for name, tensor in named_state(run.discriminator.module).items():
            yield f"discriminator/{name}", tensor
        for name, tensor in run.discriminator.state():
            yield f"discriminator_optimizer/{name}", tensor


def _targets(run: TrainRun) -> Targets:
    """The place of everything that `_content` gives."""
    found = _prefixed("model/", run.engine.weight_targets())
    found |= _prefixed("optimizer/", run.engine.targets())
    if run.ema is not None:
        found |= _prefixed("ema/", places(run.ema.weights))
    if run.discriminator is not None:
        found |= _prefixed("discriminator/", places(named_state(run.discriminator.module)))
        found |= _prefixed("discriminator_optimizer/", run.discriminator.targets)
    return found


def _prefixed(prefix: str, targets: Targets) -> Targets:
    return {prefix + name: target for name, target in targets.items()}


def _check_buffers(run: TrainRun) -> None:
    """A buffer that every worker fills from its own samples would be lost with all workers but one.

    Raises:
        RuntimeError: a buffer of the model is not the same on all workers.
    """
    digests = {
        name: hashlib.sha256(buffer.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, buffer in named_state(run.model).items()
        if not isinstance(buffer, nn.Parameter)
    }
    first, *others = run.sync.gather_objects(digests)
    for name in first:
        if any(other[name] != first[name] for other in others):
            raise RuntimeError(
                f"the buffer {name} of {run.work.task.name} differs between workers: average it in the task's "
                "after_step (moment.sync.average)"
            )


def _initialize(mine: Targets, place: str) -> None:
    """Put the weights of a committed model into their targets."""
    store = Store(place)
    data = store.read("model.safetensors")
    if data is None:
        raise UserError(f"there is no model to start from: {store.address('model.safetensors')} does not exist")
    try:
        weights = parse(data)
    except SafetensorError as error:
        raise UserError(f"the model {store.address('model.safetensors')} is damaged: {error}") from error
    for name in sorted(mine.keys() ^ weights.keys()):
        where = "has no" if name in mine else "has a"
        raise UserError(f"the model {place} cannot be started from: it {where} tensor {name}")
    for name, target in mine.items():
        if weights[name].shape != target.shape:
            raise UserError(
                f"the model {place} cannot be started from: its {name} is {list(weights[name].shape)}, "
                f"this model's is {list(target.shape)}"
            )
    for name, target in mine.items():
        target.put(weights[name])
