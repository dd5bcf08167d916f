"""Noticing that a cluster has gone, and saying so in one sentence.

Left alone, Ray's driver waits a minute for a head that is not there and then ends without a word.
"""

import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from pipelines.runtime.interrupt import Interrupted
from pipelines.runtime.joining import endpoint
from sar3d.errors import UserError

_EVERY = 1.0
_HEAD_SECONDS = 30.0
"""How long the head may be silent: it may be restarted by whoever runs the cluster. Ray gives up after 60 s."""
_SIGNAL = signal.SIGUSR2


class ClusterLostError(UserError):
    """The cluster has gone: nothing that runs on it can be stopped or asked any more."""


class Presence(threading.Thread):
    """Looks whether the head of the cluster, and the node that this process belongs to, still answer."""

    GRACE = 5.0
    """Seconds after an error of Ray's in which the cluster may turn out to have been ending."""

    def __init__(self, where: str, head: tuple[str, int], node: tuple[str, int] | None) -> None:
        super().__init__(name="presence", daemon=True)
        self._where, self._head, self._node = where, head, node
        self._main = threading.main_thread().ident
        self._ended = threading.Event()
        self._heard = time.monotonic()
        self.lost = False

    def run(self) -> None:
        while not self._ended.wait(_EVERY):
            if self.gone():
                self.lost = True
                if self._main is not None and not self._ended.is_set():
                    signal.pthread_kill(self._main, _SIGNAL)
                return

    def gone(self) -> bool:
        """Whether the node has gone, or the head has been silent for long."""
        if self._node is not None and _refused(self._node):
            return True
        if _answers(self._head):
            self._heard = time.monotonic()
        return time.monotonic() - self._heard > _HEAD_SECONDS

    def gone_soon(self) -> bool:
        """Whether the node or the head goes within some seconds."""
        deadline = time.monotonic() + self.GRACE
        while not self.lost:
            if self.gone() or _refused(self._head):
                self.lost = True
            elif time.monotonic() > deadline:
                return False
            else:
                time.sleep(0.2)
        return True

    def end(self) -> None:
        self._ended.set()

    def error(self) -> ClusterLostError:
        return ClusterLostError(
            f"{self._where} has gone; what was committed stays: run the same command again to go on"
        )


def _refused(where: tuple[str, int]) -> bool:
    """Whether nothing listens there any more, as opposed to something that is slow."""
    try:
        socket.create_connection(where, timeout=3).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def _answers(where: tuple[str, int]) -> bool:
    try:
        socket.create_connection(where, timeout=3).close()
    except OSError:
        return False
    return True


def of_cluster(ray: Any, where: str | None) -> Presence:
    """Of the cluster that this process is connected to; `where` is the address that it joined, None for its own Ray."""
    context = ray.get_runtime_context()
    name = "the Ray of this run" if where is None else f"the Ray cluster at {where}"
    if where is not None and where.startswith("ray://"):
        return Presence(name, endpoint(where), None)
    me = context.get_node_id()
    (node,) = [n for n in ray.nodes() if n["NodeID"] == me]
    return Presence(name, endpoint(context.gcs_address), (node["NodeManagerAddress"], node["NodeManagerPort"]))


@contextmanager
def watched(presence: Presence) -> Iterator[None]:
    """While the body works with the cluster: raise `ClusterLostError` in it as soon as the cluster has gone.

    Whatever else Ray raises because of that becomes the same error.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        raise presence.error()

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(_SIGNAL, handle) if main else None
    presence.start()
    try:
        yield
    except (UserError, Interrupted):
        raise
    except Exception as error:
        if presence.gone_soon():
            raise presence.error() from error
        raise
    finally:
        presence.end()
        if main:
            signal.signal(_SIGNAL, before)
