"""Transfers against a server that fails in every way we know: the right bytes arrive, or nothing does."""

import base64
import hashlib
import pickle
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))
from hub_server import Fault, Hub, glb, serve

from pipelines.sources.files import check_file
from pipelines.sources.transfer import Transfer, TransferConfig, TransferError, transfer

BODY = glb(50_000)
CONFIG = TransferConfig(
    attempts=4, backoff_s=0.01, stall_timeout_s=0.5, connect_timeout_s=1, speed_window_s=0.3, retry_after_max_s=0.4
)
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve() as hub:
        hub.files["a.glb"] = BODY
        yield hub


@pytest.fixture
def mirror() -> Iterator[Hub]:
    """A plain file server: no redirect, no checksum."""
    with serve(redirect=False, etags=False) as hub:
        hub.files["a.glb"] = BODY
        yield hub


def bring(hub: Hub, folder: Path, config: TransferConfig = CONFIG, name: str = "a.glb") -> Transfer:
    return transfer(f"{hub.url}/{name}", folder / name, config, check_file)


def failure(hub: Hub, folder: Path, config: TransferConfig = CONFIG, name: str = "a.glb") -> TransferError:
    with pytest.raises(TransferError) as caught:
        bring(hub, folder, config, name)
    assert list(folder.iterdir()) == [], "a failed transfer left something behind"
    assert f"{hub.url}/{name}" in caught.value.reason
    return caught.value


def test_a_file_arrives_whole_with_its_checksum(hub: Hub, tmp_path: Path) -> None:
    done = bring(hub, tmp_path / "deep" / "folder")
    assert (tmp_path / "deep" / "folder" / "a.glb").read_bytes() == BODY
    assert (done.bytes, done.sha256, done.attempts) == (len(BODY), hashlib.sha256(BODY).hexdigest(), 1)
    assert [p.name for p in (tmp_path / "deep" / "folder").iterdir()] == ["a.glb"]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_passing_errors_are_tried_again(hub: Hub, tmp_path: Path, status: int) -> None:
    hub.faults["a.glb"] = [Fault(status=status)] * 3
    assert bring(hub, tmp_path).attempts == 4
    assert (tmp_path / "a.glb").read_bytes() == BODY


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_final_errors_are_not_tried_again(hub: Hub, tmp_path: Path, status: int) -> None:
    hub.always["a.glb"] = Fault(status=status)
    error = failure(hub, tmp_path)
    assert (error.kind, error.attempts, len(hub.log)) == (f"http_{status}", 1, 1)


def test_a_server_that_never_recovers_is_given_up(hub: Hub, tmp_path: Path) -> None:
    hub.always["a.glb"] = Fault(status=503)
    error = failure(hub, tmp_path)
    assert (error.kind, error.attempts, len(hub.log)) == ("http_503", 4, 4)
    assert "4 attempts" in error.reason
    again = pickle.loads(pickle.dumps(error))
    assert (again.kind, again.reason, again.attempts) == (error.kind, error.reason, error.attempts)


@pytest.mark.parametrize(
    "wish", ["0.2", "1", formatdate(time.time() + 3600, usegmt=True)], ids=["part of a second", "second", "date"]
)
def test_retry_after_is_honored_up_to_a_limit(hub: Hub, tmp_path: Path, wish: str) -> None:
    hub.faults["a.glb"] = [Fault(status=429, headers={"Retry-After": wish})]
    start = time.monotonic()
    bring(hub, tmp_path)
    # Only whole seconds and dates are valid; both exceed the limit of 0.4 s.
    waited = time.monotonic() - start
    assert waited < 0.4 if wish == "0.2" else 0.4 <= waited < 1.0


def test_a_cut_body_is_resumed_where_it_broke(hub: Hub, tmp_path: Path) -> None:
    hub.faults["a.glb"] = [Fault(cut=20_000), Fault(cut=10_000)]
    done = bring(hub, tmp_path)
    assert (tmp_path / "a.glb").read_bytes() == BODY
    assert hub.requests("a.glb") == [None, "bytes=20000-", "bytes=30000-"]
    assert (done.attempts, hub.bytes_sent) == (3, len(BODY))


def test_a_body_without_a_strong_tag_starts_from_zero(mirror: Hub, tmp_path: Path) -> None:
    mirror.faults["a.glb"] = [Fault(cut=20_000), Fault(cut=20_000, headers={"ETag": 'W/"weak"'})]
    assert bring(mirror, tmp_path).attempts == 3
    assert mirror.requests("a.glb") == [None, None, None]
    assert (tmp_path / "a.glb").read_bytes() == BODY


def test_a_file_that_changes_between_two_requests_is_never_mixed(hub: Hub, tmp_path: Path) -> None:
    other = glb(50_000, seed=1)
    hub.faults["a.glb"] = [Fault(cut=20_000, then=lambda: hub.files.update({"a.glb": other}))]
    assert bring(hub, tmp_path).attempts == 2
    assert (tmp_path / "a.glb").read_bytes() == other


def test_a_range_of_another_version_is_never_appended(mirror: Hub, tmp_path: Path) -> None:
    """No checksum to fall back on: the tag of the answer tells that it continues another body."""
    other = glb(50_000, seed=1)
    mirror.faults["a.glb"] = [
        Fault(cut=20_000, headers={"ETag": '"1"'}, then=lambda: mirror.files.update({"a.glb": other})),
        Fault(deaf=True, headers={"ETag": '"2"'}),
    ]
    assert bring(mirror, tmp_path).attempts == 3
    assert (tmp_path / "a.glb").read_bytes() == other


def test_a_change_that_the_server_hides_is_still_seen(hub: Hub, tmp_path: Path) -> None:
    """A CDN that ignores If-Range and keeps its tag: only the hub's own checksum tells."""
    other, same = glb(50_000, seed=1), {"ETag": '"same"'}
    hub.faults["a.glb"] = [
        Fault(cut=20_000, headers=same, then=lambda: hub.files.update({"a.glb": other})),
        Fault(headers=same),
    ]
    assert bring(hub, tmp_path).attempts == 3
    assert (tmp_path / "a.glb").read_bytes() == other


def test_a_file_that_shrinks_between_two_requests(hub: Hub, tmp_path: Path) -> None:
    short = glb(5_000, seed=1)
    hub.faults["a.glb"] = [
        Fault(cut=20_000, then=lambda: hub.files.update({"a.glb": short})),
        Fault(status=416),
    ]
    bring(hub, tmp_path)
    assert (tmp_path / "a.glb").read_bytes() == short


def test_a_stalled_body_is_dropped_and_resumed(hub: Hub, tmp_path: Path) -> None:
    hub.faults["a.glb"] = [Fault(cut=20_000, stall_s=3)]
    start = time.monotonic()
    assert bring(hub, tmp_path).attempts == 2
    assert time.monotonic() - start < 2
    assert (tmp_path / "a.glb").read_bytes() == BODY


def test_a_dripping_body_is_too_slow(hub: Hub, tmp_path: Path) -> None:
    hub.always["a.glb"] = hub.always["cdn:a.glb"] = Fault(drip_s=0.05)
    start = time.monotonic()
    with pytest.raises(TransferError, match=r"only \d+ bytes/s") as caught:
        bring(hub, tmp_path, TransferConfig(attempts=1, speed_window_s=0.3, minimum_bytes_per_s=10_000))
    assert (caught.value.kind, list(tmp_path.iterdir())) == ("timeout", [])
    assert time.monotonic() - start < 2


def test_the_deadline_holds_over_all_requests(hub: Hub, tmp_path: Path) -> None:
    hub.always["a.glb"] = Fault(status=500)
    start = time.monotonic()
    error = failure(hub, tmp_path, TransferConfig(attempts=1000, backoff_s=0.05, deadline_s=0.5))
    assert error.kind == "timeout"
    assert 1 < error.attempts < 20
    assert "0.5 s" in error.reason
    assert time.monotonic() - start < 1.5


@pytest.mark.parametrize(
    ("body", "kind", "attempts"),
    [
        (b"<!DOCTYPE html><html><body>Please wait</body></html>", "html_page", 4),
        (LFS, "git_lfs_pointer", 1),
        (b"", "empty_file", 4),
        (b'{"error": "not today"}', "malformed", 1),
        (BODY[:-100], "truncated", 4),
        (BODY + b"more", "length_mismatch", 1),
    ],
)
def test_a_wrong_body_under_status_200_is_reported(
    hub: Hub, tmp_path: Path, body: bytes, kind: str, attempts: int
) -> None:
    hub.always["a.glb"] = Fault(body=body)
    error = failure(hub, tmp_path)
    assert (error.kind, error.attempts) == (kind, attempts)


def test_an_error_page_that_passes_is_cured(hub: Hub, tmp_path: Path) -> None:
    hub.faults["a.glb"] = [Fault(body=b"<html>busy</html>")]
    bring(hub, tmp_path)
    assert (tmp_path / "a.glb").read_bytes() == BODY


def test_a_corrupted_body_is_tried_again_then_reported(hub: Hub, tmp_path: Path) -> None:
    hub.faults["a.glb"] = [Fault(corrupt=True)]
    assert bring(hub, tmp_path).attempts == 2
    assert (tmp_path / "a.glb").read_bytes() == BODY
    (tmp_path / "a.glb").unlink()
    hub.always["a.glb"] = Fault(corrupt=True)
    assert failure(hub, tmp_path).kind == "checksum"


@pytest.mark.parametrize(
    "header",
    [
        {"ETag": f'"{hashlib.sha256(BODY).hexdigest()}"'},
        {"Content-MD5": base64.b64encode(hashlib.md5(BODY).digest()).decode()},
        {"Digest": "sha-256=" + base64.b64encode(hashlib.sha256(BODY).digest()).decode()},
        {"Repr-Digest": "sha-256=:" + base64.b64encode(hashlib.sha256(BODY).digest()).decode() + ":"},
        {"Digest": "md5=" + base64.b64encode(hashlib.md5(BODY).digest()).decode() + ",sha=ignored"},
    ],
)
def test_every_kind_of_checksum_is_compared(mirror: Hub, tmp_path: Path, header: dict[str, str]) -> None:
    mirror.faults["a.glb"] = [Fault(headers=header, corrupt=True), Fault(headers=header)]
    assert bring(mirror, tmp_path).attempts == 2
    assert (tmp_path / "a.glb").read_bytes() == BODY


def test_a_tag_behind_a_redirect_is_no_checksum(hub: Hub, tmp_path: Path) -> None:
    """Content stores tag bodies with 64 hex digits of hashes of their own."""
    hub.faults["a.glb"] = [Fault(body=BODY, headers={"ETag": f'"{"ab" * 32}"'})]
    assert bring(hub, tmp_path).attempts == 1


def test_a_file_in_place_is_not_touched_by_a_failed_transfer(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "a.glb").write_bytes(b"old")
    hub.always["a.glb"] = Fault(corrupt=True)
    with pytest.raises(TransferError):
        bring(hub, tmp_path)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.glb", b"old")]


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(TransferError) as caught:
            transfer(f"http://127.0.0.1:{taken.getsockname()[1]}/a.glb", tmp_path / "a.glb", CONFIG)
    assert (caught.value.kind, caught.value.attempts) == ("connection", 4)


def test_a_server_that_accepts_and_says_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        config = TransferConfig(attempts=2, backoff_s=0.01, stall_timeout_s=0.2)
        with pytest.raises(TransferError) as caught:
            transfer(f"http://127.0.0.1:{silent.getsockname()[1]}/a.glb", tmp_path / "a.glb", config)
    assert (caught.value.kind, caught.value.attempts) == ("timeout", 2)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/a.glb", "a.glb", "http://"])
def test_what_is_no_http_url_is_refused_at_once(tmp_path: Path, url: str) -> None:
    with pytest.raises(TransferError) as caught:
        transfer(url, tmp_path / "a.glb", CONFIG)
    assert (caught.value.kind, caught.value.attempts) == ("bad_url", 1)


def test_many_threads_share_one_flaky_server(hub: Hub, tmp_path: Path) -> None:
    bodies = {f"{i}.glb": glb(30_000 + i, seed=i) for i in range(40)}
    hub.files |= bodies
    for i, name in enumerate(bodies):
        hub.faults[name] = [Fault(status=500), Fault(cut=1000 * i), Fault(status=503)][: i % 4]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: bring(hub, tmp_path, name=name), bodies))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == bodies


def test_two_transfers_to_one_name_do_not_disturb_each_other(hub: Hub, tmp_path: Path) -> None:
    hub.faults["a.glb"] = [Fault(cut=10_000), Fault(cut=25_000)]
    threads = [threading.Thread(target=bring, args=(hub, tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.glb", BODY)]
