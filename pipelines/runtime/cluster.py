"""Ray: the cluster that is there, else a local one; and whether all of it can see the data."""

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

from pipelines.runtime.store import Store
from sar3d.errors import UserError

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # the engine reports errors itself, in one sentence
}


@dataclass(frozen=True)
class ClusterConfig:
    """Where the work runs. Nothing here changes what is computed."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    address: str = field(default="auto", metadata={"identity": False})
    """`auto`: the cluster of this job or machine if there is one, else a Ray of our own; `local`: always our own;
    or an address such as `10.0.0.5:6379` or `ray://head:10001`."""
    cpus: int | None = field(default=None, metadata={"identity": False})
    """CPUs of a Ray of our own; default all."""
    patience: float = field(default=300.0, metadata={"identity": False})
    """Seconds to wait for a node that is large enough for one task: nodes that are starting, or an autoscaler."""


def in_job() -> bool:
    """Whether this process is the entrypoint of a `ray job submit`."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def connect(config: ClusterConfig) -> Any:
    """Connect once per process; returns the `ray` module. Raises `UserError` if an address does not answer."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return ray
    options: dict[str, Any] = {"log_to_driver": True, "logging_level": "warning"}
    if config.address != "local":
        address = None if config.address == "auto" and in_job() else config.address
        try:
            with _own_signals():
                ray.init(address=address, runtime_env=_code(), **options)
            return ray
        except (ConnectionError, TimeoutError, RuntimeError) as error:
            if config.address != "auto" or in_job() or "RAY_ADDRESS" in os.environ:
                where = os.environ.get("RAY_ADDRESS", config.address)
                raise UserError(
                    f"no Ray cluster answers at {where} ({_first_line(error)}): start one, or unset it"
                ) from error
    # Our own Ray answers on the loopback address only, so it needs no token; making one would leave a file in the
    # user's home that lets later `ray job submit`s to other clusters fail.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    options |= {"num_cpus": config.cpus, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    with _own_signals():
        ray.init(address="local", **options)
    return ray


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep what this program does on SIGTERM and SIGINT; connecting to Ray installs handlers that abort it."""
    ours = {n: handler for n in (signal.SIGTERM, signal.SIGINT) if callable(handler := signal.getsignal(n))}
    yield
    if threading.current_thread() is threading.main_thread():
        for number, handler in ours.items():
            signal.signal(number, handler)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


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


def await_room(
    ray: Any, cpus: float, gpus: float, patience: float, say: Callable[[str], None], workers: int = 1
) -> None:
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
    say(f"the cluster has {lack}; waiting up to {patience:g} s for nodes to join")
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
            if not os.path.isdir(place):
                raise UserError(
                    f"node {socket.gethostname()} cannot see the folder {place}: "
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
