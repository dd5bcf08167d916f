"""`sar3d verify`: a sound cache passes; changed bytes, codes and features are found, each said in one sentence."""

import argparse
import dataclasses
import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rendered
import torch

from pipelines.cache_conditions import CacheConditionsStage
from pipelines.cache_tokens import CacheTokensStage
from pipelines.runtime.output import Output
from pipelines.verify import Tolerance, add_command, damaged, sample_of, verify
from sar3d.errors import UserError

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def sound(local_ray: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with both caches."""
    root = tmp_path_factory.mktemp("verify") / "root"
    shutil.copytree(rendered.root(), root, ignore=shutil.ignore_patterns("cache_*"))
    config = rendered.configure(root, "cache_conditions.text=none")
    for stage in (CacheTokensStage(), CacheConditionsStage()):
        rendered.run(stage, config)
    return root


def check(root: Path, sample: int = 2, **tolerance: float) -> tuple[int, list[str]]:
    said: list[str] = []
    config = rendered.configure(root, "cache_conditions.text=none")
    return verify(config, sample, 0, Tolerance(**tolerance), said.append), said


def rewrite(root: Path, stage: str, change: Callable[[list[dict[str, Any]]], None], honest: bool) -> None:
    """Change the rows of every shard of a stage's output; `honest`: and the digests in the manifest with them."""
    (folder,) = [p for p in (root / stage).iterdir() if (p / "_SUCCESS").exists()]
    manifest = json.loads((folder / "manifest.json").read_text())
    for shard in manifest["shards"]:
        table = pq.read_table(folder / shard["path"])
        rows = table.to_pylist()
        change(rows)
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), folder / shard["path"])
        if honest:
            shard["sha256"] = hashlib.sha256((folder / shard["path"]).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def one_code_of_each(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        row["codes"][100] = (row["codes"][100] + 1) % 1024


def other_features(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        noise = np.random.default_rng(0).normal(0, 1, len(row["pooled"]) // 2)
        row["pooled"] = (np.frombuffer(row["pooled"], "<f2") + noise).astype("<f2").tobytes()


def test_a_sound_cache_passes(sound: Path) -> None:
    code, said = check(sound)
    assert code == 0
    assert any("cache_tokens: 2 items sampled, 8 rows made again, codes equal 1" in line for line in said)
    assert any(line.startswith("cache_conditions: 2 items sampled") and "cosine at least" in line for line in said)


def test_changed_codes_are_found_and_a_tolerance_forgives_a_few(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path / "root")
    rewrite(tmp_path / "root", "cache_tokens", one_code_of_each, honest=True)
    code, said = check(tmp_path / "root")
    assert code == 1
    (error,) = [line for line in said if line.startswith("error:")]
    assert "cache_tokens: the cache does not agree with its inputs: codes equal 0.9995" in error
    assert "run `sar3d cache_tokens` again" in error
    assert check(tmp_path / "root", agree=0.99)[0] == 0


def test_changed_features_are_found(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path / "root")
    rewrite(tmp_path / "root", "cache_conditions", other_features, honest=True)
    code, said = check(tmp_path / "root")
    assert code == 1
    assert any("error: cache_conditions: the cache does not agree with its inputs: cosine at least" in s for s in said)


def test_rows_that_are_missing_are_found(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path / "root")
    rewrite(tmp_path / "root", "cache_tokens", lambda rows: rows.pop(), honest=True)
    code, said = check(tmp_path / "root", sample=rendered.OBJECTS)
    assert code == 1
    assert any("3 of 20 rows that it should hold are not there" in line for line in said)


def test_a_shard_that_is_not_what_was_committed_is_named(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path / "root")
    rewrite(tmp_path / "root", "cache_tokens", one_code_of_each, honest=False)
    code, said = check(tmp_path / "root")
    assert code == 1
    assert any("has changed since it was committed" in line for line in said)
    (folder,) = [p for p in (tmp_path / "root" / "cache_tokens").iterdir() if (p / "_SUCCESS").exists()]
    for shard in folder.glob("part-*.parquet"):
        shard.unlink()
    assert "is missing" in (damaged(Output(str(tmp_path / "root"), "cache_tokens", folder.name)) or "")


def test_nothing_cached_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing to verify under .*: run `sar3d cache_tokens` or"):
        check(tmp_path)


def test_a_sample_is_drawn_evenly_and_repeats() -> None:
    assert sample_of(range(5), 9, random.Random(0)) == [0, 1, 2, 3, 4]
    assert sample_of(range(1000), 10, random.Random(3)) == sample_of(range(1000), 10, random.Random(3))
    counts = np.zeros(20)
    for seed in range(2000):
        counts[sample_of(range(20), 5, random.Random(seed))] += 1
    assert counts.min() > 400
    assert counts.max() < 600


def test_the_command_line_takes_its_options() -> None:
    parser = argparse.ArgumentParser()
    add_command(parser.add_subparsers())
    parsed = parser.parse_args(["verify", "--config", "x.yaml", "--sample", "8", "--agree", "0.99", "root=/r"])
    assert (parsed.sample, parsed.seed, parsed.agree, parsed.overrides) == (8, 0, 0.99, ["root=/r"])
    assert dataclasses.asdict(Tolerance()) == {"agree": 1.0, "cosine": 0.999}
