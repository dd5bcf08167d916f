"""Actors that keep a stage's state: opened once, replaced when they die, gone at the end."""

import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray
import toy
import toy_stateful
from toy_stateful import StatefulConfig, StatefulStage

from pipelines.runtime import pool
from pipelines.runtime.engine import run_stage
from pipelines.runtime.output import Output, outputs
from pipelines.runtime.stage import StageReport
from sar3d.errors import UserError

pytestmark = pytest.mark.usefixtures("local_ray")
ray.cloudpickle.register_pickle_by_value(toy_stateful)


def run(tmp_path: Path, **settings: object) -> StageReport:
    (tmp_path / "trace").mkdir(exist_ok=True)
    config = StatefulConfig(**{"shard_objects": 4, "cpus": 0.5, "trace": str(tmp_path / "trace"), **settings})
    pipeline = toy.toy_pipeline(root=str(tmp_path / "root"), toy=config)
    return run_stage(StatefulStage(), pipeline, log=lambda _: None)


def rows(tmp_path: Path, report: StageReport) -> list[tuple[str, int]]:
    files = Output(str(tmp_path / "root"), "toy", report.fingerprint).files()
    return [(r["uid"], r["value"]) for f in files for r in pq.read_table(f).to_pylist()]


def traces(tmp_path: Path) -> Counter[str]:
    return Counter(p.name.split(".")[0] for p in (tmp_path / "trace").iterdir())


def free_cpus() -> float:
    return float(ray.available_resources().get("CPU", 0))


def test_state_is_opened_once_for_many_shards(tmp_path: Path) -> None:
    report = run(tmp_path, count=40, workers=2)
    assert (report.state, report.rows, report.shards_run) == ("done", 40, 10)
    assert rows(tmp_path, report) == [(f"{i:06d}", 3 * i) for i in range(40)]
    assert traces(tmp_path)["opened"] in (1, 2)
    deadline = time.monotonic() + 20
    while free_cpus() < 2:
        assert time.monotonic() < deadline, "the actors hold their CPUs after the stage has ended"
        time.sleep(0.1)


def test_a_killed_worker_is_replaced_and_its_shard_made_again(tmp_path: Path) -> None:
    report = run(tmp_path, count=40, workers=2, deadly=(6, 21))
    assert rows(tmp_path, report) == [(f"{i:06d}", 3 * i) for i in range(40)]
    done = traces(tmp_path)
    assert {name for name in done if name.startswith("killed")} == {"killed-at-000006", "killed-at-000021"}
    assert done["opened"] in (3, 4)
    assert {uid for uid, n in done.items() if n == 2 and uid[0] == "0"} == {"000004", "000005", "000020"}


def test_a_shard_that_kills_every_worker_stops_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "LOSSES", 2)
    with pytest.raises(UserError, match=r"part-\w+-00001 was lost more than 2 times with its worker"):
        run(tmp_path, count=12, workers=1, deadly=(5,), once=False)
    assert len(next(outputs(str(tmp_path / "root"), "toy")).records()) >= 1, "what was done is kept"


@pytest.mark.parametrize(
    ("where", "sentence"), [("open", "there is no model to open"), ("process", "the model has changed")]
)
def test_what_a_worker_refuses_is_one_sentence(tmp_path: Path, where: str, sentence: str) -> None:
    with pytest.raises(UserError, match=f"^{sentence}"):
        run(tmp_path, refuses=where)


def test_failed_objects_and_the_ceiling_are_as_with_tasks(tmp_path: Path) -> None:
    report = run(tmp_path, count=20, bad=(3,))
    assert (report.rows, report.failures) == (19, 1)
    with pytest.raises(UserError, match=r"objects failed, more than max_failure_rate=0\.2"):
        run(tmp_path, count=160, factor=5, bad=tuple(range(0, 160, 3)))


def test_a_worker_that_finds_no_room_holds_up_nothing(tmp_path: Path) -> None:
    # Eight workers are wanted where four have room: shards go only to those that run.
    report = run(tmp_path, count=48, workers=8)
    assert rows(tmp_path, report) == [(f"{i:06d}", 3 * i) for i in range(48)]
