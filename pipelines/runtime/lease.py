"""One worker of a stage at a time: a lease with a heartbeat, on anything that has `Store.create`.

Holders are numbered. Holder n is the file `lease/000n.json`, created once and then rewritten by its holder only, with
a growing beat. Whoever wants the lease watches the newest holder: if its beat stands still for `PATIENCE` seconds (of
the watcher's own clock, so clocks need not agree), or its process is gone from this machine, the next number is free
to be created, by exactly one. A holder that sees a greater number than its own has lost the lease.
"""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from pipelines.runtime.store import Store
from sar3d.errors import UserError

BEAT = 2.0
PATIENCE = 15.0


def _machine() -> str:
    """This boot of this machine: two containers may share a host name."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = os.readlink("/proc/self/ns/pid") if os.path.exists("/proc/self/ns/pid") else ""
    return f"{boot.read_text().strip() if boot.exists() else ''} {namespace}"


def _gone(holder: dict[str, Any]) -> bool:
    """True only if the holder's process is known to have ended."""
    if holder["machine"] != _machine():
        return False
    try:
        return abs(psutil.Process(holder["pid"]).create_time() - holder["born"]) > 1.0
    except psutil.NoSuchProcess:
        return True


class Lease:
    """Held while a stage writes to its output folder; use as a context manager."""

    def __init__(
        self, store: Store, what: str, wait: bool = False, log: Callable[[str], None] = lambda _: None
    ) -> None:
        self.store, self.what, self.wait, self.log = store, what, wait, log
        self.lost = threading.Event()
        self._stop = threading.Event()
        self._beat = 0
        self._number = 0
        self._thread: threading.Thread | None = None
        self._me = {
            "host": socket.gethostname(),
            "machine": _machine(),
            "pid": os.getpid(),
            "born": psutil.Process().create_time(),
            "token": secrets.token_hex(8),
        }

    def __enter__(self) -> "Lease":
        while True:
            number, holder = newest(self.store)
            if holder is not None and not holder.get("released") and not _gone(holder):
                self._watch(number, holder)
                continue
            self._number = number + 1
            if self.store.create(_name(self._number), self._state()):
                break
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if not self.lost.is_set():
            self.store.put(_name(self._number), self._state(released=True))
            self.store.delete([_name(n) for n in range(max(1, self._number - 8), self._number)])

    def _state(self, released: bool = False) -> bytes:
        return json.dumps({**self._me, "beat": self._beat, "released": released}).encode()

    def _watch(self, number: int, holder: dict[str, Any]) -> None:
        """Return when the holder may have gone; raise if it is alive and we shall not wait."""
        who = f"process {holder['pid']} on {holder['host']}"
        self.log(f"{self.what} may be in the hands of {who}; watching its heartbeat")
        since = time.monotonic()
        while time.monotonic() - since < PATIENCE:
            time.sleep(BEAT / 4)
            now, current = newest(self.store)
            if now != number or current is None or current.get("released") or _gone(current):
                return
            if current["beat"] != holder["beat"]:
                if not self.wait:
                    raise UserError(
                        f"{self.what} is being worked on by {who}: let it finish, or add --wait to queue behind it"
                    )
                holder, since = current, time.monotonic()
        self.log(f"{who} has shown no heartbeat for {PATIENCE:.0f} s; taking over")
        # A released successor: of all who watched, whoever creates the number after it holds the lease.
        self.store.create(_name(number + 1), self._state(released=True))

    def _keep(self) -> None:
        while not self._stop.wait(BEAT):
            self._beat += 1
            try:
                if newest(self.store)[0] > self._number:
                    self.lost.set()
                    return
                self.store.put(_name(self._number), self._state())
            except (OSError, UserError):
                continue  # a store that is briefly away: the beat stands still, and others may take over


def _name(number: int) -> str:
    return f"lease/{number:06d}.json"


def newest(store: Store) -> tuple[int, dict[str, Any] | None]:
    """The greatest holder's number (0 if none) and what it last wrote."""
    names = [n for n in store.names("lease") if n.endswith(".json") and not Path(n).name.startswith(".")]
    if not names:
        return 0, None
    data = store.read(names[-1])
    return int(Path(names[-1]).stem), json.loads(data) if data else None


def is_held(store: Store) -> bool:
    """Whether somebody seems to hold the lease now (its beat is not awaited)."""
    _, holder = newest(store)
    return holder is not None and not holder.get("released") and not _gone(holder)
