"""Servers and clusters for the pipeline tests: real ones, on this machine."""

import pytest
from object_store import _s3_environment, object_store, s3_requests, s3_root

__all__ = ["_s3_environment", "object_store", "s3_requests", "s3_root"]


@pytest.fixture(scope="session")
def local_ray(_s3_environment: str):
    """One Ray of our own on two CPUs for the whole test session; its workers know the local S3 server."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="warning", log_to_driver=False)
    yield ray
    ray.shutdown()
