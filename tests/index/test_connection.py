"""What a connection allows its client: how long, how much, and what is answered without a detour."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest

from ops.index.connection import Connection
from ops.index.server import Server
from ops.index.web.exchange import Receive, Scope, Send
from ops.index.web.representation import Answer, Representation
from tests.index.serving import ThreadServer, eventually

PAGE = Representation(b"a page " * 200, content_type="text/plain")


class Memory:
    """Keeps every message that it is given, and answers it."""

    def __init__(self) -> None:
        self.kept: dict[bytes, str] = {}
        self.answered = 0

    def answer(self, message: bytes) -> Answer | None:
        if message not in self.kept:
            return None
        self.answered += 1
        return PAGE.plain()

    def keep(self, message: bytes, path: str, headers: dict[bytes, bytes]) -> None:
        assert b"host" in headers
        self.kept[message] = path


class Application:
    """Answers ``/ready`` at once, everything else slowly, and ``/never`` when it is told to."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.release = threading.Event()
        self.repeats = Memory()
        self.parsed = 0

    def at_once(self, path: str, headers: dict[bytes, bytes], client: tuple[str, int] | None) -> Answer | None:
        assert client is not None
        assert client[0] == "127.0.0.1"
        assert b"host" in headers
        self.parsed += path == "/ready"
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


class Running(ThreadServer):
    """A server with that application."""

    def __init__(self) -> None:
        self.application = Application()
        self.sent = 0
        self.taken = 0
        super().__init__(self.application)

    def __exit__(self, *_: object) -> None:
        self.application.release.set()
        super().__exit__()

    def send(self, sent: bytes = b"") -> socket.socket:
        """Connect, and wait until the server has taken what was sent."""
        before = len(self.server.server_state.connections)
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        eventually(lambda: len(self.server.server_state.connections) > before)
        self.give(connection, sent)
        return connection

    def give(self, connection: socket.socket, piece: bytes) -> None:
        """Send, and wait until the server has taken it."""
        self.sent += len(piece)
        connection.sendall(piece)
        eventually(lambda: self.taken >= self.sent)

    def ask(self, connection: socket.socket, *pieces: bytes, answers: int = 1) -> None:
        """Send pieces one after the other, and read so many whole answers with the page."""
        for piece in pieces:
            self.give(connection, piece)
        received = read_until(connection, PAGE.body, times=answers)
        assert received.count(b"HTTP/1.1 200 OK") == answers
        assert received.endswith(PAGE.body)

    def served(self) -> Connection:
        """The server's end of the only connection."""
        (connection,) = self.server.server_state.connections
        assert isinstance(connection, Connection)
        return connection

    def sweep(self, later: float) -> int:
        """Look after all connections, as if *later* seconds had passed; how many are left."""
        swept = threading.Event()

        def work() -> None:
            for connection in list(self.server.server_state.connections):
                assert isinstance(connection, Connection)
                connection.sweep(self.loop.time() + later)
            self.loop.call_soon(swept.set)  # behind the end of those that were closed

        self.loop.call_soon_threadsafe(work)
        assert swept.wait(10)
        return len(self.server.server_state.connections)


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    with Running() as running:
        take = Connection.data_received

        def taken(self: Connection, data: bytes) -> None:
            take(self, data)
            running.taken += len(data)

        monkeypatch.setattr(Connection, "data_received", taken)
        yield running


def test_what_is_ready_is_answered_without_the_application(running: Running) -> None:
    assert running.get("/ready").body == PAGE.body
    assert running.application.calls == []
    assert running.get("/other").body == b"slowly"
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
    running.request(method, path, body=body, headers=headers)
    assert running.application.calls == [f"{method} /ready"]


def test_both_ways_may_follow_each_other_on_one_connection(running: Running) -> None:
    connection = running.connect()
    for path, content in (("/ready", PAGE.body), ("/a", b"slowly"), ("/ready", PAGE.body), ("/ready", PAGE.body)):
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.headers["date"]
        assert answer.read() == content
    connection.close()


def test_a_request_behind_a_slow_one_waits_for_its_turn(running: Running) -> None:
    both = b"GET /never HTTP/1.1\r\nHost: x\r\n\r\nGET /ready HTTP/1.1\r\nHost: x\r\n\r\n"
    with running.send(both) as connection:
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.recv(1000)
        connection.settimeout(10)
        running.application.release.set()
        answer = read_until(connection, PAGE.body)
        assert answer.index(b"slowly") < answer.index(PAGE.body)


READY = b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n"


def read_until(connection: socket.socket, wanted: bytes, *, times: int = 1) -> bytes:
    """All that comes until something has come so often."""
    received = b""
    while received.count(wanted) < times:
        piece = connection.recv(65536)
        assert piece, received
        received += piece
    return received


def test_the_same_bytes_again_are_not_parsed(running: Running) -> None:
    memory = running.application.repeats
    with running.send() as connection, running.send() as another:
        for client in (connection, another, connection, connection):
            running.ask(client, READY)
    assert memory.kept == {READY: "/ready"}
    assert (running.application.parsed, memory.answered) == (1, 3)
    assert running.server.server_state.total_requests == 4


@pytest.mark.parametrize(
    ("pieces", "answers"),
    [
        ((READY + READY,), 2),
        ((READY[:20], READY[20:]), 1),
        ((READY + READY[:20], READY[20:]), 2),
        ((READY.replace(b"/ready", b"/a"),), 0),
        ((READY.replace(b"Host: x", b"Host: x\r\nX: " + b"y" * 4096),), 1),
    ],
    ids=["two at once", "one in two pieces", "one and a half", "not ready", "long"],
)
def test_what_is_no_single_whole_request_for_what_is_ready_is_not_kept(
    running: Running, pieces: tuple[bytes, ...], answers: int
) -> None:
    with running.send() as connection:
        if answers:
            running.ask(connection, *pieces, answers=answers)
        else:
            running.give(connection, b"".join(pieces))
            read_until(connection, b"slowly")
        assert {len(message) for message in running.application.repeats.kept} <= {4096 + len(READY) + len("\r\nX: ")}
        running.ask(connection, READY)
        running.ask(connection, READY)
    assert running.application.repeats.answered == 1


def test_a_request_with_rubbish_behind_it_is_refused_each_time(running: Running) -> None:
    for _ in range(3):
        with running.send() as connection:
            running.give(connection, READY + b"\0rubbish")
            received = b""
            while piece := connection.recv(65536):
                received += piece
            assert b" 400 " in received
    assert running.application.repeats.kept == {}


def test_known_bytes_behind_a_slow_request_wait_for_their_turn(running: Running) -> None:
    with running.send() as connection:
        running.ask(connection, READY)
        running.give(connection, b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n")
        running.give(connection, READY)
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.recv(1000)
        connection.settimeout(10)
        running.application.release.set()
        answer = read_until(connection, PAGE.body)
    assert answer.index(b"slowly") < answer.index(PAGE.body)
    assert running.application.repeats.answered == 0


def test_known_bytes_keep_the_connection_open_as_any_request_does(running: Running) -> None:
    with running.send() as connection:
        running.ask(connection, READY)
        running.give(connection, READY.replace(b"/ready", b"/a"))
        read_until(connection, b"slowly")
        served = running.served()
        eventually(lambda: served.timeout_keep_alive_task is not None)
        running.ask(connection, READY)
        assert served.timeout_keep_alive_task is None


def test_the_body_of_a_request_is_never_taken_for_known_bytes(running: Running) -> None:
    with running.send() as connection:
        running.ask(connection, READY)
        running.give(connection, b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(READY))
        read_until(connection, b"slowly")
        running.give(connection, READY)
        running.ask(connection, READY)
    assert running.application.repeats.answered == 1


@pytest.mark.parametrize("sent", [b"", b"GET / H", b"GET / HTTP/1.1\r\nX: ", b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_a_client_that_sends_nothing_more_is_sent_away_after_a_while(running: Running, sent: bytes) -> None:
    with running.send(sent):
        assert running.sweep(20) == 1
        assert running.sweep(80) == 0


def test_a_client_whose_answer_is_being_made_is_not(running: Running) -> None:
    with running.send(b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n"):
        assert running.sweep(100_000) == 1


def test_a_client_that_still_sends_what_was_answered_already_has_some_minutes(running: Running) -> None:
    with running.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nxxx") as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        running.give(connection, b"x" * 200_000)
        assert running.sweep(80) == 1
        assert running.sweep(1000) == 0


def test_a_client_that_does_not_read_its_answer_has_some_minutes(running: Running) -> None:
    with running.send(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n"):
        served = running.served()
        eventually(lambda: served._stuck_since is not None)
        assert running.sweep(500) == 1
        assert running.sweep(1000) == 0


def test_a_server_tells_once_that_it_has_settled() -> None:
    told: list[int] = []
    server = Server(Application(), ready=lambda: None, settled=lambda: told.append(ticks))
    server.config.load()

    async def tick() -> None:
        await server.on_tick(ticks)

    for ticks in range(100):  # noqa: B007 - told above
        asyncio.run(tick())
    assert told == [30]


def test_a_head_that_is_too_long_is_refused(running: Running) -> None:
    with running.send(b"GET / HTTP/1.1\r\nX: ") as connection:
        for length in (30_000, 30_000, 6_000):  # the last is taken whole: the server closes with nothing left unread
            running.give(connection, b"x" * length)
        assert connection.recv(1000).startswith(b"HTTP/1.1 400")
    assert running.get("/a", X="x" * 50_000).body == b"slowly"
