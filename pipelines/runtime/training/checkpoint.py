"""Checkpoints: whole fp32 tensors by name, so that any number of workers and any of ZeRO 0, 1 and 2 can go on from them.

A checkpoint is a set of safetensors files, of which every worker writes its share, and a record, created last. Without
its record it does not exist; with it, every file has a known size and digest. The newest recorded one is the state of
the run. Data files carry a token of their attempt, so that two attempts at one step never write the same file.
"""

import hashlib
import json
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load as parse
from safetensors.torch import save as serialize
from torch import Tensor

from pipelines.runtime.store import Store
from sar3d.errors import UserError
from sar3d.training.task import Sync

FORMAT = 1
_SHARD = 512 * 2**20
_RECORD = ".json"


@dataclass(frozen=True)
class Target:
    """Where one loaded tensor goes."""

    shape: torch.Size
    put: Callable[[Tensor], Any]


Targets = dict[str, Target]


@dataclass(frozen=True)
class File:
    """One committed file of a checkpoint."""

    name: str
    bytes: int
    sha256: str
    tensors: dict[str, list[int]]
    """Name → shape."""


@dataclass(frozen=True)
class Record:
    """A committed checkpoint."""

    step: int
    """Optimizer steps done; also the position in the data, and with the seed the state of every random generator."""
    identity: dict[str, Any]
    """What a run must share with the one that wrote it, in order to go on from it."""
    world: int
    """Workers that wrote it."""
    files: tuple[File, ...]

    @property
    def name(self) -> str:
        return name_of(self.step)


def name_of(step: int) -> str:
    """The name of the checkpoint after `step` steps."""
    return f"step-{step:09d}"


def committed(store: Store) -> list[int]:
    """Steps of the committed checkpoints, ascending."""
    names = (name for name in store.names() if name.startswith("step-") and name.endswith(_RECORD) and "/" not in name)
    return sorted(int(name.removeprefix("step-").removesuffix(_RECORD)) for name in names)


def newest(store: Store, at_least: int = 0) -> Record | None:
    """The newest committed checkpoint; none where nothing was ever committed.

    Raises:
        UserError: its record is damaged, or there is none of step `at_least` or later, which is known to have been.
    """
    steps = committed(store)
    if at_least and (not steps or steps[-1] < at_least):
        raise UserError(
            f"the checkpoint {store.address(name_of(at_least))} is gone: restore it, or remove the stage's output to "
            "train from the start"
        )
    return read_record(store, steps[-1]) if steps else None


def read_record(store: Store, step: int) -> Record:
    """The record of the checkpoint after `step` steps. Raises `UserError` if it cannot be read."""
    name = name_of(step) + _RECORD
    try:
        values = json.loads(store.read(name) or b"")
        if values["format"] != FORMAT:
            raise UserError(
                f"the checkpoint {store.address(name)} has format {values['format']}, this program reads {FORMAT}: "
                "go on with the version that wrote it"
            )
        files = tuple(File(**file) for file in values["files"])
        return Record(step, values["identity"], values["world"], files)
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(store, name, "its record cannot be read") from error


def save(
    store: Store,
    step: int,
    content: Iterable[tuple[str, Tensor]],
    identity: dict[str, Any],
    sync: Sync,
    shard_bytes: int = _SHARD,
) -> Record:
    """Write and commit a checkpoint; all workers call it and go through the same `content`, of which each stores a part.

    Raises:
        UserError: a worker could not write; then nothing is committed.
    """
    attempt = sync.gather_objects(uuid.uuid4().hex[:8])[0]
    written: list[File] | UserError
    try:
        written = _write_share(store, f"{name_of(step)}-{attempt}", content, sync, shard_bytes)
    except UserError as error:
        written = error
    parts = sync.gather_objects(written)
    for part in parts:
        if isinstance(part, UserError):
            raise part
    record = Record(step, identity, sync.world, tuple(file for part in parts for file in part))
    if sync.rank == 0:
        values = {"format": FORMAT, "identity": identity, "world": sync.world, "files": [vars(f) for f in record.files]}
        store.create(record.name + _RECORD, json.dumps(values, indent=1).encode())
    sync.gather_objects(None)  # no worker goes on before the record is there
    return record


def _write_share(
    store: Store, prefix: str, content: Iterable[tuple[str, Tensor]], sync: Sync, shard_bytes: int
) -> list[File]:
    files: list[File] = []
    held: dict[str, Tensor] = {}
    failure: UserError | None = None

    def flush() -> None:
        if not held:
            return
        data = serialize(held)
        name = f"{prefix}/{sync.rank:05d}-{len(files):03d}.safetensors"
        store.put(name, data)
        shapes = {key: list(value.shape) for key, value in held.items()}
        files.append(File(name, len(data), hashlib.sha256(data).hexdigest(), shapes))
        held.clear()

    for index, (key, tensor) in enumerate(content):
        if index % sync.world != sync.rank or failure is not None:
            continue
        held[key] = tensor.detach().cpu().contiguous().clone()
        if sum(value.nbytes for value in held.values()) >= shard_bytes:
            try:
                flush()
            except UserError as error:
                failure = error  # the other workers still wait for this one to go through the content
    if failure is not None:
        raise failure
    flush()
    return files


def load(store: Store, record: Record, targets: Targets, sync: Sync) -> None:
    """Put every tensor of the checkpoint into its target, once all files and names have been found to be right.

    Raises:
        UserError: a file is missing or damaged, or the names and shapes are not those of `targets`; nothing is changed.
    """
    _compare(store, record, targets)
    mine = record.files[sync.rank :: sync.world]
    problems = sync.gather_objects(next((p for p in (_problem(store, file) for file in mine) if p), None))
    for problem in problems:
        if problem is not None:
            raise _damaged(store, *problem)
    for file in record.files:
        for name, tensor in parse(_read(store, file)).items():
            targets[name].put(tensor)


def read_tensors(store: Store, record: Record, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors whose names begin with `prefix`, without it. Raises `UserError` where a file is damaged."""
    for file in record.files:
        if any(name.startswith(prefix) for name in file.tensors):
            problem = _problem(store, file)
            if problem is not None:
                raise _damaged(store, *problem)
            for name, tensor in parse(_read(store, file)).items():
                if name.startswith(prefix):
                    yield name.removeprefix(prefix), tensor


def prune(store: Store, keep: int) -> None:
    """Delete all but the newest `keep` committed checkpoints, and the files of attempts that were never committed.

    Records go before the files that they promise.
    """
    steps = committed(store)
    gone = steps[:-keep]
    store.delete([name_of(step) + _RECORD for step in gone])
    kept = [read_record(store, step) for step in steps[-keep:]]
    wanted = {file.name for record in kept for file in record.files} | {record.name + _RECORD for record in kept}
    store.delete([name for name in store.names() if name.startswith("step-") and name not in wanted])
    for folder in store.folders():
        if not any(name.startswith(f"{folder}/") for name in wanted):
            store.at(folder).prune()


def check_identity(store: Store, record: Record, identity: dict[str, Any]) -> None:
    """Raises `UserError` if a run of `identity` cannot go on from the checkpoint."""
    for key, mine in identity.items():
        theirs = record.identity.get(key)
        if theirs != mine:
            raise UserError(
                f"the checkpoint {store.address(record.name)} was made with {key}={theirs} and this run has "
                f"{key}={mine}: set it to what it was, or train into another folder"
            )


def _compare(store: Store, record: Record, targets: Targets) -> None:
    shapes = {name: shape for file in record.files for name, shape in file.tensors.items()}
    for name in sorted(shapes.keys() ^ targets.keys()):
        where = "has no" if name in targets else "has a"
        raise _mismatch(store, record, f"it {where} tensor {name}")
    for name, target in targets.items():
        if shapes[name] != list(target.shape):
            raise _mismatch(store, record, f"its {name} is {shapes[name]}, the model's is {list(target.shape)}")


def _mismatch(store: Store, record: Record, reason: str) -> UserError:
    return UserError(
        f"the checkpoint {store.address(record.name)} does not fit this model: {reason}; go on with the configuration "
        "that it was made with"
    )


def _problem(store: Store, file: File) -> tuple[str, str] | None:
    """The file's name and what is wrong with it."""
    data = store.read(file.name)
    if data is None:
        return file.name, "it is missing"
    if len(data) != file.bytes:
        return file.name, f"it has {len(data)} bytes instead of {file.bytes}"
    if hashlib.sha256(data).hexdigest() != file.sha256:
        return file.name, "its content is not what was written"
    return None


def _read(store: Store, file: File) -> bytes:
    data = store.read(file.name)
    if data is None:
        raise _damaged(store, file.name, "it is missing")
    return data


def _damaged(store: Store, name: str, reason: str) -> UserError:
    return UserError(
        f"the checkpoint file {store.address(name)} is damaged: {reason}; restore it, or delete the record "
        f"{name.split('/')[0][: len(name_of(0))]}{_RECORD} beside it to go on from the checkpoint before"
    )
