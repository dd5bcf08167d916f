"""Servers and clusters for the pipeline tests: real ones, on this machine."""

import logging
import os
import threading
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def _s3_server() -> Iterator[tuple[str, list[str]]]:
    """A local S3 server in threads of this process, and the requests that it has had."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    requests: list[str] = []
    app = DomainDispatcherApplication(create_backend_app)

    def recorded(environ, start_response):
        copied = environ.get("HTTP_X_AMZ_COPY_SOURCE", "")
        requests.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']} {copied and 'copied from ' + copied}")
        return app(environ, start_response)

    server = make_server("127.0.0.1", 0, recorded, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()
    thread.join()


@pytest.fixture(scope="session")
def _s3_environment(_s3_server: tuple[str, list[str]]) -> Iterator[str]:
    """Environment by which every S3 client of this session, and of its children, talks to the local server."""
    wanted = {
        "AWS_ENDPOINT_URL": _s3_server[0],
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    yield _s3_server[0]
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture
def s3_requests(_s3_server: tuple[str, list[str]]) -> list[str]:
    """Requests that the S3 server gets during the test, as `METHOD path copied from ...`."""
    _s3_server[1].clear()
    return _s3_server[1]


@pytest.fixture
def s3_root(_s3_environment: str, request: pytest.FixtureRequest) -> str:
    """A fresh bucket."""
    import boto3
    import s3fs

    name = "".join(c if c.isalnum() else "-" for c in request.node.name.lower())[:50].strip("-")
    boto3.client("s3").create_bucket(Bucket=name)
    s3fs.S3FileSystem.clear_instance_cache()
    return f"s3://{name}/root"


@pytest.fixture(scope="session")
def local_ray(_s3_environment: str):
    """One Ray of our own on two CPUs for the whole test session; its workers know the local S3 server."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="warning", log_to_driver=False)
    yield ray
    ray.shutdown()
