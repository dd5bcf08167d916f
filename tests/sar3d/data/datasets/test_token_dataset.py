"""Codes with conditions: joined by object and view group, one condition drawn per sample, of the right VQVAE only."""

import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from sar3d.data.datasets.token_dataset import TokenDataConfig, TokenDataset, TokenSample
from sar3d.data.formats.conditions import condition_row, conditions_schema, decode_condition
from sar3d.data.formats.tokens import decode_tokens, token_row, tokens_info, tokens_schema
from sar3d.data.formats.views import split_of
from sar3d.data.loading.withheld import Withheld
from sar3d.errors import ObjectError, UserError

SCALES = (1, 2, 3)
LENGTH = 42
OBJECTS, GROUPS, CAPTIONS = 40, 4, 3
PLAIN = {"val": 0.0, "test": 0.0}


def content(uid: int) -> str:
    return f"{uid:064x}"


def codes_of(uid: int, group: int) -> np.ndarray:
    return np.random.default_rng([uid, group]).integers(0, 500, LENGTH)


def features(*key: int) -> np.ndarray:
    return np.random.default_rng(key).normal(size=(7, 16)).astype(np.float16)


def write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema, group_rows: int) -> str:
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for first in range(0, len(rows), group_rows):
            writer.write_table(pa.Table.from_pylist(rows[first : first + group_rows], schema=schema))
    return str(path)


def conditions_of(uid: int) -> list[dict[str, Any]]:
    common = {"uid": f"object{uid:03}", "sha256": content(uid)}
    rows = []
    for caption in range(CAPTIONS if uid % 8 else 0):
        text = features(uid, 100 + caption)
        rows.append(condition_row(**common, kind="text", encoder="words", index=caption, tokens=text, pooled=text[0]))
    for group in range(GROUPS):
        image = features(uid, group)
        rows.append(
            condition_row(
                **common, kind="image", encoder="eyes", index=20 + group, tokens=image, pooled=image[1], group=group
            )
        )
    return rows


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], list[str]]:
    """Files of tokens and conditions of 40 objects; every eighth has no captions."""
    folder = tmp_path_factory.mktemp("tokens")
    schemas = tokens_schema("a" * 64, SCALES, 500), conditions_schema({"text": "words", "image": "eyes"})
    tokens, conditions = [], []
    for part in range(2):
        uids = range(part * OBJECTS // 2, (part + 1) * OBJECTS // 2)
        rows = [token_row(f"object{u:03}", content(u), g, codes_of(u, g)) for u in uids for g in range(GROUPS)]
        tokens.append(write(folder / f"tokens{part}.parquet", rows, schemas[0], 24))
        rows = [row for u in uids for row in conditions_of(u)]
        conditions.append(write(folder / f"conditions{part}.parquet", rows, schemas[1], 13))
    return tokens, conditions


def check(sample: TokenSample, kind: str) -> None:
    uid = int(sample.uid.removeprefix("object"))
    assert sample.tokens.tolist() == codes_of(uid, sample.group).tolist()
    assert sample.tokens.dtype == torch.int64
    assert sample.condition is not None
    assert sample.pooled is not None
    assert sample.condition_id is not None
    expected = features(uid, sample.group if kind == "image" else 100 + sample.condition_id)
    assert np.array_equal(sample.condition.numpy(), expected)
    assert np.array_equal(sample.pooled.numpy(), expected[1 if kind == "image" else 0])
    assert sample.condition.dtype == torch.float16


def drawn(steps: Any, count: int) -> list[tuple[int, str, int, int | None]]:
    taken = list(itertools.islice(steps, count))
    steps.close()
    return [(key.index, s.uid, s.group, s.condition_id) for _, batch in taken for key, s in batch]


@pytest.mark.parametrize("keep", [0, 512 << 20])
@pytest.mark.parametrize(("kind", "objects"), [("text", 35), ("image", 40)])
def test_codes_come_with_a_condition_of_their_own(stored: Any, kind: Any, objects: int, keep: int) -> None:
    dataset = TokenDataset(*stored, TokenDataConfig(condition=kind, keep_bytes=keep, **PLAIN), split="all")
    assert dataset.size == objects * GROUPS
    assert dataset.without_condition == (OBJECTS - objects) * GROUPS
    for _, batch in itertools.islice(dataset.batches(dataset.order(0, 20)), dataset.size // 20):
        for _, sample in batch:
            check(sample, kind)


def test_captions_are_drawn_anew_each_time_and_all_of_them(stored: Any) -> None:
    dataset = TokenDataset(*stored, TokenDataConfig(condition="text", **PLAIN), split="all", uids=["object003"])
    order = dataset.order(0, 4)
    ids = [entry[3] for entry in drawn(dataset.batches(order), 30)]
    assert set(ids) == {0, 1, 2}
    assert min(ids.count(i) for i in range(3)) > 20


@pytest.mark.parametrize("keep", [0, 512 << 20])
def test_any_number_of_workers_draws_the_same_and_a_run_goes_on_where_it_stopped(stored: Any, keep: int) -> None:
    dataset = TokenDataset(*stored, TokenDataConfig(condition="text", keep_bytes=keep, **PLAIN), split="all")
    order = dataset.order(1, 8)
    alone = drawn(dataset.batches(order), 25)
    for world in (2, 4):
        copies = [pickle.loads(pickle.dumps(dataset)) for _ in range(world)]
        parts = [drawn(copy.batches(order, 0, rank, world), 25) for rank, copy in enumerate(copies)]
        share = 8 // world
        assert [e for step in range(25) for part in parts for e in part[step * share : (step + 1) * share]] == alone
    assert drawn(dataset.batches(order, start=10), 15) == alone[80:]


def test_codes_alone_need_no_conditions(stored: Any) -> None:
    dataset = TokenDataset(stored[0], config=TokenDataConfig(keep_bytes=0, **PLAIN), split="all")
    assert dataset.sizes.tolist() == [24, 24, 24, 8] * 2
    samples = list(dataset.samples(groups=[1]))
    assert [s.uid for s in samples] == [f"object{u:03}" for u in range(OBJECTS)]
    assert all(s.condition is None and s.group == 1 for s in samples)


def test_runs_that_share_row_groups_stay_together(stored: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sar3d.data.datasets.token_dataset._LEAST_BLOCK", 6000)
    monkeypatch.setattr("sar3d.data.datasets.token_dataset._TOKENS_SHARE", 0)
    dataset = TokenDataset(*stored, TokenDataConfig(condition="image", keep_bytes=0, **PLAIN), split="all")
    sizes = dataset.sizes
    assert sizes.sum() == dataset.size
    assert 8 < len(sizes) < 60
    before = dataset.bytes_fetched
    drawn(dataset.batches(dataset.order(0, 4, lanes=1)), dataset.size // 4 - 9)
    everything = dataset.index.weight + sum(Path(file).stat().st_size for file in stored[1])
    assert dataset.bytes_fetched - before < 2 * everything


def test_objects_are_split_by_content(stored: Any) -> None:
    config = TokenDataConfig(val=0.3, test=0.2)
    parts = {split: TokenDataset(stored[0], config=config, split=split) for split in ("train", "val", "test")}  # type: ignore[arg-type]
    assert sum(part.size for part in parts.values()) == OBJECTS * GROUPS
    for split, part in parts.items():
        assert {split_of(s.sha256, 0.3, 0.2) for s in part.samples()} == {split}


def test_withheld_objects_are_not_trained_on(stored: Any) -> None:
    config = TokenDataConfig(val=0.0, test=0.0)
    withheld = Withheld.of(["object001", "object004"])
    parts = {
        split: TokenDataset(stored[0], config=config, split=split, withheld=withheld)
        for split in ("train", "held_out")  # type: ignore[arg-type]
    }
    assert {s.uid for s in parts["held_out"].samples()} == {"object001", "object004"}
    assert parts["train"].size == (OBJECTS - 2) * GROUPS


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"vqvae": "b" * 64}, "tokens of the VQVAE aaaaaaaaaaaaaaaa, not of bbbbbbbbbbbbbbbb: cache the tokens again"),
        ({"config": TokenDataConfig(condition="text", encoder="clip")}, "no text features of clip, only words"),
        ({"config": TokenDataConfig(condition="text"), "uids": ["object000"]}, "no object has a text condition"),
    ],
)
def test_a_wrong_request_is_one_sentence(stored: Any, arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        TokenDataset(*stored, **{"split": "all", **arguments})


def test_other_datasets_are_refused(stored: Any, views24: list[str]) -> None:
    with pytest.raises(UserError, match="is not a tokens dataset"):
        TokenDataset(views24)
    with pytest.raises(UserError, match="is not a conditions dataset"):
        TokenDataset(stored[0], views24, TokenDataConfig(condition="text", **PLAIN))


def test_tokens_of_two_models_are_not_mixed(stored: Any, tmp_path: Path) -> None:
    other = write(
        tmp_path / "other.parquet", [token_row("x", content(1), 0, codes_of(1, 0))], tokens_schema("c", SCALES, 500), 1
    )
    with pytest.raises(UserError, match="different VQVAEs"):
        TokenDataset([stored[0][0], other])


def test_rows_come_back_through_parquet(stored: Any) -> None:
    table = pq.read_table(stored[0][0])
    info = tokens_info(table.schema, stored[0][0])
    assert (info.vqvae, info.scales, info.codebook_size, info.length) == ("a" * 64, SCALES, 500, LENGTH)
    tokens = decode_tokens(table.to_pylist()[5], info)
    assert (tokens.uid, tokens.group, tokens.tokens.tolist()) == ("object001", 1, codes_of(1, 1).tolist())
    condition = decode_condition(pq.read_table(stored[1][0]).to_pylist()[4 + 3])
    assert (condition.uid, condition.kind, condition.index, condition.group) == ("object001", "image", 20, 0)
    assert np.array_equal(condition.tokens, features(1, 0))


def test_what_cannot_be_stored_is_refused() -> None:
    with pytest.raises(UserError, match="codebook of 70000 entries"):
        tokens_schema("a", SCALES, 70000)
    large = np.full((1, 2), 1e6)
    with pytest.raises(ObjectError, match="half precision"):
        condition_row(uid="x", sha256="y", kind="text", encoder="e", index=0, tokens=large, pooled=large[0])
    info = tokens_info(tokens_schema("a", SCALES, 500), "file")
    with pytest.raises(ObjectError, match="not 42 indices below 500"):
        decode_tokens({"uid": "x", "sha256": "y", "group": 0, "codes": [500] * 42}, info)
