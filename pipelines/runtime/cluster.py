"""Ray: the cluster that was named, else one of our own; and whether all of it can see the data."""

import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pipelines.runtime import joining, own_ray, presence
from pipelines.runtime.store import Store
from sar3d.errors import UserError

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # the engine reports errors itself, in one sentence
}


Log = Callable[[str], None]


@dataclass(frozen=True)
class ClusterConfig:
    """Where the work runs. Nothing here changes what is computed."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    address: str = field(default="auto", metadata={"identity": False})
    """`auto`: the cluster of this job (`ray job submit`) or the one that RAY_ADDRESS names, else a Ray of our own, never
    another one that happens to run on the machine; `local`: always our own; or an address such as `10.0.0.5:6379` or
    `ray://head:10001`."""
    cpus: int | None = field(default=None, metadata={"identity": False})
    """CPUs of a Ray of our own; default all that this process may use (affinity, and the quota of a container)."""
    patience: float = field(default=300.0, metadata={"identity": False})
    """Seconds to wait for a node that is large enough for one task: nodes that are starting, or an autoscaler."""


def in_job() -> bool:
    """Whether this process is the entrypoint of a `ray job submit`."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def connect(config: ClusterConfig, log: Log) -> Any:
    """Connect once per process; returns the `ray` module. Says so when it joins a cluster that is there.

    Raises:
        UserError: no cluster answers at the address, it refuses us, or a Ray of our own cannot be started.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return ray
    where = address_of(config)
    with _own_signals():
        if where is None:
            return own_ray.start(config.cpus, log)
        joining.join(where, _code())
    nodes = sum(node["Alive"] for node in ray.nodes())
    log(
        f"joined the Ray cluster at {where}: {nodes} node{'' if nodes == 1 else 's'}, "
        f"{ray.cluster_resources().get('CPU', 0):g} CPUs, {gpus(ray):g} GPUs"
    )
    return ray


def address_of(config: ClusterConfig) -> str | None:
    """The cluster that is to be joined; None for a Ray of our own."""
    address = os.environ.get("RAY_ADDRESS") if config.address == "auto" else config.address  # a submitted job has it
    return None if address in (None, "", "auto", "local") else address


@contextmanager
def watched(ray: Any, config: ClusterConfig) -> Iterator[None]:
    """While the body works with the cluster: raise `ClusterLostError`, one sentence, in it when the cluster has gone."""
    with presence.watched(presence.of_cluster(ray, address_of(config))):
        yield


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep what this program does on SIGTERM and SIGINT; connecting to Ray installs handlers that abort it."""
    ours = {n: handler for n in (signal.SIGTERM, signal.SIGINT) if callable(handler := signal.getsignal(n))}
    yield
    if threading.current_thread() is threading.main_thread():
        for number, handler in ours.items():
            signal.signal(number, handler)


def _code() -> dict[str, Any] | None:
    """Ship our two packages to the nodes. A submitted job brings its working directory instead."""
    if in_job():
        return None
    top = Path(__file__).resolve().parents[2]
    return {"py_modules": [str(top / "sar3d"), str(top / "pipelines")], "excludes": ["**/__pycache__/**"]}


def slots(ray: Any, cpus: float, gpus: float) -> int:
    """How many tasks of this size the cluster could run at once, now."""
    total = ray.cluster_resources()
    by_cpu = total.get("CPU", 0) / cpus if cpus else float("inf")
    by_gpu = total.get("GPU", 0) / gpus if gpus else float("inf")
    return max(1, int(min(by_cpu, by_gpu, 100_000)))


def gpus(ray: Any) -> float:
    """How many GPUs the cluster has, now."""
    return float(ray.cluster_resources().get("GPU", 0))


def await_room(ray: Any, cpus: float, gpus: float, patience: float, log: Log, workers: int = 1) -> None:
    """Return when the cluster is large enough for `workers` tasks of this size at once; ask an autoscaler, if there is
    one, to make it so.

    Raises `UserError` after `patience` seconds without room.
    """
    from ray.autoscaler.sdk import request_resources

    if has_room(ray, cpus, gpus, workers):
        return
    size = f"{cpus:g} CPUs and {gpus:g} GPUs"
    lack, need = f"no node with {size} for one task", f"a node with {size}"
    if workers > 1:
        lack, need = f"no room for {workers} workers of {size} each", f"room for {workers} workers of {size} each"
    log(f"the cluster has {lack}; waiting up to {patience:g} s for nodes to join")
    request_resources(bundles=[{"CPU": cpus, "GPU": gpus}] * workers)
    try:
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            time.sleep(1)
            if has_room(ray, cpus, gpus, workers):
                return
    finally:
        request_resources(bundles=[])
    lower = "workers, cpus or gpus" if workers > 1 else "cpus or gpus"
    raise UserError(f"no task can run: the cluster has not got {need}; add nodes, or lower the stage's {lower}")


def has_room(ray: Any, cpus: float, gpus: float, workers: int = 1) -> bool:
    """Whether the living nodes, if they were idle, could hold `workers` tasks of this size at once."""
    room = 0.0
    for node in (n["Resources"] for n in ray.nodes() if n["Alive"]):
        by_cpu = node.get("CPU", 0) // cpus if cpus else float("inf")
        by_gpu = node.get("GPU", 0) // gpus if gpus else float("inf")
        room += min(by_cpu, by_gpu)
    return room >= workers


class RoomMonitor:
    """Says, until the work begins to bear fruit, that it waits behind the work of others, for what, and since when."""

    EVERY = 60.0
    SETTLE = 2.0
    """Seconds in which what this program has just given back becomes known to be free."""

    def __init__(self, ray: Any, name: str, resources: tuple[float, float], config: ClusterConfig, log: Log) -> None:
        self._ray, self._name, self._log = ray, name, log
        self._cpus, self._gpus = resources
        self._since = self._said = time.monotonic()
        self._waiting = address_of(config) is not None and not self._free()
        if self._waiting:
            self._log(f"{name}: {self._what()}; it begins when there is room")

    def look(self) -> None:
        """Call now and then while there is no result."""
        if self._waiting and time.monotonic() - self._said >= self.EVERY:
            self._said = time.monotonic()
            self._log(f"{self._name}: {self._what()}; {self._said - self._since:.0f} s so far")

    def over(self) -> None:
        """There is a result."""
        self._waiting = False

    def _free(self) -> bool:
        """Whether there is room now."""
        deadline = time.monotonic() + self.SETTLE
        while True:
            free = self._ray.available_resources()
            if free.get("CPU", 0) >= self._cpus and free.get("GPU", 0) >= self._gpus:
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.25)

    def _what(self) -> str:
        free, there = self._ray.available_resources(), self._ray.cluster_resources()
        wanted = ((k, n) for k, n in (("CPU", self._cpus), ("GPU", self._gpus)) if n > 0)
        kinds = [
            f"{n:g} {k}{'' if n == 1 else 's'} ({free.get(k, 0):g} of {there.get(k, 0):g} free)" for k, n in wanted
        ]
        return f"waiting for {' and '.join(kinds)} of the cluster, which other work holds"


@dataclass(frozen=True)
class Marker:
    """A file that the driver wrote into the root, by which a worker knows that it sees the same root."""

    root: str
    name: str
    places: tuple[str, ...]

    def check(self) -> None:
        """Raise `UserError` unless this machine sees the root and the other places."""
        import socket

        if not Store(self.root).exists(self.name):
            raise UserError(
                f"node {socket.gethostname()} cannot see the root {self.root}: "
                "put the root on a file system that every node mounts, or on an object store (s3://, gs://)"
            )
        for place in self.places:
            if not os.path.exists(place):
                raise UserError(
                    f"node {socket.gethostname()} cannot see {place}: "
                    "put it on a file system that every node mounts, or on an object store"
                )


def mark(root: str, places: list[str]) -> Marker:
    name = f"_marks/{secrets.token_hex(8)}"
    Store(root).put(name, b"a running stage checks that its nodes see this file\n")
    return Marker(root, name, tuple(places))


def unmark(marker: Marker) -> None:
    Store(marker.root).delete([marker.name])


def check_nodes(ray: Any, marker: Marker) -> None:
    """Ask every living node whether it sees the root. Nodes that join later are asked by their first task."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [n["NodeID"] for n in ray.nodes() if n["Alive"]]
    if len(nodes) == 1:
        return
    ask = ray.remote(num_cpus=0, max_retries=1)(_look)
    asked = [
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(n, soft=False)).remote(marker) for n in nodes
    ]
    for answer in asked:
        try:
            problem = ray.get(answer, timeout=120)
        except (ray.exceptions.TaskUnschedulableError, ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError):
            continue  # the node left meanwhile; whatever replaces it is asked by its first task
        if problem:
            raise UserError(problem)


def _look(marker: Marker) -> str | None:
    try:
        marker.check()
    except UserError as error:
        return str(error)
    return None
