"""An S3 service on loopback, for tests that need a bucket."""

from __future__ import annotations

import logging
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from threading import Thread
from typing import TYPE_CHECKING, Self

import pytest

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class ObjectStore:
    """An S3 service without buckets, which can be made to fail.

    Attributes:
        requests: method and path of each request.
        failure: status of the requests that fail; 0 if none does.
    """

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
        from werkzeug.serving import make_server

        self.requests: list[str] = []
        self.failure = self._spared = 0
        self._service = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._respond, threaded=True, request_handler=MotoRequestHandler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def _respond(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.requests.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        if self.failure and len(self.requests) > self._spared:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response(f"{self.failure} Failed", [("Content-Length", "0")])
            return []
        response: Iterable[bytes] = self._service(environ, start_response)
        return response

    def fail(self, status: int = 500, *, after: int = 0) -> None:
        """Refuse all requests after some more."""
        self.failure, self._spared = status, len(self.requests) + after

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(scope="session")
def one_store() -> Iterator[ObjectStore]:
    """The service, for a whole session."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with ObjectStore() as store:
        yield store


@pytest.fixture
def object_store(one_store: ObjectStore) -> Iterator[ObjectStore]:
    """The service, which works."""
    yield one_store
    one_store.failure = 0


@pytest.fixture
def s3_variables(object_store: ObjectStore) -> dict[str, str]:
    """The variables for clients of the service."""
    return {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing-secret-key",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": object_store.url,
        "AWS_ALLOW_HTTP": "true",
    }


@pytest.fixture
def s3(
    object_store: ObjectStore, s3_variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], str]:
    """Creates a bucket on loopback, and returns its URL; its credentials are in the environment."""
    for name, value in s3_variables.items():
        monkeypatch.setenv(name, value)

    def make(name: str) -> str:
        request = urllib.request.Request(f"{object_store.url}/{name}", method="PUT")
        urllib.request.urlopen(request, timeout=30).close()
        return f"s3://{name}/index"

    return make
