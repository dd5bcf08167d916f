"""Run untrusted work in a long-lived child process with a time limit and a resident-memory limit.

The child parses hostile files and drives native libraries, so it may hang, leak, crash or lie. The parent therefore
speaks a small bounded protocol with it (a JSON header and raw blobs, never pickle), watches clock and memory while it
waits, and kills the child's whole process group on a breach. Linux only (/proc, prctl).

Frame, both ways: 8 bytes little-endian header length, JSON header, then the blobs whose lengths the header lists.
"""

import contextlib
import ctypes
import faulthandler
import fcntl
import importlib
import json
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any

from sar3d.errors import ObjectError, UserError

Json = dict[str, Any]
Handler = Callable[[Json, list[bytes]], tuple[Json, Sequence["bytes | bytearray | memoryview"]]]

_STARTUP_SECONDS = 120.0
_TICK_SECONDS = 0.05
_MAX_HEADER_BYTES = 16 << 20
_MAX_STDERR_BYTES = 1 << 20
_STDERR_TAIL_BYTES = 2048
_PIPE_BYTES = 1 << 20
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_F_SETPIPE_SZ = 1031
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Limits:
    """What one call may use."""

    seconds: float = 60.0
    """Wall-clock time of one call, sending the request included; starting the child is not charged to the call."""
    rss_bytes: int = 4 << 30
    """Resident memory of the child. Not an address-space limit: GL drivers reserve far more than they use. It is
    sampled every 50 ms, so a burst may overshoot briefly. A reply may not be larger than this either."""


class LimitedProcess:
    """A child process that runs `target` ("module:function") once per call. One caller at a time.

    The target is `handler(request, blobs) -> (reply, blobs)`; it runs in the child's main thread. The child starts at
    the first call and again at the first call after it ended: by a breach, a crash, `recycle_after` calls, or when
    more than half of the memory that a call may use is still resident after it, so that a leak is never charged to the
    next object. `env` holds variables set in the child on top of the parent's.
    """

    def __init__(
        self, target: str, limits: Limits, recycle_after: int = 200, env: Mapping[str, str] | None = None
    ) -> None:
        self._target = target
        self._limits = limits
        self._recycle_after = recycle_after
        self._env = dict(env or {})
        self._child: _Child | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the running child, None before the first call and after a kill."""
        return None if self._child is None else self._child.process.pid

    def call(self, request: Json, blobs: Sequence[bytes] = ()) -> tuple[Json, list[bytes]]:
        """Run the handler once.

        Raises ObjectError: `timeout`, `memory` (limit breached, the child is gone), `crashed` (the child died or broke
        the protocol), the kind the handler raised, or `internal` for any other exception of the handler.
        Raises UserError when the child cannot be started at all.
        """
        child = self._running()
        child.calls += 1
        child.drop_stderr()
        try:
            reply, payload = child.exchange({"request": request, "call": child.calls}, blobs, self._limits)
        except ObjectError as error:
            tail = self._discard()
            raise ObjectError(error.kind, error.reason, tail) from None
        except BaseException:
            self._discard()
            raise
        return self._outcome(child, reply, payload)

    def close(self) -> None:
        """Kill the child, if any. The object may be used again; the next call starts a new child."""
        self._discard()

    def __enter__(self) -> "LimitedProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _running(self) -> "_Child":
        if self._child is not None and self._child.process.poll() is not None:
            self._discard()
        if self._child is None:
            self._child = _Child(self._target, self._env)
            self._await_ready(self._child)
        return self._child

    def _await_ready(self, child: "_Child") -> None:
        try:
            reply, _ = child.exchange(None, (), Limits(_STARTUP_SECONDS, self._limits.rss_bytes))
            failure = reply.get("error")
        except ObjectError as error:
            failure = ["start", error.reason]
        except BaseException:
            self._discard()
            raise
        if failure:
            tail = self._discard().strip()
            raise UserError(f"The worker process for {self._target} cannot start: {failure[1]}. {tail}".strip())
        child.resident_at_start = child.resident_bytes()

    def _outcome(self, child: "_Child", reply: Json, payload: list[bytes]) -> tuple[Json, list[bytes]]:
        error = reply.get("error")
        tail = "" if error is None else child.stderr_tail()
        out_of_memory = error is not None and error[0] == "memory"
        bloated = 2 * child.resident_bytes() > self._limits.rss_bytes + child.resident_at_start
        if out_of_memory or bloated or child.calls >= self._recycle_after:
            self._discard()
        if error is not None:
            raise ObjectError(str(error[0]), str(error[1]), tail)
        return reply["reply"], payload

    def _discard(self) -> str:
        """Kill the child and return the tail of its stderr."""
        child, self._child = self._child, None
        return "" if child is None else child.kill()


class _Child:
    """One started process and the parent's ends of its pipes. Closing these pipes with the process is what keeps a
    late reply from ever reaching a later call."""

    def __init__(self, target: str, env: Mapping[str, str]) -> None:
        self.stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed by kill()
        # Appending makes the child go on at the new end after the parent truncates the file.
        os.set_inheritable(self.stderr.fileno(), False)
        _append_mode(self.stderr.fileno())
        # The kernel sends the death signal when the thread that forked ends, so a thread that never ends must fork.
        self.process = _spawner().submit(_spawn, target, env, self.stderr).result()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.to_child, self.from_child = self.process.stdin.fileno(), self.process.stdout.fileno()
        for fd in (self.to_child, self.from_child):
            os.set_blocking(fd, False)
            with contextlib.suppress(OSError):  # a refused larger pipe only costs throughput
                _enlarge_pipe(fd)
        self.calls = 0
        self.resident_at_start = 0
        self.next_check = 0.0

    def exchange(self, header: Json | None, blobs: Sequence[bytes], limits: Limits) -> tuple[Json, list[bytes]]:
        """Send one frame (none at start-up) and receive one, under the limits."""
        deadline = time.monotonic() + limits.seconds
        if header is not None:
            self._send(header, blobs, deadline, limits)
        (size,) = struct.unpack("<Q", self._receive(8, deadline, limits))
        if size > _MAX_HEADER_BYTES:
            raise ObjectError("crashed", "its process answered with an oversized header")
        reply, lengths = _checked_reply(self._receive(size, deadline, limits), self.calls, limits.rss_bytes)
        return reply, [bytes(self._receive(n, deadline, limits)) for n in lengths]

    def _send(self, header: Json, blobs: Sequence[bytes], deadline: float, limits: Limits) -> None:
        for part in _frame(header, blobs):
            view = memoryview(part).cast("B")
            while len(view):
                try:
                    view = view[os.write(self.to_child, view) :]
                except BlockingIOError:
                    self._wait(self.to_child, select.POLLOUT, deadline, limits)
                except BrokenPipeError:
                    raise self._death() from None

    def _receive(self, size: int, deadline: float, limits: Limits) -> bytearray:
        buffer = bytearray(size)
        view = memoryview(buffer)
        while len(view):
            try:
                count = os.readv(self.from_child, [view])
            except BlockingIOError:
                self._wait(self.from_child, select.POLLIN, deadline, limits)
                continue
            if count == 0:
                raise self._death()
            view = view[count:]
        return buffer

    def _wait(self, fd: int, events: int, deadline: float, limits: Limits) -> None:
        """Return when the pipe is ready or hung up; raise when a limit is breached or the child is dead."""
        poll = select.poll()
        poll.register(fd, events)
        while True:
            left = deadline - time.monotonic()
            ready = poll.poll(1000 * max(0.0, min(left, _TICK_SECONDS)))
            if time.monotonic() >= self.next_check or left <= 0:  # also while the child trickles data
                self._check(left, limits)
                self.next_check = time.monotonic() + _TICK_SECONDS
            if ready:
                return
            if self.process.poll() is not None and not poll.poll(0):
                # A grandchild may keep the pipe open, so the end of the child need not show as a hang-up.
                raise self._death()

    def _check(self, left: float, limits: Limits) -> None:
        if left <= 0:
            raise ObjectError("timeout", f"it took longer than {limits.seconds:g} s")
        if self.resident_bytes() > limits.rss_bytes:
            raise ObjectError("memory", f"its process used more than {limits.rss_bytes / 2**20:.0f} MiB of memory")
        if os.fstat(self.stderr.fileno()).st_size > _MAX_STDERR_BYTES:
            self._shorten_stderr()

    def _death(self) -> ObjectError:
        try:
            code = self.process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return ObjectError("crashed", "its process closed its pipe")
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
            return ObjectError("crashed", f"its process died of signal {name}")
        return ObjectError("crashed", f"its process ended with exit code {code}")

    def resident_bytes(self) -> int:
        try:
            with open(f"/proc/{self.process.pid}/statm", "rb") as statm:
                return int(statm.read().split()[1]) * _PAGE_BYTES
        except (OSError, IndexError):
            return 0

    def drop_stderr(self) -> None:
        if os.fstat(self.stderr.fileno()).st_size:
            os.ftruncate(self.stderr.fileno(), 0)

    def stderr_tail(self) -> str:
        size = os.fstat(self.stderr.fileno()).st_size
        tail = os.pread(self.stderr.fileno(), _STDERR_TAIL_BYTES, max(0, size - _STDERR_TAIL_BYTES))
        return tail.decode("utf-8", "replace")

    def _shorten_stderr(self) -> None:
        tail = self.stderr_tail().encode()
        os.ftruncate(self.stderr.fileno(), 0)
        os.write(self.stderr.fileno(), tail)

    def kill(self) -> str:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        tail = self.stderr_tail()
        for pipe in (self.process.stdin, self.process.stdout, self.stderr):
            if pipe is not None:
                pipe.close()
        return tail


def _spawn(target: str, env: Mapping[str, str], stderr: IO[bytes]) -> "subprocess.Popen[bytes]":
    # -P keeps the working directory, which may hold hostile files, off the import path; what the parent can import
    # the child must be able to import too.
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "sar3d.isolation", target, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env={**os.environ, "PYTHONPATH": path, **env},
        start_new_session=True,
        bufsize=0,
    )


_spawners: list[ThreadPoolExecutor] = []
# The spawner's thread does not survive a fork of the parent.
os.register_at_fork(after_in_child=_spawners.clear)


def _spawner() -> ThreadPoolExecutor:
    if not _spawners:
        _spawners.append(ThreadPoolExecutor(1, thread_name_prefix="sar3d-spawner"))
    return _spawners[0]


def _append_mode(fd: int) -> None:
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)


def _enlarge_pipe(fd: int) -> None:
    fcntl.fcntl(fd, _F_SETPIPE_SZ, _PIPE_BYTES)


def _frame(header: Json, blobs: "Sequence[bytes | bytearray | memoryview]") -> list["bytes | bytearray | memoryview"]:
    lengths = [memoryview(blob).nbytes for blob in blobs]
    text = json.dumps({**header, "blobs": lengths}).encode()
    return [struct.pack("<Q", len(text)) + text, *blobs]


def _checked_reply(text: bytearray, call: int, most: int) -> tuple[Json, list[int]]:
    """Validate the header of an untrusted reply."""
    broken = ObjectError("crashed", "its process broke the reply protocol")
    try:
        reply = json.loads(text)
    except (ValueError, RecursionError):
        raise broken from None
    if not isinstance(reply, dict) or reply.get("call") != call:
        raise broken
    error, lengths = reply.get("error"), reply.get("blobs")
    if error is None and not isinstance(reply.get("reply"), dict):
        raise broken
    if error is not None and not (isinstance(error, list) and [type(e) for e in error] == [str, str]):
        raise broken
    if not isinstance(lengths, list) or not all(type(n) is int and n >= 0 for n in lengths):
        raise broken
    if sum(lengths) > most:
        raise ObjectError("memory", f"its result is larger than {most / 2**20:.0f} MiB")
    return reply, lengths


# --- the child -------------------------------------------------------------------------------------------------------


def _serve(target: str, parent: int) -> None:
    """Answer requests until the parent closes the pipe."""
    requests, replies = os.dup(0), os.dup(1)
    # Native code and libraries print; what they print must not reach the protocol.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    _die_with(parent)
    faulthandler.enable()
    try:
        handler = _imported(target)
    except Exception as error:
        _write(replies, {"error": ["start", f"{type(error).__name__}: {error}"], "call": 0}, [])
        return
    _write(replies, {"reply": {}, "call": 0}, [])
    with open(requests, "rb") as stream:
        while prefix := stream.read(8):
            header = json.loads(stream.read(struct.unpack("<Q", prefix)[0]))
            blobs = [stream.read(n) for n in header["blobs"]]
            answer, payload = _answer(handler, header["request"], blobs)
            _write(replies, {**answer, "call": header["call"]}, payload)
            del blobs, payload  # the next request must not meet this one's memory


def _die_with(parent: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # It may have ended before the signal was asked for; that it is process 1, as in a container, means nothing.
    if os.getppid() != parent:
        sys.exit(1)


def _imported(target: str) -> Handler:
    module, _, name = target.partition(":")
    handler: Handler = getattr(importlib.import_module(module), name)
    return handler


def _answer(
    handler: Handler, request: Json, blobs: list[bytes]
) -> tuple[Json, Sequence["bytes | bytearray | memoryview"]]:
    try:
        reply, payload = handler(request, blobs)
        return {"reply": reply}, payload
    except ObjectError as error:
        return {"error": [error.kind, error.reason]}, []
    except MemoryError as error:
        return {"error": ["memory", f"its process could not get the memory it asked for ({error})"]}, []
    except Exception as error:
        return {"error": ["internal", f"{type(error).__name__}: {error}"]}, []


def _write(fd: int, header: Json, blobs: "Sequence[bytes | bytearray | memoryview]") -> None:
    for part in _frame(header, blobs):
        view = memoryview(part).cast("B")
        while len(view):
            view = view[os.write(fd, view) :]


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
