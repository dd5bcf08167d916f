"""A Ray of this run's own: on the loopback address, behind a random token, in a folder that only its user can read."""

import atexit
import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.runtime.ray_driver import settle_driver
from sar3d.errors import UserError
from sar3d.processors import available_cpus

_SOCKETS = len("/r/session_2026-01-31_12-00-00_000000_4194304/sockets/plasma_store")
_LIMIT = 107
"""Bytes of a Unix socket's path."""
_PREFIX = "sar3d-ray-"
_RANDOM = 8
"""Characters that `tempfile.mkdtemp` adds to the prefix."""


_TRIES = 5
_SLOW = "timed out during startup"
"""What Ray says when it gives up on a raylet that waits, for 15 s and no longer, for Ray's own agents to start."""


def start(cpus: int | None, log: Callable[[str], None]) -> Any:
    """Start a Ray that only this process and its workers can use; it ends with this process. Returns the `ray` module.

    Ray's documentation calls `_node_ip_address="127.0.0.1"` a private cluster, but on Linux Ray replaces it by the
    machine's outside address (`services.resolve_ip_for_localhost`) and listens on all interfaces. Where Ray is told that
    it cannot form clusters, as on macOS, it keeps the loopback address, and then all its servers listen there alone.
    Other users of this machine reach the loopback address too: they are refused for want of the token.

    Raises:
        UserError: Ray does not start, or there is no folder for its sockets.
    """
    guard()
    import ray
    from ray._private import ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = False
    folder = make_folder()  # private to this user; Ray makes its own folder in it writable by everybody
    atexit.register(_end, folder)
    for left in reversed(range(_TRIES)):
        try:
            ray.init(
                address="local",
                num_cpus=cpus or available_cpus(),
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                _temp_dir=os.path.join(folder, "r"),
                log_to_driver=True,
                logging_level="warning",
            )
            return ray
        except Exception as error:  # Ray raises anything here, a bare Exception when it is too slow
            _kill_remains(folder)
            if not left or _SLOW not in str(error):
                reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
                raise UserError(f"Ray does not start on this machine: {reason}") from error
            log("Ray did not start within its 30 s, because this machine is busy with other work: trying again")
    raise AssertionError("unreachable")


def _kill_remains(folder: str) -> None:
    """End what an attempt to start Ray has left running."""
    import psutil
    import ray

    ray.shutdown()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if any(folder in word for word in process.cmdline()):
                process.kill()
                process.wait(10)


def guard() -> None:
    """Have this process, and the Ray that it starts, ask for a new random token, whatever the environment says.

    The token is in the environment alone. Ray would otherwise write one to `~/.ray/auth_token`, which every later
    `ray job submit` to another cluster would send.
    """
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    settle_driver()


def make_folder() -> str:
    """A new folder for Ray's sockets and logs, readable by this user alone, with a path short enough for sockets.

    Raises:
        UserError: none of the usual places for temporary files is short enough and can be written.
    """
    problems = []
    for place in _places():
        name = os.path.join(os.path.realpath(place), _PREFIX + "x" * _RANDOM)
        if len(os.fsencode(name)) + _SOCKETS > _LIMIT:
            problems.append(f"{place} (its path is too long)")
            continue
        try:
            return tempfile.mkdtemp(prefix=_PREFIX, dir=os.path.realpath(place))
        except OSError as error:
            problems.append(f"{place} ({error.strerror})")
    raise UserError(
        f"Ray needs a folder for its sockets, and none of these will do: {', '.join(problems)}; set TMPDIR to a "
        f"folder that can be written, with a path of at most {_LIMIT - _SOCKETS - len(_PREFIX) - _RANDOM - 1} characters"
    )


def _places() -> list[str]:
    """Where temporary files may go, the place that the user chose first."""
    chosen = [os.environ.get(name) for name in ("RAY_TMPDIR", "TMPDIR", "XDG_RUNTIME_DIR")]
    return list(dict.fromkeys([place for place in chosen if place] + ["/tmp", "/var/tmp", str(Path.home())]))


def _end(folder: str) -> None:
    import ray

    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
