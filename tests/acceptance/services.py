"""Real servers for the long proofs: PostgreSQL and MLflow, each for as long as a `with` lasts."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ray_cluster import free_ports


def needed(program: str, package: str) -> str:
    """Where a program is; skips the test, with the name of what is to be installed, where it is not."""
    places = [os.environ["PATH"], "/usr/sbin", *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]
    found = shutil.which(program, path=os.pathsep.join(places))
    if found is None:
        pytest.skip(f"{program} is not installed: apt-get install {package}")
    return found


def await_true(ready: Callable[[], bool], seconds: float, logs: Path) -> None:
    """Return when `ready()` is true; fail after so many seconds, with the end of what lies in `logs`."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            files = sorted(logs.glob("*.*")) if logs.is_dir() else [logs]
            texts = [f"{file.name}:\n{file.read_text(errors='replace')[-2000:]}" for file in files if file.is_file()]
            raise AssertionError("\n".join(texts))
        time.sleep(0.5)


@dataclass
class Postgres:
    """A database `mlflow` on the loopback address."""

    folder: Path
    port: int = field(default_factory=lambda: free_ports(1)[0])

    @property
    def uri(self) -> str:
        return f"postgresql+psycopg2://mlflow@127.0.0.1:{self.port}/mlflow"

    def __enter__(self) -> "Postgres":
        pytest.importorskip("psycopg2", reason="the driver of PostgreSQL is not installed: pip install psycopg2-binary")
        self.folder.mkdir()
        os.chmod(self.folder, 0o777)
        data = self.folder / "data"
        self._as_user(needed("initdb", "postgresql"), "-D", data, "-U", "mlflow", "-A", "trust", "-E", "UTF8")
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder}"
        self._as_user(
            needed("pg_ctl", "postgresql"), "-D", data, "-l", self.folder / "log", "-w", "-o", options, "start"
        )
        self._as_user(needed("createdb", "postgresql"), *self._where(), "mlflow")
        return self

    def __exit__(self, *_: object) -> None:
        self._as_user(needed("pg_ctl", "postgresql"), "-D", self.folder / "data", "-m", "immediate", "stop")

    def query(self, text: str) -> str:
        """The only value of a query."""
        return self._as_user(needed("psql", "postgresql"), *self._where(), "-At", "-c", text, "mlflow").strip()

    def _where(self) -> tuple[str, ...]:
        return ("-h", "127.0.0.1", "-p", str(self.port), "-U", "mlflow")

    def _as_user(self, *words: object) -> str:
        """PostgreSQL refuses to run as root."""
        command = [str(word) for word in words]
        if os.geteuid() == 0:
            for place in self.folder.parents:
                with contextlib.suppress(OSError):
                    place.chmod(place.stat().st_mode | 0o711)
            command = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--", *command]
        with open(self.folder / "commands.log", "ab") as log:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, cwd="/", check=False)
        assert done.returncode == 0, (self.folder / "commands.log").read_text()
        return done.stdout.decode()


@dataclass
class MlflowServer:
    """`mlflow server`, which can be stopped and started again on the same port and store."""

    folder: Path
    store: str
    artifacts: str
    environment: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=lambda: free_ports(1)[0])

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "MlflowServer":
        self.folder.mkdir(exist_ok=True)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Return when it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={self.port}", "--workers=1"]
        command += [f"--backend-store-uri={self.store}", f"--artifacts-destination={self.artifacts}"]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **self.environment}
        with open(self.folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        await_true(self._answers, 180, self.folder)

    def stop(self) -> None:
        """SIGKILL to it and its workers."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=2):
            return True
        return False
