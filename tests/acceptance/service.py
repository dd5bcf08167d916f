"""What the proofs of the service share: a real service in processes of its own, and clients of it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import generators
import psutil
from proofs import REPOSITORY

from sar3d import hub

FAST = ("--grid", "64", "--texture", "256", "--frames", "4", "--resolution", "64", "--faces", "4000", "--level", "5.2")
"""Small files; the density lies inside the range that an untrained field has."""
READY_SECONDS = 600


def small_models(folder: Path) -> Path:
    """A bundle of untrained models with a captioner: what they make means nothing, but all of it works."""
    shutil.copytree(generators.bundle(), folder)
    generators.captioner(folder / "llm", hub.digest(folder / "vqvae"))
    return folder


@dataclass(frozen=True)
class Running:
    """A service that answers."""

    base: str
    process: subprocess.Popen[bytes]
    log: Path

    def get(self, path: str) -> tuple[int, bytes]:
        return self._answer(urllib.request.Request(self.base + path))

    def post(self, path: str, headers: dict[str, str] | None = None, **fields: Any) -> tuple[int, bytes]:
        from asgi import form

        given, (body,) = form(**fields)
        return self._answer(urllib.request.Request(self.base + path, body, {**given, **(headers or {})}, method="POST"))

    def made(self, path: str, **fields: Any) -> Any:
        """The JSON of an answer that must be there."""
        status, body = self.post(path, **fields)
        assert status == 200, body
        return json.loads(body)

    def _answer(self, request: urllib.request.Request) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(request, timeout=600) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def processes(self, name: str) -> list[psutil.Process]:
        """Processes of an actor, such as `ServeReplica:sar3d:Models`."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                found += [child] if name in " ".join(child.cmdline()) else []
            except psutil.Error:
                continue
        return found

    def listening(self) -> set[str]:
        """Addresses that the processes of the service listen on."""
        found = set()
        for child in [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]:
            try:
                found |= {c.laddr.ip for c in child.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
            except psutil.Error:
                continue
        return found

    def resident(self) -> int:
        """Bytes of all processes of the service."""
        total = 0
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                total += child.memory_full_info().uss
            except psutil.Error:
                continue
        return total

    def await_ready(self, seconds: float) -> float:
        """Seconds until the models answer."""
        began = time.monotonic()
        while True:
            try:
                if self.get("/readyz")[0] == 200:
                    return time.monotonic() - began
            except OSError:
                pass
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() - began < seconds, self.log.read_text()
            time.sleep(0.25)


@contextmanager
def serving(model: Path, log: Path, *words: str) -> Iterator[Running]:
    """`sar3d serve`, ready, and ended afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "pipelines.cli",
        "serve",
        "--model",
        str(model),
        "--port",
        str(port),
        *FAST,
        *words,
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=out, stderr=out, env=environment)
    running = Running(f"http://127.0.0.1:{port}", process, log)
    try:
        running.await_ready(READY_SECONDS)
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
            process.wait()
