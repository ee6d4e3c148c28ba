"""An S3 service on loopback, for tests that need a bucket."""

from __future__ import annotations

import logging
import urllib.request
from collections.abc import Callable, Iterator

import pytest


@pytest.fixture(scope="session")
def object_store() -> Iterator[str]:
    """The URL of an S3 service on loopback, without buckets."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_variables(object_store: str) -> dict[str, str]:
    """The variables for clients of the service."""
    return {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing-secret-key",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": object_store,
        "AWS_ALLOW_HTTP": "true",
    }


@pytest.fixture
def s3(object_store: str, s3_variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Creates a bucket on loopback, and returns its URL; its credentials are in the environment."""
    for name, value in s3_variables.items():
        monkeypatch.setenv(name, value)

    def make(name: str) -> str:
        request = urllib.request.Request(f"{object_store}/{name}", method="PUT")
        urllib.request.urlopen(request, timeout=30).close()
        return f"s3://{name}/index"

    return make
