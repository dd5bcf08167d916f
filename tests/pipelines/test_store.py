"""Commits on a file system and on a real (local) S3 server: the first record wins, and nothing is copied."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from object_store import ObjectStore

from pipelines.runtime.output import Output, ShardRecord
from pipelines.runtime.store import Store
from sar3d.errors import UserError


@pytest.fixture(params=["file", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return str(tmp_path / "root")
    return request.getfixturevalue("s3_root")


def write(path: Path, value: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"value": [value]}), path)
    return path


def record(name: str = "part-00000000-00000") -> ShardRecord:
    return ShardRecord(name, "", 1, 10, "0" * 64, "00" * 16)


def test_put_replaces_and_read_tells_absence(root: str) -> None:
    store = Store(root)
    assert store.read("a/b.txt") is None
    store.put("a/b.txt", b"one")
    store.put("a/b.txt", b"two")
    assert store.read("a/b.txt") == b"two"
    assert store.names("a") == ["a/b.txt"]
    assert store.folders() == ["a"]
    store.delete(["a/b.txt"])
    assert not store.exists("a/b.txt")


def test_create_has_exactly_one_winner(root: str) -> None:
    store = Store(root)
    barrier = threading.Barrier(8)

    def attempt(i: int) -> bool:
        barrier.wait()
        return store.create("decision", str(i).encode())

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(attempt, range(8)))
    assert sum(won) == 1
    assert store.read("decision") == str(won.index(True)).encode()


@pytest.mark.parametrize("times", [1, 2])
def test_a_commit_whose_answer_is_lost_holds(
    s3_root: str, object_store: ObjectStore, tmp_path: Path, times: int
) -> None:
    """The client sends it again and is refused, because its own first request was carried out."""
    left = [times]

    def lose_the_record(environ: dict[str, Any]) -> str | None:
        if left[0] and environ["REQUEST_METHOD"] == "PUT" and "/records/" in environ["PATH_INFO"]:
            left[0] -= 1
            return "lost"
        return None

    output = Output(s3_root, "toy", "0123456789abcdef")
    object_store.plan = lose_the_record
    try:
        kept, ours = output.commit(write(tmp_path / "a.parquet", 1), record())
    finally:
        object_store.plan = lambda environ: None
    assert (ours, left) == (True, [0])
    assert output.store.exists(kept.path)
    late, mine = output.commit(write(tmp_path / "b.parquet", 2), record())
    assert (late, mine) == (kept, False)
    assert output.store.exists(kept.path)


@pytest.mark.parametrize("fault", ["busy", "cut"])
def test_requests_that_fail_for_a_while_are_sent_again(s3_root: str, object_store: ObjectStore, fault: str) -> None:
    store, count = Store(s3_root), [0]

    def every_other(environ: dict[str, Any]) -> str | None:
        count[0] += 1
        return fault if count[0] % 2 else None

    object_store.plan = every_other
    try:
        store.put("a", b"one")
        assert store.create("b", b"two")
        assert (store.read("a"), store.read("b"), store.names()) == (b"one", b"two", ["a", "b"])
    finally:
        object_store.plan = lambda environ: None


def test_expired_credentials_are_one_sentence(s3_root: str, object_store: ObjectStore) -> None:
    object_store.plan = lambda environ: "expired"
    try:
        for ask in (lambda s: s.put("a", b"x"), lambda s: s.create("a", b"x"), lambda s: s.read("a")):
            with pytest.raises(UserError, match="expired") as caught:
                ask(Store(s3_root))
            assert "\n" not in str(caught.value)
    finally:
        object_store.plan = lambda environ: None


def test_a_late_attempt_changes_nothing(root: str, tmp_path: Path) -> None:
    output = Output(root, "toy", "0123456789abcdef")
    scratch = output.scratch() or tmp_path / "scratch"
    first, ours = output.commit(write(scratch / "a.parquet", 1), record())
    second, late = output.commit(write(scratch / "b.parquet", 2), record())
    assert (ours, late) == (True, False)
    assert second == first
    files = [n for n in output.store.names() if n.endswith(".parquet")]
    assert files == [first.path]
    with output.store._remote[0].open(f"{output.store._remote[1]}/{first.path}") as file:
        assert pq.read_table(file).to_pylist() == [{"value": 1}]


def test_a_rename_that_a_kill_interrupted_is_completed(tmp_path: Path) -> None:
    output = Output(str(tmp_path), "toy", "0123456789abcdef")
    scratch = output.scratch()
    assert scratch is not None
    kept, _ = output.commit(write(scratch / "a.parquet", 7), record())
    # As if the process had died between the record and the rename, and another one before its record.
    output.store.rename(kept.path, f"_state/attempts/{kept.shard}.{kept.attempt}.parquet")
    write(scratch / f"{kept.shard}.ffffffffffff.parquet", 8)
    write(scratch / ".part-00000000-00001.tmp" / "rows.parquet", 9)
    output.recover()
    assert pq.read_table(output.store.path(kept.path)).to_pylist() == [{"value": 7}]
    assert output.store.names("_state/attempts") == []


def test_s3_commits_without_copy_requests(s3_root: str, s3_requests: list[str], tmp_path: Path) -> None:
    output = Output(s3_root, "toy", "0123456789abcdef")
    output.commit(write(tmp_path / "a.parquet", 1), record())
    output.finish(output.records().values(), {})
    assert any(r.startswith("PUT") for r in s3_requests)
    assert not [r for r in s3_requests if " copied from " in r]


def test_a_missing_bucket_is_one_sentence(s3_root: str) -> None:
    with pytest.raises(UserError, match="cannot write under s3://no-such-bucket"):
        Store("s3://no-such-bucket/x").put("a", b"b")


def test_a_scheme_without_a_client_is_one_sentence() -> None:
    with pytest.raises(UserError, match="cannot use nosuch://x"):
        Store("nosuch://x").read("a")


@pytest.mark.usefixtures("_s3_environment")
def test_missing_credentials_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(UserError, match=r"cannot (reach|write under) s3://closed/x.*redentials"):
        Store("s3://closed/x").put("a", b"")
    s3fs.S3FileSystem.clear_instance_cache()
