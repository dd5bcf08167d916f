"""Two submissions at once: one works; the other waits, or says so; a dead holder is replaced."""

import json
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from pipelines.runtime import lease as lease_module
from pipelines.runtime.lease import Lease, is_held, newest
from pipelines.runtime.store import Store
from sar3d.errors import UserError


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "BEAT", 0.1)
    monkeypatch.setattr(lease_module, "PATIENCE", 1.0)


def hold(root: str, ready: "multiprocessing.synchronize.Event") -> None:
    lease_module.BEAT = 0.1
    with Lease(Store(root), "toy"):
        ready.set()
        time.sleep(60)


def other_process(root: Path) -> multiprocessing.Process:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=hold, args=(str(root), ready))
    process.start()
    assert ready.wait(30)
    return process


def test_a_living_holder_makes_the_second_say_so(tmp_path: Path) -> None:
    process = other_process(tmp_path)
    try:
        with pytest.raises(UserError, match=f"toy is being worked on by process {process.pid}"):
            Lease(Store(tmp_path.as_posix()), "toy").__enter__()
    finally:
        process.kill()
        process.join()


def test_waiting_takes_over_when_the_holder_ends(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    first = Lease(store, "toy")
    first.__enter__()
    threading.Timer(1.0, first.__exit__, (None, None, None)).start()
    started = time.monotonic()
    with Lease(store, "toy", wait=True):
        assert time.monotonic() - started > 0.8
        assert is_held(store)
    assert not is_held(store)


def test_a_killed_holder_of_this_machine_is_replaced_at_once(tmp_path: Path) -> None:
    process = other_process(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    started = time.monotonic()
    with Lease(Store(str(tmp_path)), "toy"):
        assert time.monotonic() - started < 0.5


def test_a_silent_holder_elsewhere_is_replaced_after_patience(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    gone = {"host": "far", "machine": "another", "pid": 1, "born": 0.0, "beat": 3, "released": False}
    store.put("lease/000007.json", json.dumps(gone).encode())
    started = time.monotonic()
    with Lease(store, "toy"):
        assert time.monotonic() - started >= 1.0
        assert newest(store)[0] > 7


def test_a_holder_that_was_replaced_learns_it(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with Lease(store, "toy") as first:
        number, _ = newest(store)
        store.put(f"lease/{number + 1:06d}.json", json.dumps({"released": False}).encode())
        assert first.lost.wait(5)
