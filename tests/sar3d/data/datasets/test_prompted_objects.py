"""Objects to ask a generator for, and one account of each: the right codes, prompts and views, and nothing else."""

import hashlib
import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from sar3d.data.datasets.first_group import FirstGroupTokens
from sar3d.data.datasets.prompted_objects import PromptedObjects, object_uids, spread_objects
from sar3d.data.datasets.token_config import TokenDataConfig
from sar3d.data.datasets.token_dataset import TokenDataset
from sar3d.data.datasets.view_config import ViewDataConfig
from sar3d.data.datasets.view_dataset import ViewDataset
from sar3d.data.formats.conditions import condition_row, conditions_schema
from sar3d.data.formats.tokens import token_row, tokens_schema
from sar3d.data.held_out import HeldOut

SCALES, LENGTH, GROUPS = (1, 2), 15, 4
PLAIN: dict[str, Any] = {"val": 0.0, "test": 0.0}


def codes_of(uid: str, group: int) -> list[int]:
    return np.random.default_rng([int(uid[-3:]), group]).integers(0, 50, LENGTH).tolist()


def feature(*key: int) -> np.ndarray:
    return np.random.default_rng(key).normal(size=(2, 4)).astype(np.float16)


def view_set(files: list[str], **settings: Any) -> ViewDataset:
    config = ViewDataConfig(unit="object", normals=False, cache_decoded=False, **PLAIN, **settings)
    return ViewDataset(files, None, config, split="all")


@pytest.fixture(scope="module")
def stored(views24: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Codes and conditions of the objects that have views, with the empty conditions that precede real ones."""
    folder: Path = tmp_path_factory.mktemp("asked")
    tokens, conditions = [], []
    for kind in ("text", "image"):
        row: dict[str, Any] = {"uid": "", "sha256": "", "kind": kind, "encoder": kind, "index": -1}
        conditions.append(condition_row(**row, tokens=feature(999), pooled=feature(999)[0]))
    for sample in view_set(views24).samples(groups=None):
        uid, number = sample.uid, int(sample.uid[-3:])
        common = {"uid": uid, "sha256": hashlib.sha256(f"content {uid}".encode()).hexdigest()}
        tokens.append(token_row(**common, group=sample.group, tokens=codes_of(uid, sample.group)))
        if sample.group == 0:
            made = feature(number, 100)
            conditions.append(
                condition_row(**common, kind="text", encoder="text", index=0, tokens=made, pooled=made[0])
            )
        made, view = feature(number, sample.group), sample.encoder_ids[1]
        conditions.append(
            condition_row(
                **common, kind="image", encoder="image", index=view, tokens=made, pooled=made[0], group=sample.group
            )
        )
    paths = str(folder / "tokens.parquet"), str(folder / "conditions.parquet")
    schemas = tokens_schema("a" * 64, SCALES, 50), conditions_schema({"text": "text", "image": "image"})
    for path, rows, schema in zip(paths, (tokens, conditions), schemas, strict=True):
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=17)
    return paths


def token_set(stored: tuple[str, str], kind: Any, uids: list[str] | None = None) -> TokenDataset:
    return TokenDataset([stored[0]], [stored[1]], TokenDataConfig(condition=kind, **PLAIN), split="all", uids=uids)


def test_objects_are_spread_over_the_dataset(views24: list[str]) -> None:
    views = view_set(views24)
    assert object_uids(views) == [f"object{n:03}" for n in range(24)]
    assert spread_objects(views, 6) == [f"object{n:03}" for n in range(0, 24, 4)]
    assert len(spread_objects(views, 100)) == 24


def test_captions_ask_with_cached_features(stored: tuple[str, str], views24: list[str]) -> None:
    views, uids = view_set(views24), ["object020", "object003"]
    objects = PromptedObjects(token_set(stored, "text", uids), views, [*uids, "object999"], {"object003": "a thing"})
    assert [prompted.uid for prompted in objects] == uids
    prompted = pickle.loads(pickle.dumps(objects))[1]
    assert prompted.label == "a thing"
    assert objects[0].label == ""
    assert prompted.tokens.tolist() == codes_of("object003", 0)
    assert prompted.pictures is None
    assert np.array_equal(prompted.condition[0].numpy(), feature(3, 100))
    assert np.array_equal(prompted.pooled[0].numpy(), feature(3, 100)[0])
    true = next(views.samples(uids={"object003"}, views="all"))
    order = sorted(range(38), key=lambda i: true.supervision_ids[i])
    wanted = [order[i * 38 // 8] for i in range(8)]
    assert torch.equal(prompted.target.image, true.supervision.image[wanted])
    assert torch.equal(prompted.target.cameras, true.supervision.cameras[wanted])


def test_pictures_ask_with_views_that_were_held_out(stored: tuple[str, str], views24: list[str]) -> None:
    views, uids = view_set(views24, held_out=HeldOut(views=3)), ["object007"]
    prompted = PromptedObjects(token_set(stored, "image", uids), views, uids, {}, prompts=2)[0]
    assert prompted.condition is None
    apart = next(views.samples(uids={"object007"}, views="held_out"))
    assert prompted.pictures.shape[0] == 2
    torch.testing.assert_close(prompted.pictures, (apart.supervision.image[:2] + 1) / 2)
    everything = next(views.samples(uids={"object007"}, views="all"))
    assert set(apart.supervision_ids[:2]).isdisjoint(everything.encoder_ids)


def test_without_held_out_views_the_cached_one_asks(stored: tuple[str, str], views24: list[str]) -> None:
    uids = ["object011"]
    prompted = PromptedObjects(token_set(stored, "image", uids), view_set(views24), uids, {})[0]
    assert np.array_equal(prompted.condition[0].numpy(), feature(11, 0))
    true = next(view_set(views24).samples(uids={"object011"}, views="all"))
    shown = true.supervision.image[true.supervision_ids.index(true.encoder_ids[1])]
    torch.testing.assert_close(prompted.pictures[0], (shown + 1) / 2)


def test_one_account_of_each_object(stored: tuple[str, str]) -> None:
    dataset = token_set(stored, "image")
    once = pickle.loads(pickle.dumps(FirstGroupTokens(dataset)))
    order = dataset.order(0, 8)
    assert list(once.sizes) == list(dataset.sizes)
    pairs = zip(once.batches(order, 0), dataset.batches(order, 0), strict=False)
    groups = set()
    for (step, mine), (same, theirs) in itertools.islice(pairs, 6):
        assert step == same
        for (key, sample), (other, whole) in zip(mine, theirs, strict=True):
            assert (key, sample.uid, sample.group) == (other, whole.uid, whole.group)
            assert sample.tokens.tolist() == codes_of(sample.uid, 0)
            assert sample.tokens.dtype == torch.int64
            assert torch.equal(sample.condition, whole.condition)
            groups.add(sample.group)
    assert groups == set(range(GROUPS))
