"""Joining a Ray cluster that is there: quick to say why it cannot be joined."""

import re
import socket
import time
from typing import Any

from pipelines.runtime.ray_driver import settle_driver
from sar3d.errors import UserError

ANSWER_SECONDS = 10.0
"""How long a cluster that is only just starting may take to answer; Ray itself would wait for many minutes."""
_ADDRESS = re.compile(r"(?:ray://)?(?P<host>\[[^\]]+\]|[^:/\s]+):(?P<port>\d{1,5})")


def endpoint(address: str) -> tuple[str, int]:
    """Host and port of `10.0.0.5:6379` or `ray://head:10001`. Raises `UserError` for anything else."""
    if address.startswith(("http://", "https://")):
        raise UserError(
            f"{address} is the address for `ray job submit`: submit the command, or unset RAY_ADDRESS and set "
            "RAY_API_SERVER_ADDRESS in its place"
        )
    found = _ADDRESS.fullmatch(address)
    if found is None or int(found["port"]) > 65535:
        raise UserError(f"{address} is no address of a Ray cluster: give one such as 10.0.0.5:6379 or ray://head:10001")
    return found["host"].strip("[]"), int(found["port"])


def join(address: str, code: dict[str, Any] | None) -> None:
    """Connect this process to the cluster, and send it our code.

    Raises:
        UserError: nothing answers there, or the cluster refuses us.
    """
    _await_answer(address)
    settle_driver()
    import ray

    try:
        ray.init(address=address, runtime_env=code, log_to_driver=True, logging_level="warning")
    except (ConnectionError, TimeoutError, RuntimeError, ray.exceptions.RayError) as error:
        reason = _reason(error)
        if "authentication" in reason.lower() or "unauthenticated" in reason.lower():
            cure = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to the token of that cluster"
            raise UserError(
                f"the Ray cluster at {address} asks for a token that this program has not got: {cure}"
            ) from error
        raise UserError(f"no Ray cluster answers at {address} ({reason}): start one, or unset it") from error


def _await_answer(address: str) -> None:
    from ray._private.services import resolve_ip_for_localhost

    host, port = endpoint(address)
    # Ray joins under this machine's outside address even where it is told the loopback address.
    where = (host if "://" in address else resolve_ip_for_localhost(host), port)
    deadline = time.monotonic() + ANSWER_SECONDS
    while True:
        try:
            socket.create_connection(where, timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline or isinstance(error, socket.gaierror):
                reason = error.strerror or str(error)
                raise UserError(f"no Ray cluster answers at {address} ({reason}): start one, or unset it") from error
        time.sleep(0.5)


def _reason(error: BaseException) -> str:
    """The first line of an error and of what caused it."""
    found = []
    cause: BaseException | None = error
    while cause is not None:
        lines = str(cause).strip().splitlines()
        found.append(lines[0][:200] if lines else type(cause).__name__)
        cause = cause.__cause__
    return "; ".join(dict.fromkeys(found))
