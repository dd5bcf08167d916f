"""The stage engine on a real local Ray: commit, resume, growth, failures, exit sentences."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray
import toy
from toy import ToyConfig, ToyStage, toy_pipeline

from pipelines.runtime.cluster import ClusterConfig
from pipelines.runtime.engine import Options, run_stage
from pipelines.runtime.output import Output, outputs
from pipelines.runtime.pipeline import Pipeline
from sar3d.errors import UserError

pytestmark = pytest.mark.usefixtures("local_ray")
ray.cloudpickle.register_pickle_by_value(toy)


def config(root: Path, **settings: object) -> Pipeline:
    return toy_pipeline(root=str(root), toy=ToyConfig(**{"shard_objects": 8, **settings}))


def run(root: Path, **settings: object):
    return run_stage(ToyStage(), config(root, **settings), log=lambda _: None)


def rows(root: Path, fingerprint: str) -> list[tuple[str, int]]:
    files = Output(str(root), "toy", fingerprint).files()
    return [(r["uid"], r["value"]) for f in files for r in pq.read_table(f).to_pylist()]


def done_items(trace: Path) -> Counter[str]:
    return Counter(p.name.split(".")[0] for p in trace.iterdir())


def test_output_is_complete_and_described(tmp_path: Path) -> None:
    report = run(tmp_path, count=20, bad=(5,))
    assert (report.state, report.objects, report.rows, report.failures) == ("done", 20, 19, 1)
    folder = tmp_path / "toy" / report.fingerprint
    assert rows(tmp_path, report.fingerprint) == [(f"{i:06d}", 3 * i) for i in range(20) if i != 5]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [s["items"] for s in manifest["shards"]] == [8, 8, 4]
    for shard in manifest["shards"]:
        assert Output(str(tmp_path), "toy", report.fingerprint).store.size(shard["path"]) == shard["bytes"]
    failure = pq.read_table(folder / "failures.parquet").to_pylist()
    assert list(failure[0]) == ["uid", "path", "stage", "error", "reason", "attempts", "stderr"]
    assert failure[0]["uid"] == "000005"
    assert json.loads((folder / "_SUCCESS").read_text())["seconds"] > 0
    assert not list((folder / "_state" / "attempts").iterdir())
    assert "factor: 3" in (folder / "artifacts" / "config.yaml").read_text()
    assert "000005" in (folder / "artifacts" / "failures.csv").read_text()


def test_second_run_does_nothing(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.mkdir()
    first = run(tmp_path / "r", trace=str(trace))
    second = run(tmp_path / "r", trace=str(trace))
    assert second.state == "reused"
    assert second.fingerprint == first.fingerprint
    assert set(done_items(trace).values()) == {1}


def test_hardware_settings_do_not_change_the_fingerprint_but_results_do(tmp_path: Path) -> None:
    first = run(tmp_path)
    assert run(tmp_path, workers=1, seconds=0.001, cpus=0.5).fingerprint == first.fingerprint
    assert run(tmp_path, factor=4).fingerprint != first.fingerprint


def test_growth_refers_to_committed_shards(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.mkdir()
    run(tmp_path / "r", count=16, trace=str(trace))
    grown = run(tmp_path / "r", count=27, trace=str(trace))
    assert (grown.rows, grown.shards_reused, grown.shards_run) == (27, 2, 2)
    assert set(done_items(trace).values()) == {1}
    assert sorted(rows(tmp_path / "r", grown.fingerprint)) == [(f"{i:06d}", 3 * i) for i in range(27)]
    folder = tmp_path / "r" / "toy" / grown.fingerprint
    assert len(list(folder.glob("part-*.parquet"))) == 4, "referred shards stand in the folder under their own names"


def test_shrinking_recomputes_only_the_cut_shard(tmp_path: Path) -> None:
    run(tmp_path, count=20)
    shrunk = run(tmp_path, count=13)
    assert (shrunk.shards_reused, shrunk.shards_run, shrunk.rows) == (1, 1, 13)


def test_failed_objects_are_tried_again_when_asked(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.mkdir()
    assert run(tmp_path / "r", bad=(3, 9), trace=str(trace)).failures == 2
    again = run(tmp_path / "r", bad=(9,), retry=1, trace=str(trace))
    assert (again.failures, again.rows) == (1, 19)
    counts = done_items(trace)
    assert {uid for uid, n in counts.items() if n == 2} == {"000003", "000009"}
    assert Counter(uid for uid, _ in rows(tmp_path / "r", again.fingerprint)).most_common(1)[0][1] == 1


@pytest.mark.acceptance("A failure-rate ceiling is one clear sentence; what was done and the failures are kept")
def test_ceiling_stops_and_keeps_what_was_done(tmp_path: Path) -> None:
    many = config(tmp_path, count=400, bad=tuple(range(0, 400, 3)))
    with pytest.raises(
        UserError, match=r"objects failed, more than max_failure_rate=0\.2, all as bad \(this one is bad\)"
    ):
        run_stage(ToyStage(), many, log=lambda _: None)
    output = next(outputs(str(tmp_path), "toy"))
    assert output.finished() is None
    assert len(output.records()) >= 12
    assert len(output.failures()) >= 30
    allowed = dataclasses.replace(many, max_failure_rate=0.5)
    assert run_stage(ToyStage(), allowed, log=lambda _: None).failures == 134


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"every one of its 4 objects failed, all as bad \(this one is bad\)"):
        run(tmp_path, count=4, bad=(0, 1, 2, 3))


def test_dry_run_changes_nothing_and_says_why(tmp_path: Path) -> None:
    planned = run_stage(ToyStage(), config(tmp_path / "r"), Options(dry_run=True), log=lambda _: None)
    assert planned.state == "planned"
    assert "20 of 20 objects in 3 shards" in planned.why
    assert not (tmp_path / "r").exists()
    run(tmp_path / "r", count=16)
    planned = run_stage(ToyStage(), config(tmp_path / "r"), Options(dry_run=True), log=lambda _: None)
    assert "refer to earlier shards" in planned.why
    assert "4 of 20 objects" in planned.why


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no space is left there"):
        run(tmp_path, full_disk=True)


def test_an_unwritable_root_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="a part of the path is a file"):
        run(tmp_path / "file" / "root")


def test_unfinished_shards_with_another_shard_size_keep_the_first_plan(tmp_path: Path) -> None:
    report = run(tmp_path, count=20)
    folder = tmp_path / "toy" / report.fingerprint
    (folder / "_SUCCESS").unlink()
    victim = sorted((folder / "_state" / "records").iterdir())[1]
    victim.unlink()
    again = run(tmp_path, count=20, shard_objects=3)
    assert (again.shards_run, again.shards_reused) == (1, 2)
    assert rows(tmp_path, again.fingerprint) == [(f"{i:06d}", 3 * i) for i in range(20)]


def test_a_task_that_no_node_can_run_is_one_sentence(tmp_path: Path) -> None:
    impatient = dataclasses.replace(config(tmp_path, cpus=64.0), cluster=ClusterConfig(patience=1.0))
    said: list[str] = []
    with pytest.raises(UserError, match="the cluster has not got a node with 64 CPUs and 0 GPUs"):
        run_stage(ToyStage(), impatient, log=said.append)
    assert any("waiting up to 1 s" in line for line in said)
