"""What a connection allows its client: how long, how much, and what is answered without a detour."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from ops.index.connection import Connection
from ops.index.exchange import Receive, Scope, Send
from ops.index.representation import Answer, Representation
from ops.index.server import Server
from tests.index.serving import eventually

PAGE = Representation(b"a page " * 200, content_type="text/plain")


class Application:
    """Answers ``/ready`` at once, everything else slowly, and ``/never`` when it is told to."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.release = threading.Event()

    def at_once(self, path: str, headers: dict[bytes, bytes], client: tuple[str, int] | None) -> Answer | None:
        assert client is not None
        assert b"host" in headers
        return PAGE.plain() if path == "/ready" else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        self.calls.append(f"{scope['method']} {scope['path']}")
        if scope["path"] == "/never":
            await asyncio.to_thread(self.release.wait, 20)
        body = {"/big": bytes(20_000_000), "/ready": PAGE.body}.get(scope["path"], b"slowly")
        length = (b"content-length", str(len(body)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": body})


class Running:
    """A server in a thread of this process."""

    def __init__(self) -> None:
        self.application = Application()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        started = threading.Event()
        self.server = Server(self.application, ready=started.set)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert started.wait(10)

    def _run(self) -> None:
        async def serve() -> None:
            self.loop = asyncio.get_running_loop()
            await self.server._serve([self.listener])  # without its signals, which only the main thread may catch

        asyncio.run(serve())

    def stop(self) -> None:
        self.application.release.set()
        self.server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()

    def connect(self, sent: bytes = b"") -> socket.socket:
        """Connect, and wait until the server has taken what was sent."""
        before = len(self.server.server_state.connections)
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        connection.sendall(sent)
        eventually(lambda: len(self.server.server_state.connections) > before)
        time.sleep(0.1)
        return connection

    def sweep(self, later: float) -> int:
        """Look after all connections, as if *later* seconds had passed; how many are left."""
        swept = threading.Event()

        def work() -> None:
            for connection in list(self.server.server_state.connections):
                assert isinstance(connection, Connection)
                connection.sweep(self.loop.time() + later)
            swept.set()

        self.loop.call_soon_threadsafe(work)
        assert swept.wait(10)
        time.sleep(0.1)
        return len(self.server.server_state.connections)

    def request(self, method: str, path: str, *, body: bytes | None = None, **headers: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request(method, path, body=body, headers=headers)
        content = connection.getresponse().read()
        connection.close()
        return content


@pytest.fixture
def running() -> Iterator[Running]:
    running = Running()
    yield running
    running.stop()


def test_what_is_ready_is_answered_without_the_application(running: Running) -> None:
    assert running.request("GET", "/ready") == PAGE.body
    assert running.application.calls == []
    assert running.request("GET", "/other") == b"slowly"
    assert running.application.calls == ["GET /other"]


@pytest.mark.parametrize(
    ("method", "path", "body", "headers"),
    [
        ("HEAD", "/ready", None, {}),
        ("POST", "/ready", b"x", {}),
        ("GET", "/ready", b"x", {}),
        ("GET", "/ready?x", None, {}),
        ("GET", "/ready", None, {"Connection": "close"}),
        ("GET", "/ready", None, {"Connection": "upgrade", "Upgrade": "websocket"}),
    ],
)
def test_everything_else_goes_its_usual_way(
    running: Running, method: str, path: str, body: bytes | None, headers: dict[str, str]
) -> None:
    running.request(method, path, body=body, **headers)
    assert running.application.calls == [f"{method} /ready"]


def test_both_ways_may_follow_each_other_on_one_connection(running: Running) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
    for path, content in (("/ready", PAGE.body), ("/a", b"slowly"), ("/ready", PAGE.body), ("/ready", PAGE.body)):
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.headers["date"]
        assert answer.read() == content
    connection.close()


def test_a_request_behind_a_slow_one_waits_for_its_turn(running: Running) -> None:
    both = b"GET /never HTTP/1.1\r\nHost: x\r\n\r\nGET /ready HTTP/1.1\r\nHost: x\r\n\r\n"
    with running.connect(both) as connection:
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.recv(1000)
        connection.settimeout(10)
        running.application.release.set()
        answer = b""
        while PAGE.body not in answer:
            answer += connection.recv(65536)
        assert answer.index(b"slowly") < answer.index(PAGE.body)


@pytest.mark.parametrize("sent", [b"", b"GET / H", b"GET / HTTP/1.1\r\nX: ", b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_a_client_that_sends_nothing_more_is_sent_away_after_a_while(running: Running, sent: bytes) -> None:
    with running.connect(sent):
        assert running.sweep(20) == 1
        assert running.sweep(80) == 0


def test_a_client_whose_answer_is_being_made_is_not(running: Running) -> None:
    with running.connect(b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n"):
        assert running.sweep(100_000) == 1


def test_a_client_that_still_sends_what_was_answered_already_has_some_minutes(running: Running) -> None:
    with running.connect(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nxxx") as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        connection.sendall(b"x" * 200_000)
        assert running.sweep(80) == 1
        assert running.sweep(1000) == 0


def test_a_client_that_does_not_read_its_answer_has_some_minutes(running: Running) -> None:
    with running.connect(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n"):
        assert running.sweep(500) == 1
        assert running.sweep(1000) == 0


def test_a_head_that_is_too_long_is_refused(running: Running) -> None:
    with running.connect(b"GET / HTTP/1.1\r\nX: ") as connection:
        for _ in range(3):
            connection.sendall(b"x" * 30_000)
            time.sleep(0.05)
        assert connection.recv(1000).startswith(b"HTTP/1.1 400")
    assert running.request("GET", "/a", X="x" * 50_000) == b"slowly"
