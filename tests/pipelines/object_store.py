"""A local S3 server (moto) in threads of this process that can fail as real ones do, and the fixtures that use it."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

Environ = dict[str, Any]
Plan = Callable[[Environ], str | None]
"""Says for each request what goes wrong with it: one of `FAULTS`, or None."""

FAULTS = {
    "busy": ("503 Slow Down", "SlowDown", "Please reduce your request rate."),
    "expired": ("400 Bad Request", "ExpiredToken", "The provided token has expired."),
    "refused": ("403 Forbidden", "AccessDenied", "Access Denied"),
    "slow": None,
    "cut": None,
    "lost": None,
}
"""Of `slow` the answer takes seconds; of `cut` the connection ends in the middle of the answer; of `lost` the request is
carried out and its answer never comes."""


class ObjectStore:
    """Buckets live as long as this object; `stop` and `start` are what clients see of a server that is killed and comes
    back."""

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app

        logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
        self.requests: list[str] = []
        self.plan: Plan = lambda environ: None
        self.struck: list[str] = []
        """Faults so far."""
        self._app = DomainDispatcherApplication(create_backend_app)
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        from werkzeug.serving import make_server

        self._server = make_server("127.0.0.1", self._port, self._answer, threaded=True)
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        copied = environ.get("HTTP_X_AMZ_COPY_SOURCE", "")
        line = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']} {copied and 'copied from ' + copied}"
        self.requests.append(line)
        fault = self.plan(environ)
        if fault is None:
            return self._app(environ, start_response)
        self.struck.append(fault)
        if fault == "slow":
            time.sleep(3)
            return self._app(environ, start_response)
        if fault in ("cut", "lost"):
            for _ in self._app(environ, lambda *_: lambda data: None) if fault == "lost" else ():
                pass
            with contextlib.suppress(OSError):
                environ["werkzeug.socket"].shutdown(2)
            return []
        status, code, message = FAULTS[fault] or ("", "", "")
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]


@pytest.fixture(scope="session")
def object_store() -> Iterator[ObjectStore]:
    made = ObjectStore()
    yield made
    made.stop()


@pytest.fixture(scope="session")
def _s3_environment(object_store: ObjectStore) -> Iterator[str]:
    """Environment by which every S3 client of this session, and of its children, talks to the local server."""
    wanted = {
        "AWS_ENDPOINT_URL": object_store.url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    yield object_store.url
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture
def s3_requests(object_store: ObjectStore) -> list[str]:
    """Requests that the S3 server gets during the test, as `METHOD path copied from ...`."""
    object_store.requests.clear()
    return object_store.requests


@pytest.fixture
def s3_root(_s3_environment: str, request: pytest.FixtureRequest) -> str:
    """A fresh bucket."""
    import boto3
    import s3fs

    name = "".join(c if c.isalnum() else "-" for c in request.node.name.lower())[:50].strip("-")
    boto3.client("s3").create_bucket(Bucket=name)
    s3fs.S3FileSystem.clear_instance_cache()
    return f"s3://{name}/root"
