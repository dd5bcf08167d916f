"""One file over HTTP, complete and checked, or not at all.

Not by huggingface_hub, whose client goes on with a cut body without comparing entity tags, compares its size alone, has neither
a deadline nor a least speed, and takes files only from servers that send the hub's own headers, which a plain mirror does not.
"""

import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar

import requests
import urllib3
from pydantic import Field

from pipelines.sources.digests import Promise, digest_file, promise_of
from sar3d.errors import ObjectError

_CHUNK = 1 << 18
_RETRIED_STATUS = frozenset({408, 425, 429})
_RETRIED_CONTENT = frozenset({"html_page", "empty_file", "truncated"})
"""Faults of a body that a second request may cure: an error page sent as 200, a cut body of untold length."""

_BAD_REQUEST = (
    requests.TooManyRedirects,
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
)

Check = Callable[[Path], None]
"""Looks at a complete body; raises `ObjectError` if it is not what was asked for."""


@dataclass(frozen=True)
class TransferConfig:
    """How patiently to transfer. Nothing here changes what arrives."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    attempts: Annotated[int, Field(ge=1)] = field(default=6, metadata={"identity": False})
    """Requests for one file before it counts as failed."""
    connect_timeout_s: Annotated[float, Field(gt=0)] = field(default=10.0, metadata={"identity": False})
    """Seconds to wait for a connection."""
    stall_timeout_s: Annotated[float, Field(gt=0)] = field(default=30.0, metadata={"identity": False})
    """Seconds without a single byte after which a request is given up and repeated."""
    deadline_s: Annotated[float, Field(gt=0)] = field(default=1800.0, metadata={"identity": False})
    """Seconds for one file, all requests and pauses together."""
    backoff_s: Annotated[float, Field(ge=0)] = field(default=0.5, metadata={"identity": False})
    """Pause before the second request; it doubles with every further one and is drawn between half and all of that."""
    backoff_max_s: Annotated[float, Field(ge=0)] = field(default=30.0, metadata={"identity": False})
    """Longest pause of our own choice."""
    retry_after_max_s: Annotated[float, Field(ge=0)] = field(default=120.0, metadata={"identity": False})
    """Longest pause that a server may ask for with `Retry-After`; a longer wish is cut to this."""
    minimum_bytes_per_s: Annotated[float, Field(ge=0)] = field(default=1024.0, metadata={"identity": False})
    """A body that comes more slowly over a `speed_window_s` is given up and resumed by a new request."""
    speed_window_s: Annotated[float, Field(gt=0)] = field(default=30.0, metadata={"identity": False})
    """Seconds over which the speed is measured."""


@dataclass(frozen=True)
class Transfer:
    """A file that arrived."""

    bytes: int
    sha256: str
    etag: str | None
    """The strong entity tag of the body, if it had one."""
    url: str
    attempts: int


class TransferError(ObjectError):
    """A file that could not be had; `attempts` requests were made for it."""

    def __init__(self, kind: str, reason: str, attempts: int) -> None:
        super().__init__(kind, reason)
        self.attempts = attempts

    def __reduce__(self) -> Any:
        return (type(self), (self.kind, self.reason, self.attempts))


class _RequestError(Exception):
    """One request that failed; `again` says whether another may do better."""

    def __init__(self, kind: str, detail: str, again: bool = True, pause_s: float = 0.0) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.again = again
        self.pause_s = pause_s


@dataclass
class _Part:
    """The bytes that are on disk of one body, and what their server promised about the whole of it."""

    path: Path
    received: int = 0
    promise: Promise = field(default_factory=Promise)

    def restart(self, promise: Promise | None = None) -> None:
        self.received = 0
        self.promise = promise or Promise()


def transfer(url: str, destination: Path, config: TransferConfig, check: Check | None = None) -> Transfer:
    """Bring `url` to the local file `destination`, whose folder is made if need be.

    A cut body is resumed where it broke if the server names it by a strong entity tag that has not changed; else it
    starts from zero. Size and checksums that the server gives are compared, then `check` looks at the body; only then
    is it renamed to its final name, so that a file under that name is complete, whatever is killed when.

    Raises `TransferError` with the kinds `http_<status>`, `timeout`, `connection`, `truncated`, `checksum`, `changed`,
    `bad_url` or what `check` found. Errors of the local disk are not the file's fault and come through as `OSError`.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays, as `check` goes by it.
    part = _Part(destination.with_name(f".{destination.stem}.{uuid.uuid4().hex[:12]}.part{destination.suffix}"))
    deadline = time.monotonic() + config.deadline_s
    attempt = 1
    try:
        while True:
            try:
                _receive(url, part, config, deadline)
                sha256 = _verify(part, check)
                break
            except _RequestError as fault:
                pause = _pause(attempt, fault, config)
                late = fault.again and time.monotonic() + pause >= deadline
                if not fault.again or attempt >= config.attempts or late:
                    raise _give_up(url, fault, attempt, config.deadline_s if late else None) from fault
            time.sleep(pause)
            attempt += 1
        _commit(part.path, destination)
    finally:
        part.path.unlink(missing_ok=True)
    return Transfer(part.received, sha256, part.promise.etag, url, attempt)


def _receive(url: str, part: _Part, config: TransferConfig, deadline: float) -> None:
    remaining = max(deadline - time.monotonic(), 0.001)
    headers = {"Accept-Encoding": "identity"}
    if part.received and part.promise.etag:
        headers |= {"Range": f"bytes={part.received}-", "If-Range": part.promise.etag}
    else:
        part.restart()
    timeout = (min(config.connect_timeout_s, remaining), min(config.stall_timeout_s, remaining))
    try:
        with _session().get(url, headers=headers, stream=True, timeout=timeout) as response:
            _accept(response, part, config)
            _store(response, part, config, deadline)
    except (requests.Timeout, urllib3.exceptions.ReadTimeoutError, TimeoutError) as error:
        raise _RequestError("timeout", f"the server fell silent ({type(error).__name__})") from error
    except _BAD_REQUEST as error:
        raise _RequestError("bad_url", str(error), again=False) from error
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        causes = list(_causes(error))
        if any(isinstance(cause, urllib3.exceptions.IncompleteRead) for cause in causes):
            raise _RequestError("truncated", f"the body broke off after {part.received} bytes") from error
        raise _RequestError(
            "connection", f"the connection failed ({type(causes[-1]).__name__}: {causes[-1]})"
        ) from error


def _accept(response: requests.Response, part: _Part, config: TransferConfig) -> None:
    """Decide by the headers whether the body continues what is there, replaces it, or is none at all."""
    status = response.status_code
    promise = promise_of([*response.history, response])
    if status == 200:
        part.restart(promise)
    elif status == 206 and part.received:
        start = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
        same = promise.etag == part.promise.etag and _agree(promise, part.promise)
        if start != str(part.received) or not same:
            part.restart()
            raise _RequestError("changed", "the file changed on the server while it was read")
    elif status == 416 and part.received:
        part.restart()
        raise _RequestError("changed", "the file became shorter on the server while it was read")
    else:
        again = status in _RETRIED_STATUS or status >= 500
        pause = min(_retry_after(response.headers.get("Retry-After", "")), config.retry_after_max_s)
        raise _RequestError(f"http_{status}", f"the server answered {status} {response.reason}", again, pause)


def _agree(new: Promise, old: Promise) -> bool:
    """Whether two answers can be about one body: what both of them tell is equal."""
    sizes = new.size is None or old.size is None or new.size == old.size
    return sizes and all(old.digests.get(name, value) == value for name, value in new.digests.items())


def _store(response: requests.Response, part: _Part, config: TransferConfig, deadline: float) -> None:
    window_start, window_bytes = time.monotonic(), 0
    with part.path.open("ab" if part.received else "wb") as file:
        # read1 hands on what has come; read would wait for a whole chunk, however slowly it drips.
        while chunk := response.raw.read1(_CHUNK, decode_content=False):
            file.write(chunk)
            part.received += len(chunk)
            window_bytes += len(chunk)
            now = time.monotonic()
            if now > deadline:
                raise _RequestError("timeout", f"only {part.received} bytes had come")
            if (elapsed := now - window_start) > config.speed_window_s:
                if window_bytes < config.minimum_bytes_per_s * elapsed:
                    raise _RequestError("timeout", f"it came at only {window_bytes / elapsed:.0f} bytes/s")
                window_start, window_bytes = now, 0
    if part.promise.size is not None and part.received < part.promise.size:
        raise _RequestError("truncated", f"the body broke off after {part.received} of {part.promise.size} bytes")


def _verify(part: _Part, check: Check | None) -> str:
    """Compare what came with what was promised; returns the SHA-256 in hex."""
    promise, received = part.promise, part.received
    found = digest_file(part.path, {"sha256", *promise.digests})
    wrong = next((name for name, value in promise.digests.items() if found[name] != value), None)
    if wrong or (promise.size is not None and received != promise.size):
        part.restart()
        what = f"its {wrong} is not the one" if wrong else f"its {received} bytes are not the {promise.size}"
        raise _RequestError("checksum", f"{what} that the server promised")
    try:
        if check:
            check(part.path)
    except ObjectError as error:
        part.restart()
        # A body with the promised checksum is what the server has: asking again brings the same.
        again = error.kind in _RETRIED_CONTENT and not promise.digests
        raise _RequestError(error.kind, error.reason, again) from error
    return found["sha256"].hex()


def _commit(part: Path, destination: Path) -> None:
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(destination)
    folder = os.open(destination.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _pause(attempt: int, fault: _RequestError, config: TransferConfig) -> float:
    """Seconds until the next request. Drawn at random, lest thousands of workers come back all at once."""
    longest = min(config.backoff_s * 2.0 ** min(attempt - 1, 30), config.backoff_max_s)
    return max(random.uniform(longest / 2, longest), fault.pause_s)


def _retry_after(text: str) -> float:
    """Seconds that a `Retry-After` header asks for: a number or a date (RFC 9110, 10.2.3); 0 where it is neither."""
    if text.strip().isdigit():
        return float(text)
    try:
        wanted = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return max((wanted.replace(tzinfo=wanted.tzinfo or UTC) - datetime.now(UTC)).total_seconds(), 0.0)


def _give_up(url: str, fault: _RequestError, attempts: int, deadline_s: float | None) -> TransferError:
    kind, limit = fault.kind, ""
    if deadline_s is not None:
        kind, limit = "timeout", f" within the {deadline_s:g} s that one file may take"
    plural = "s" if attempts > 1 else ""
    return TransferError(kind, f"{url} could not be had in {attempts} attempt{plural}{limit}: {fault.detail}", attempts)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what lies under it: requests wraps urllib3, which wraps http.client, which wraps the socket."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


_local = threading.local()


def _session() -> requests.Session:
    """This thread's session: a session keeps connections open, but may not be shared between threads."""
    if not hasattr(_local, "session"):
        _local.session = requests.Session()
        _local.session.headers["User-Agent"] = "sar3d"
    session: requests.Session = _local.session
    return session
