"""Checkpoints: what is committed can be read whole or is refused in one sentence; nothing else counts."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipelines.runtime.store import Store
from pipelines.runtime.training import checkpoint
from pipelines.runtime.training.checkpoint import Target, Targets
from sar3d.errors import UserError
from sar3d.training.task import Alone

IDENTITY = {"seed": 0, "batch": 8}


def tensors(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {
        "model/weight": torch.randn(6, 5, generator=generator),
        "model/count": torch.tensor(step),
        "model/turned": torch.randn(4, 3, generator=generator).T,
        "ema/weight": torch.randn(6, 5, generator=generator),
        "optimizer/weight/step": torch.tensor(float(step)),
    }


def save(store: Store, step: int, **options: Any) -> checkpoint.Record:
    return checkpoint.save(store, step, tensors(step).items(), IDENTITY, Alone(), **options)


def places() -> tuple[dict[str, Tensor], Targets]:
    """Empty tensors, and the targets that fill them."""
    found = {name: torch.zeros_like(tensor) for name, tensor in tensors(0).items()}
    return found, {name: Target(tensor.shape, tensor.copy_) for name, tensor in found.items()}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "checkpoints"))


@pytest.mark.parametrize("shard_bytes", [1, 100, 2**20])
def test_every_tensor_comes_back_to_the_bit(store: Store, shard_bytes: int) -> None:
    record = save(store, 7, shard_bytes=shard_bytes)
    assert checkpoint.newest(store) == record
    assert (len(record.files) == 1) == (shard_bytes == 2**20)
    found, targets = places()
    checkpoint.load(store, record, targets, Alone())
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors(7).items())
    assert dict(checkpoint.read_tensors(store, record, "ema/")).keys() == {"weight"}


def test_it_works_on_an_object_store(s3_root: str) -> None:
    store = Store(f"{s3_root}/checkpoints")
    for step in (1, 2, 3):
        record = save(store, step)
        checkpoint.prune(store, 1)
    assert checkpoint.committed(store) == [3]
    assert len(store.names()) == 1 + len(record.files)
    found, targets = places()
    checkpoint.load(store, checkpoint.newest(store, at_least=3), targets, Alone())
    assert torch.equal(found["model/weight"], tensors(3)["model/weight"])


def test_old_ones_and_abandoned_attempts_go_and_the_newest_stay(store: Store) -> None:
    for step in (3, 6, 9):
        save(store, step)
    store.put("step-000000007-deadbeef/00000-000.safetensors", b"half a file")
    checkpoint.prune(store, 2)
    assert checkpoint.committed(store) == [6, 9]
    assert sorted({name.split("/")[0][:14] for name in store.names()}) == ["step-000000006", "step-000000009"]
    assert len(store.folders()) == 2
    for step in (6, 9):
        checkpoint.load(store, checkpoint.read_record(store, step), places()[1], Alone())


def test_files_without_a_record_are_no_checkpoint(store: Store) -> None:
    store.put("step-000000004-deadbeef/00000-000.safetensors", b"half a file")
    assert checkpoint.newest(store) is None
    save(store, 2)
    assert checkpoint.newest(store).step == 2


def test_the_first_record_of_a_step_wins(store: Store) -> None:
    first = save(store, 5)
    late = checkpoint.save(store, 5, tensors(99).items(), IDENTITY, Alone())
    assert checkpoint.newest(store) == first != late
    found, targets = places()
    checkpoint.load(store, checkpoint.newest(store), targets, Alone())
    assert torch.equal(found["model/weight"], tensors(5)["model/weight"])


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [(Path.unlink, "it is missing"), (_cut, "bytes instead of"), (_flip, "its content is not what was written")],
)
def test_a_damaged_file_is_named_and_nothing_is_loaded(store: Store, harm: Any, reason: str) -> None:
    save(store, 3)
    record = save(store, 6, shard_bytes=1)
    name = record.files[-1].name
    harm(store.path(name))
    found, targets = places()
    with pytest.raises(UserError, match=reason) as refused:
        checkpoint.load(store, checkpoint.newest(store), targets, Alone())
    assert name in str(refused.value)
    assert "step-000000006.json" in str(refused.value)  # what to delete in order to go on from step 3
    assert not any(tensor.any() for tensor in found.values())


def test_a_damaged_record_is_no_fresh_start(store: Store) -> None:
    save(store, 3)
    store.put("step-000000006.json", b'{"format": 1, "fil')
    with pytest.raises(UserError, match=r"step-000000006.json is damaged: its record cannot be read"):
        checkpoint.newest(store)
    values = json.loads(store.read("step-000000003.json") or b"")
    store.put("step-000000006.json", json.dumps({**values, "format": 2}).encode())
    with pytest.raises(UserError, match="has format 2, this program reads 1"):
        checkpoint.newest(store)


def test_a_checkpoint_that_was_there_and_is_gone_is_no_fresh_start(store: Store) -> None:
    with pytest.raises(UserError, match=r"step-000000004 is gone"):
        checkpoint.newest(store, at_least=4)
    save(store, 3)
    with pytest.raises(UserError, match=r"step-000000004 is gone"):
        checkpoint.newest(store, at_least=4)
    assert checkpoint.newest(store, at_least=3).step == 3


def test_another_model_or_another_run_is_refused(store: Store) -> None:
    record = save(store, 3)
    found, targets = places()
    wider = targets | {"model/weight": Target(torch.Size((6, 7)), found["model/weight"].copy_)}
    fewer = {name: target for name, target in targets.items() if name != "ema/weight"}
    more = targets | {"model/bias": targets["model/count"]}
    for wrong, words in (
        (wider, r"its model/weight is \[6, 5\], the model's is \[6, 7\]"),
        (fewer, "it has a tensor ema/weight"),
        (more, "it has no tensor model/bias"),
    ):
        with pytest.raises(UserError, match=words):
            checkpoint.load(store, record, wrong, Alone())
    assert not any(tensor.any() for tensor in found.values())
    checkpoint.check_identity(store, record, IDENTITY)
    with pytest.raises(UserError, match="was made with batch=8 and this run has batch=16"):
        checkpoint.check_identity(store, record, {**IDENTITY, "batch": 16})


@dataclass
class Full(Store):
    """A store whose disk is full after some files."""

    url: str
    room: int
    local: bool = True
    written: list[str] = field(default_factory=list)

    def put(self, name: str, data: bytes) -> None:
        if len(self.written) == self.room:
            raise UserError(f"cannot write under {self.url}: no space is left there")
        self.written.append(name)
        super().put(name, data)


def test_a_full_disk_commits_nothing(tmp_path: Path) -> None:
    url = str(tmp_path / "checkpoints")
    save(Store(url), 3)
    with pytest.raises(UserError, match="no space is left"):
        save(Full(url, room=2), 6, shard_bytes=1)
    assert checkpoint.committed(Store(url)) == [3]
