"""The built-in loader counts every response, however the server frames it."""

from __future__ import annotations

import itertools
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ops.errors import IndexRequestError
from tests.benchmark import load, wrk
from tests.benchmark.responses import ResponseParser, Tally

LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
EMPTY_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
CLOSED = b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nhello"
CLOSED_WITH_LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
UNCHANGED = b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n"
REFUSED = b"HTTP/1.1 409 Conflict\r\nContent-Length: 0\r\n\r\n"


class FakeServer:
    """Sends prepared responses in turn, and counts requests and connections."""

    def __init__(self, *responses: bytes) -> None:
        self.requests = 0
        self.connections = 0
        self._responses = itertools.cycle(responses)
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/simple/x/"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(20)
            data = b""
            while True:
                while b"\r\n\r\n" not in data:
                    try:
                        piece = connection.recv(4096)
                    except OSError:
                        return
                    if not piece:
                        return
                    data += piece
                data = data.partition(b"\r\n\r\n")[2]
                with self._lock:
                    self.requests += 1
                    response = next(self._responses)
                if not response:
                    return
                connection.sendall(response)
                if b"HTTP/1.0" in response or b"Connection: close" in response:
                    return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()


@contextmanager
def server(*responses: bytes) -> Iterator[FakeServer]:
    running = FakeServer(*responses)
    try:
        yield running
    finally:
        running.close()


def send(url: str, number: int, connections: int = 3) -> Tally:
    return load.send(url, load.supply(itertools.repeat(load.request(url), number)), connections=connections, seconds=20)


@pytest.mark.parametrize(
    "response", [LENGTH, CHUNKED, EMPTY_CHUNKED, CLOSED, CLOSED_WITH_LENGTH, b"HTTP/1.1 204 No Content\r\n\r\n"]
)
def test_each_request_is_counted_once_however_its_response_ends(response: bytes) -> None:
    with server(response) as running:
        tally = send(running.url, 50)
        assert tally.good == running.requests == 50
        assert tally.broken == 0
        assert tally.rate("pages") == pytest.approx(50 / tally.seconds)


def test_connections_are_reused_if_the_server_keeps_them_open() -> None:
    with server(LENGTH) as running:
        send(running.url, 50, connections=3)
        assert running.connections <= 3


def test_a_rate_that_includes_refusals_is_an_error() -> None:
    with server(LENGTH, REFUSED) as running:
        tally = send(running.url, 10)
    assert tally.responses == {200: 5, 409: 5}
    with pytest.raises(IndexRequestError, match="5 good responses, 5 x 409") as error:
        tally.rate("uploads")
    assert error.value.status == 409


def test_a_connection_closed_before_its_response_counts_as_broken() -> None:
    with server(LENGTH, b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nhalf") as running:
        tally = send(running.url, 9, connections=1)
    assert tally.good == 3
    assert tally.broken == 6


def test_an_unreachable_server_is_reported_as_broken_connections() -> None:
    with server(LENGTH) as running:
        url = running.url
    with pytest.raises(IndexRequestError, match="broken connections"):
        send(url, 5).rate("pages")


@pytest.mark.parametrize("response", [LENGTH, CHUNKED, EMPTY_CHUNKED, CLOSED_WITH_LENGTH, UNCHANGED])
def test_a_response_is_complete_at_its_last_byte_and_not_before(response: bytes) -> None:
    parsed = ResponseParser()
    for byte in response[:-1]:
        assert not parsed.feed(bytes([byte]))
    assert parsed.feed(response[-1:])
    assert ResponseParser().feed(response)


def test_a_page_is_requested_until_the_time_is_up() -> None:
    with server(LENGTH) as running:
        tally = load.fetch(running.url, authorization="Basic eDp5", accept="text/html", connections=2, seconds=0.3)
        assert tally.good == running.requests
        assert tally.seconds >= 0.3


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not on PATH")
def test_wrk_counts_good_responses_and_refusals_separately(tmp_path: Path) -> None:
    with server(LENGTH, LENGTH, LENGTH, REFUSED) as running:
        tally = wrk.fetch(
            running.url, authorization="Basic eDp5", accept="*/*", connections=2, seconds=1, folder=tmp_path
        )
    assert tally.client == "wrk"
    assert tally.good == pytest.approx(3 * tally.responses[400], abs=12)
    assert (tmp_path / "wrk.lua").stat().st_mode & 0o777 == 0o600
