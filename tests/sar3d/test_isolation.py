"""A child that hangs, leaks, crashes or lies costs its caller one typed error and nothing else."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sar3d.errors import ObjectError, UserError
from sar3d.isolation import LimitedProcess, Limits

HANDLERS = """
import ctypes, os, signal, subprocess, sys, time
from sar3d.errors import ObjectError

kept = []

def echo(request, blobs):
    return {"got": request, "pid": os.getpid()}, [bytes(reversed(b)) for b in blobs]

def act(request, blobs):
    what = request["do"]
    if what == "sleep":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(request["seconds"])
    elif what == "spin":
        while True:
            pass
    elif what == "hog":
        while True:
            kept.append(bytearray(os.urandom(1) * (8 << 20)))
            time.sleep(0.005)
    elif what == "leak":
        kept.append(b"x" * (request["mib"] << 20))
    elif what == "segv":
        print("reading a bad file", file=sys.stderr, flush=True)
        ctypes.string_at(0)
    elif what == "exit":
        os._exit(3)
    elif what == "object_error":
        raise ObjectError("truncated", "it ends early")
    elif what == "value_error":
        raise ValueError("bad number")
    elif what == "memory_error":
        raise MemoryError("64 GiB")
    elif what == "noise":
        ctypes.CDLL(None).puts(b"native noise on standard output")
        ctypes.CDLL(None).fflush(None)
        print("python noise")
        assert sys.stdin.read() == ""
    elif what == "flood":
        for _ in range(200):
            os.write(2, b"e" * (1 << 16))
            time.sleep(0.001)
        os.write(2, b"the end")
        os._exit(1)
    elif what == "forge":
        for fd in range(3, 20):
            try:
                os.write(fd, b"\\x02" + b"\\0" * 7 + b"[]")
            except OSError:
                continue
        time.sleep(30)
    elif what == "grandchild":
        pid = os.fork()
        if pid == 0:
            time.sleep(60)
        if request["then"] == "die":
            os._exit(7)
        return {"grandchild": pid}, []
    elif what == "huge_reply":
        return {}, [b"x" * request["bytes"]]
    return {"pid": os.getpid()}, []
"""

Make = Callable[..., LimitedProcess]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    (tmp_path / "handlers_for_test.py").write_text(HANDLERS)
    path = os.pathsep.join([str(tmp_path), *(p for p in sys.path if p)])
    made: list[LimitedProcess] = []

    def build(name: str = "act", seconds: float = 10.0, mib: int = 512, recycle_after: int = 200) -> LimitedProcess:
        limits = Limits(seconds, mib << 20)
        made.append(LimitedProcess(f"handlers_for_test:{name}", limits, recycle_after, {"PYTHONPATH": path}))
        return made[-1]

    yield build
    for process in made:
        process.close()


def failure(process: LimitedProcess, **request: object) -> ObjectError:
    with pytest.raises(ObjectError) as caught:
        process.call(dict(request))
    return caught.value


def gone(pid: int, seconds: float = 3.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def test_requests_and_blobs_travel_both_ways(make: Make) -> None:
    process = make("echo")
    big = os.urandom(5 << 20)
    request = {"text": "ünï\ud800", "number": 1.5, "list": [None, True]}
    reply, blobs = process.call(request, [b"abc", b"", big])
    assert reply["got"] == request
    assert blobs == [b"cba", b"", big[::-1]]


def test_one_child_serves_many_calls_with_little_overhead(make: Make) -> None:
    process = make("echo")
    process.call({})
    first = process.pid
    times = []
    for i in range(100):
        start = time.perf_counter()
        assert process.call({"i": i})[0]["got"] == {"i": i}
        times.append(time.perf_counter() - start)
    assert process.pid == first
    assert sorted(times)[50] < 0.003  # 0.1 ms on a quiet machine


def test_the_child_is_recycled_after_so_many_calls(make: Make) -> None:
    process = make("echo", recycle_after=2)
    pids = [process.call({})[0]["pid"] for _ in range(4)]
    assert pids[0] == pids[1] != pids[2] == pids[3]
    assert gone(pids[0])


@pytest.mark.parametrize("what", ["sleep", "spin"])
def test_a_hanging_child_is_killed_and_its_late_reply_is_never_seen(make: Make, what: str) -> None:
    process = make(seconds=0.4)
    process.call({"do": "nothing"})
    pid = process.pid
    start = time.monotonic()
    error = failure(process, do=what, seconds=0.8)
    assert error.kind == "timeout"
    assert "0.4 s" in error.reason
    assert time.monotonic() - start < 2.0
    assert pid is not None
    assert gone(pid)
    time.sleep(0.6)
    reply, _ = process.call({"do": "nothing"})
    assert reply["pid"] == process.pid != pid


def test_a_memory_hog_is_killed(make: Make) -> None:
    process = make(mib=200, seconds=30)
    error = failure(process, do="hog")
    assert error.kind == "memory"
    assert "200 MiB" in error.reason
    assert process.call({"do": "nothing"})[0]["pid"] == process.pid


def test_a_leak_is_not_charged_to_the_next_object(make: Make) -> None:
    process = make(mib=400)
    first = process.call({"do": "leak", "mib": 250})[0]["pid"]
    second = process.call({"do": "leak", "mib": 250})[0]["pid"]
    assert first != second


def test_a_segmentation_fault_names_the_signal_and_keeps_stderr(make: Make) -> None:
    process = make()
    error = failure(process, do="segv")
    assert error.kind == "crashed"
    assert "SIGSEGV" in error.reason
    assert "reading a bad file" in error.stderr
    assert process.call({"do": "nothing"})[0]["pid"] == process.pid


def test_an_exit_names_the_code(make: Make) -> None:
    error = failure(make(), do="exit")
    assert (error.kind, error.reason) == ("crashed", "its process ended with exit code 3")


def test_errors_of_the_handler_come_back_and_keep_the_child(make: Make) -> None:
    process = make()
    error = failure(process, do="object_error")
    pid = process.pid
    assert (error.kind, error.reason) == ("truncated", "it ends early")
    error = failure(process, do="value_error")
    assert (error.kind, error.reason) == ("internal", "ValueError: bad number")
    assert process.pid == pid


def test_running_out_of_memory_ends_the_child(make: Make) -> None:
    process = make()
    error = failure(process, do="memory_error")
    assert error.kind == "memory"
    assert process.pid is None


def test_prints_of_native_code_do_not_corrupt_the_protocol(make: Make) -> None:
    process = make()
    for _ in range(3):
        assert process.call({"do": "noise"})[0]["pid"] == process.pid


def test_a_flood_of_stderr_is_bounded_and_its_end_is_kept(make: Make) -> None:
    error = failure(make(), do="flood")
    assert error.kind == "crashed"
    assert error.stderr.endswith("the end")
    assert len(error.stderr) <= 2048


def test_stderr_of_an_earlier_call_is_not_attached(make: Make) -> None:
    process = make()
    process.call({"do": "noise"})
    assert "noise" not in failure(process, do="object_error").stderr


def test_a_forged_reply_is_a_crash(make: Make) -> None:
    error = failure(make(), do="forge")
    assert (error.kind, error.reason) == ("crashed", "its process broke the reply protocol")


def test_a_reply_beyond_the_memory_limit_is_refused_unread(make: Make) -> None:
    process = make(mib=300)
    assert len(process.call({"do": "huge_reply", "bytes": 1000})[1][0]) == 1000
    tight = make(mib=40)
    assert failure(tight, do="huge_reply", bytes=60 << 20).kind == "memory"


def test_a_grandchild_neither_hides_a_death_nor_survives(make: Make) -> None:
    process = make(seconds=20)
    start = time.monotonic()
    error = failure(process, do="grandchild", then="die")
    assert error.reason == "its process ended with exit code 7"
    assert time.monotonic() - start < 10
    grandchild = process.call({"do": "grandchild", "then": "live"})[0]["grandchild"]
    process.close()
    assert gone(grandchild)


def test_a_child_killed_while_idle_is_replaced(make: Make) -> None:
    process = make("echo")
    process.call({})
    pid = process.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)
    assert process.call({}, [b"x" * (4 << 20)])[0]["pid"] != pid


def test_a_child_that_dies_under_a_big_request_is_a_crash_not_a_broken_pipe(make: Make) -> None:
    process = make("echo", mib=2000)
    process.call({})
    pid = process.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)  # so that the request does not fit into the pipe
    killer = threading.Timer(0.3, os.kill, (pid, signal.SIGKILL))
    killer.start()
    with pytest.raises(ObjectError) as caught:
        process.call({}, [b"x" * (32 << 20)])
    killer.join()
    assert caught.value.kind == "crashed"
    assert "SIGKILL" in caught.value.reason


def test_the_child_outlives_the_thread_that_started_it(make: Make) -> None:
    process = make("echo")
    starter = threading.Thread(target=process.call, args=({},))
    starter.start()
    starter.join()
    pid = process.pid
    time.sleep(0.2)
    assert process.call({})[0]["pid"] == pid


def test_a_child_dies_with_its_parent_even_when_busy(tmp_path: Path) -> None:
    (tmp_path / "handlers_for_test.py").write_text(HANDLERS)
    program = textwrap.dedent(f"""
        import sys, threading, time
        sys.path.insert(0, {str(tmp_path)!r})
        from sar3d.isolation import LimitedProcess, Limits
        process = LimitedProcess("handlers_for_test:act", Limits(60, 1 << 30))
        process.call({{"do": "nothing"}})
        threading.Thread(target=process.call, args=({{"do": "spin"}},), daemon=True).start()
        time.sleep(0.3)
        print(process.pid, flush=True)
        time.sleep(60)
    """)
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert not gone(pid, seconds=0.2)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone(pid)


@pytest.mark.parametrize("target", ["no_such_module:handle", "handlers_for_test:no_such_name"])
def test_a_target_that_cannot_be_imported_is_the_users_error(make: Make, target: str) -> None:
    process = LimitedProcess(target, Limits(5, 1 << 30))
    with pytest.raises(UserError, match="cannot start"):
        process.call({})
    assert process.pid is None
