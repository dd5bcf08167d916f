"""A Ray cluster of several nodes on this machine, made of real `ray start` processes that can be killed.

It asks for a token, as every cluster that the project describes.
"""

import contextlib
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses, and that the system gives to nobody else before they are used."""
    found: list[int] = []
    for port in random.SystemRandom().sample(range(20_000, 32_000), 12_000):
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            break
    return found


def kill_tree(process: psutil.Process | subprocess.Popen[bytes]) -> None:
    """SIGKILL to a process and everything below it, as if the machine had gone."""
    top = psutil.Process(process.pid)
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in [*top.children(recursive=True), top]:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


def bare_python(folder: Path) -> str:
    """The Python of an environment with all libraries and without sar3d and pipelines: a job must bring them."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    # A path added by a .pth file is searched, but its own .pth files (our editable install) are not read.
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = str(folder / "bin" / "python")
    lacking = subprocess.run(
        [python, "-c", "import ray; import sar3d"], cwd="/", capture_output=True, text=True, check=False
    )
    assert "No module named 'sar3d'" in lacking.stderr
    return python


@dataclass
class RayCluster:
    """One head without CPUs for tasks, and worker nodes of `cpus` each."""

    folder: Path
    python: str = sys.executable
    cpus: int = 1
    environment: dict[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()
    """Words before the command of each worker node, for example `unshare -m`."""

    def __post_init__(self) -> None:
        self.token = secrets.token_hex(16)
        self.port, self.dashboard = free_ports(2)
        self.nodes: list[subprocess.Popen[bytes]] = []
        self.temps: list[str] = []
        self.head = self._start_head()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.dashboard}"

    def add_node(self, prefix: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        node = self._start(f"--address=127.0.0.1:{self.port}", cpus=self.cpus, prefix=prefix)
        self.nodes.append(node)
        return node

    def _start(self, *arguments: str, cpus: int, prefix: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        ports = free_ports(6)
        names = ("node-manager", "object-manager", "dashboard-agent-listen", "runtime-env-agent", "metrics-export")
        command = [
            *prefix,
            *(self.python, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"),
            *arguments,
            f"--num-cpus={cpus}",
            "--node-ip-address=127.0.0.1",
            "--object-store-memory=100000000",
            *(f"--{name}-port={port}" for name, port in zip(names, ports, strict=False)),
            f"--temp-dir={self._temp()}",
        ]
        log = open(self.folder / f"node-{len(self.nodes)}-{time.monotonic_ns()}.log", "wb")  # noqa: SIM115
        path = f"{Path(self.python).parent}:{os.environ['PATH']}"
        environment = {
            **os.environ,
            "PATH": path,
            "RAY_health_check_period_ms": "500",
            # A killed node refuses at once; one that is only slow, on a busy machine, has this long to answer.
            "RAY_health_check_timeout_ms": "10000",
        }
        environment |= {"RAY_health_check_failure_threshold": "3", **self.access, **self.environment}
        return subprocess.Popen(
            command, cwd=self.folder, stdout=log, stderr=log, env=environment, start_new_session=True
        )

    def _temp(self) -> str:
        """One per node, or the nodes would unpack a job's files over each other. Short: Ray's sockets need it."""
        self.temps.append(f"/tmp/ray-{self.port}-{len(self.temps)}")
        return self.temps[-1]

    @property
    def access(self) -> dict[str, str]:
        """Environment by which a program may use the cluster."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}

    def ready(self) -> None:
        """Return when every node has joined.

        A node of Ray gives its own agents 15 s to start, then dies: on a busy machine it is started again.
        """
        deadline = time.monotonic() + 300
        while self.alive() < 1 + len(self.nodes):
            if time.monotonic() > deadline:
                raise TimeoutError(f"a Ray node did not join within five minutes; see {self.folder}")
            for node in [n for n in self.nodes if n.poll() is not None]:
                self.nodes.remove(node)
                self.add_node()
            time.sleep(0.2)

    def alive(self) -> int:
        """How many nodes the head knows to be alive; 0 while it does not answer."""
        request = urllib.request.Request(f"{self.address}/nodes?view=summary")
        request.add_header("Authorization", f"Bearer {self.token}")
        with contextlib.suppress(OSError, ValueError, KeyError), urllib.request.urlopen(request, timeout=5) as answer:
            nodes = json.load(answer)["data"]["summary"]
            return sum(n["raylet"].get("state") == "ALIVE" for n in nodes)
        return 0

    def _start_head(self) -> subprocess.Popen[bytes]:
        """Start the head until it stays. Its dashboard answers before it can take a job, which needs its node."""
        deadline = time.monotonic() + 300
        words = ("--head", f"--port={self.port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard}")
        head = self._start(*words, cpus=0)
        while not self.alive():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the Ray head did not answer within five minutes; see {self.folder}")
            if head.poll() is not None:
                head = self._start(*words, cpus=0)
            time.sleep(0.2)
        return head

    def submit(self, *entrypoint: str, working_dir: Path = REPOSITORY) -> subprocess.Popen[bytes]:
        """`ray job submit`, as a user would call it; its output goes to `job-*.log` in the folder."""
        log = open(self.folder / f"job-{time.monotonic_ns()}.log", "wb")  # noqa: SIM115
        command = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", self.address]
        return subprocess.Popen(
            [*command, "--working-dir", str(working_dir), "--", *entrypoint],
            stdout=log,
            stderr=log,
            env={**os.environ, **self.access},
            start_new_session=True,
        )

    def run(self, *entrypoint: str, timeout: float = 300, working_dir: Path = REPOSITORY) -> tuple[int, str]:
        """Submit and wait; exit code and everything that was printed."""
        job = self.submit(*entrypoint, working_dir=working_dir)
        job.wait(timeout)
        return job.returncode, self.last_log()

    def last_log(self) -> str:
        logs = sorted(self.folder.glob("job-*.log"), key=lambda p: int(p.stem.split("-")[1]))
        return logs[-1].read_text() if logs else ""

    def processes(self) -> Iterator[psutil.Process]:
        for top in [self.head, *self.nodes]:
            with contextlib.suppress(psutil.NoSuchProcess):
                yield from psutil.Process(top.pid).children(recursive=True)

    def find(self, *words: str) -> list[psutil.Process]:
        """Processes of this cluster with all of `words` in their command lines."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                line = " ".join(process.cmdline())
                if all(w in line for w in words):
                    found.append(process)
        return found

    def kill_one(self, what: str, random_: random.Random) -> bool:
        """SIGKILL one `worker` (while it runs a task), `renderer`, `driver` or `node`; False if there is none now."""
        if what == "node":
            living = [n for n in self.nodes if n.poll() is None]
            if len(living) < 2:
                return False
            victim = random_.choice(living)
            kill_tree(victim)
            victim.wait()
            self.nodes.remove(victim)
            self.add_node()
            return True
        found = self._victims(what)
        if not found:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            random_.choice(found).send_signal(signal.SIGKILL)
        return True

    def lose_node(self, hosting: str, random_: random.Random) -> None:
        """SIGKILL a worker node that runs a process with `hosting` in its command line; nothing takes its place."""
        names = {node.pid: node for node in self.nodes}
        busy = {parent.pid for process in self.find(hosting) for parent in process.parents()} & names.keys()
        victim = names[random_.choice(sorted(busy))]
        kill_tree(victim)
        victim.wait()
        self.nodes.remove(victim)

    def _victims(self, what: str) -> list[psutil.Process]:
        if what == "worker":
            # Busy with a shard, or training.
            return [*self.find("ray::", ":part-"), *self.find("ray::RayTrainWorker")]
        if what == "renderer":
            return self.find("sar3d.isolation")
        drivers = [*self.find("-m", "pipelines."), *self.find("toy_job.py")]
        return [
            p
            for p in drivers
            if p.name().startswith("python") and p.cmdline()[1] in ("-m", "tests/pipelines/toy_job.py")
        ]

    def close(self) -> None:
        for top in [*self.nodes, self.head]:
            with contextlib.suppress(psutil.NoSuchProcess):
                kill_tree(top)
            top.wait()
        for temp in self.temps:
            shutil.rmtree(temp, ignore_errors=True)
