"""Connections: their limits of time and size, and responses of the fast path."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest
from starlette.types import Receive, Scope, Send

from ops.index.connection import Connection
from ops.index.connection_limits import ConnectionLimits
from ops.index.errors import Unauthorized
from ops.index.http.representation import Representation, Response
from ops.index.http.request import note_login, refusal_response
from ops.index.server import Server
from tests.index.serving import ThreadServer, confirm_lifespan, eventually

REFUSAL = refusal_response(Unauthorized(realm="pypi"))
PAGE = Representation(b"a page " * 200, content_type="text/plain")


class Memory:
    """Remembers every message, and responds to it."""

    def __init__(self) -> None:
        self.kept: dict[bytes, str] = {}
        self.answered = 0
        self.unchanged = False
        self.page = PAGE
        self.changes = 0

    def state(self) -> int:
        self.changes += not self.unchanged
        return self.changes

    def response(self, message: bytes, peer: str) -> Response | None:
        if message not in self.kept:
            return None
        self.answered += 1
        return REFUSAL if self.kept[message] == "/refused" else self.page.plain()

    def keep(self, message: bytes, path: str, headers: dict[bytes, bytes]) -> None:
        assert b"host" in headers
        self.kept[message] = path


class Application:
    """Answers ``/ready`` at once, everything else slowly, and ``/never`` on command."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.hosts: list[list[bytes]] = []
        self.release = threading.Event()
        self.fast_path = Memory()
        self.parsed = 0

    def at_once(self, path: str, headers: dict[bytes, bytes], peer: str) -> Response | None:
        assert b"host" in headers
        self.parsed += path == "/ready"
        return PAGE.plain() if path == "/ready" else None

    def challenge(self, path: str, headers: dict[bytes, bytes], peer: str) -> Response | None:
        return REFUSAL if path == "/refused" else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await confirm_lifespan(receive, send)
            return
        self.calls.append(f"{scope['method']} {scope['path']}")
        if scope["path"] == "/login":
            note_login(scope)
        while scope["method"] == "POST" and scope["path"] == "/read" and (await receive()).get("more_body"):
            pass
        self.hosts.append([value for name, value in scope["headers"] if name == b"host"])
        if scope["path"] == "/never":
            await asyncio.to_thread(self.release.wait, 20)
        body = {"/big": bytes(20_000_000), "/ready": PAGE.body}.get(scope["path"], b"slowly")
        length = (b"content-length", str(len(body)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": body})


class Running(ThreadServer):
    """A server with that application."""

    def __init__(self, limits: ConnectionLimits | None = None) -> None:
        self.application = Application()
        self.sent = 0
        self.taken = 0
        super().__init__(self.application, limits)

    def __exit__(self, *_: object) -> None:
        self.application.release.set()
        super().__exit__()

    def send(self, sent: bytes = b"") -> socket.socket:
        """Connect, send, and wait until the server has received it."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        name = connection.getsockname()
        eventually(lambda: name in [connection.client for connection in self.connections()])
        if sent:
            self.give(connection, sent)
        return connection

    def give(self, connection: socket.socket, piece: bytes) -> None:
        """Send, and wait until the server has received it."""
        self.sent += len(piece)
        connection.sendall(piece)
        eventually(lambda: self.taken >= self.sent)

    def ask(self, connection: socket.socket, *pieces: bytes, responses: int = 1) -> None:
        """Send pieces one after the other, and read this many complete responses."""
        for piece in pieces:
            self.give(connection, piece)
        received = read_until(connection, PAGE.body, times=responses)
        assert received.count(b"HTTP/1.1 200 OK") == responses
        assert received.endswith(PAGE.body)

    def ask_plainly(self, connection: socket.socket) -> None:
        """Request the page, and read it."""
        connection.sendall(READY)
        read_until(connection, PAGE.body)

    def served(self) -> Connection:
        """The server's end of the only connection."""
        (connection,) = self.connections()
        return connection

    def connections(self) -> list[Connection]:
        """The server's ends of all connections."""
        held = list(self.server.server_state.connections)
        return [connection for connection in held if isinstance(connection, Connection)]

    def sweep(self, later: float) -> int:
        """Sweep all connections, as if *later* seconds had passed; returns how many are left."""
        swept = threading.Event()

        def work() -> None:
            for connection in list(self.server.server_state.connections):
                assert isinstance(connection, Connection)
                connection.sweep(self.loop.time() + later)
            self.loop.call_soon(swept.set)  # after the closed ones have ended

        self.loop.call_soon_threadsafe(work)
        assert swept.wait(60)
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


def test_a_ready_response_is_sent_without_the_application(running: Running) -> None:
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
def test_everything_else_is_handled_by_uvicorn(
    running: Running, method: str, path: str, body: bytes | None, headers: dict[str, str]
) -> None:
    running.request(method, path, body=body, headers=headers)
    assert running.application.calls == [f"{method} /ready"]


def test_both_paths_may_alternate_on_one_connection(running: Running) -> None:
    connection = running.connect()
    for path, content in (("/ready", PAGE.body), ("/a", b"slowly"), ("/ready", PAGE.body), ("/ready", PAGE.body)):
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.headers["date"]
        assert response.read() == content
    connection.close()


def assert_in_order(running: Running, connection: socket.socket) -> None:
    """Nothing is sent until the slow request is released; then both responses follow, in order."""
    connection.setblocking(False)
    with pytest.raises(BlockingIOError):
        connection.recv(1000)
    connection.settimeout(60)
    running.application.release.set()
    response = read_until(connection, PAGE.body)
    assert response.index(b"slowly") < response.index(PAGE.body)


def test_a_request_after_a_slow_one_waits_for_its_turn(running: Running) -> None:
    both = b"GET /never HTTP/1.1\r\nHost: x\r\n\r\nGET /ready HTTP/1.1\r\nHost: x\r\n\r\n"
    with running.send(both) as connection:
        assert_in_order(running, connection)


READY = b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n"


def read_until(connection: socket.socket, wanted: bytes, *, times: int = 1) -> bytes:
    """Everything received until a text has occurred this many times."""
    received = b""
    while received.count(wanted) < times:
        piece = connection.recv(65536)
        assert piece, received
        received += piece
    return received


def test_repeated_bytes_are_not_parsed(running: Running) -> None:
    memory = running.application.fast_path
    with running.send() as connection, running.send() as another:
        for client in (connection, another, connection, connection):
            running.ask(client, READY)
    assert memory.kept == {READY: "/ready"}
    assert (running.application.parsed, memory.answered) == (1, 3)
    assert running.server.server_state.total_requests == 4


def test_repeated_bytes_on_one_connection_are_only_looked_up_after_a_change(running: Running) -> None:
    memory = running.application.fast_path
    memory.unchanged = True
    with running.send() as connection, running.send() as another:
        running.ask(connection, READY)
        running.ask(connection, READY, READY, READY, responses=3)
        assert memory.answered == 1
        running.ask(another, READY)
        assert memory.answered == 2, "one connection's memory is not used by another"
        memory.changes += 1
        running.ask(connection, READY)
        running.ask(connection, READY)
        assert memory.answered == 3


def test_other_bytes_on_one_connection_are_looked_up(running: Running) -> None:
    memory = running.application.fast_path
    memory.unchanged = True
    other = READY.replace(b"Host: x", b"Host: y")
    with running.send() as connection:
        for message in (READY, other, READY, other, READY):
            running.ask(connection, message)
        running.give(connection, READY.replace(b"/ready", b"/a"))
        assert b"slowly" in read_until(connection, b"slowly")
    assert memory.answered == 3


def test_downloads_and_long_bodies_are_looked_up_each_time(running: Running) -> None:
    memory = running.application.fast_path
    memory.unchanged = True
    with running.send() as connection:
        download = READY.replace(b"/ready", b"/packages/a-1.0.whl")
        memory.kept = dict.fromkeys((READY, download), "/ready")
        running.ask(connection, download)
        running.ask(connection, download)
        assert memory.answered == 2
        memory.page = Representation(b"a page " * 5000, content_type="text/plain")
        for _ in range(2):
            running.give(connection, READY)
            read_until(connection, b"a page ", times=5000)
    assert memory.answered == 4


@pytest.mark.parametrize(
    ("pieces", "responses"),
    [
        ((READY + READY,), 2),
        ((READY[:20], READY[20:]), 1),
        ((READY + READY[:20], READY[20:]), 2),
        ((READY.replace(b"/ready", b"/a"),), 0),
        ((READY.replace(b"Host: x", b"Host: x\r\nX: " + b"y" * 4096),), 1),
    ],
    ids=["two at once", "one in two pieces", "one and a half", "not ready", "long"],
)
def test_only_a_single_complete_request_for_a_ready_response_is_remembered(
    running: Running, pieces: tuple[bytes, ...], responses: int
) -> None:
    with running.send() as connection:
        if responses:
            running.ask(connection, *pieces, responses=responses)
        else:
            running.give(connection, b"".join(pieces))
            read_until(connection, b"slowly")
        assert {len(message) for message in running.application.fast_path.kept} <= {4096 + len(READY) + len("\r\nX: ")}
        running.ask(connection, READY)
        running.ask(connection, READY)
    assert running.application.fast_path.answered == 1


def test_a_request_followed_by_garbage_is_refused_each_time(running: Running) -> None:
    for _ in range(3):
        with running.send() as connection:
            running.give(connection, READY + b"\0rubbish")
            received = b""
            while piece := connection.recv(65536):
                received += piece
            assert b" 400 " in received
    assert running.application.fast_path.kept == {}


def test_known_bytes_after_a_slow_request_wait_for_their_turn(running: Running) -> None:
    with running.send() as connection:
        running.ask(connection, READY)
        running.give(connection, b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n")
        running.give(connection, READY)
        assert_in_order(running, connection)
    assert running.application.fast_path.answered == 0


def test_known_bytes_keep_the_connection_open_like_any_request(running: Running) -> None:
    with running.send() as connection:
        running.ask(connection, READY)
        running.give(connection, READY.replace(b"/ready", b"/a"))
        read_until(connection, b"slowly")
        served = running.served()
        eventually(lambda: served.timeout_keep_alive_task is not None)
        running.ask(connection, READY)
        assert served.timeout_keep_alive_task is None


def test_the_body_of_a_request_is_never_mistaken_for_known_bytes(running: Running) -> None:
    with running.send() as connection:
        running.ask(connection, READY)
        running.give(connection, b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(READY))
        read_until(connection, b"slowly")
        running.give(connection, READY)
        running.ask(connection, READY)
    assert running.application.fast_path.answered == 1


@pytest.mark.parametrize("sent", [b"", b"GET / H", b"GET / HTTP/1.1\r\nX: "])
def test_a_client_without_a_first_request_is_closed_after_ten_seconds(running: Running, sent: bytes) -> None:
    with running.send(sent) as connection:
        assert running.sweep(9) == 1
        if sent:
            running.give(connection, b"TTP/1.1\r\nX: ")
        assert running.sweep(15) == 0


@pytest.mark.parametrize(("sent", "kept"), [(b"", 70), (b"GET / H", 25)])
def test_an_idle_client_is_closed_after_a_while(running: Running, sent: bytes, kept: int) -> None:
    with running.send() as connection:
        running.ask(connection, READY)
        running.give(connection, sent)
        assert running.sweep(kept) == 1
        assert running.sweep(80) == 0


def test_a_client_waiting_for_its_response_is_not_closed(running: Running) -> None:
    with running.send(b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n"):
        assert running.sweep(100_000) == 1


def test_a_client_still_sending_an_answered_request_has_some_minutes(running: Running) -> None:
    with running.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nxxx") as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        running.give(connection, b"x" * 200_000)
        assert running.sweep(80) == 1
        assert running.sweep(1000) == 0


def test_a_client_that_does_not_read_its_response_has_some_minutes(running: Running) -> None:
    with running.send(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n"):
        served = running.served()
        eventually(lambda: served._stuck_since is not None)
        assert running.sweep(500) == 1
        assert running.sweep(1000) == 0


def test_a_server_reports_once_that_it_has_settled() -> None:
    told: list[int] = []
    server = Server(Application(), ready=lambda: None, settled=lambda: told.append(ticks))
    server.config.load()

    async def tick() -> None:
        await server.on_tick(ticks)

    for ticks in (*range(100), *range(100)):  # noqa: B007 - used above; uvicorn counts from 0 again every day
        asyncio.run(tick())
    assert told == [30]


def test_a_too_long_head_is_refused(running: Running) -> None:
    with running.send(b"GET / HTTP/1.1\r\nX: ") as connection:
        for length in (
            30_000,
            30_000,
            6_000,
        ):  # the last is read completely: the server closes with nothing left unread
            running.give(connection, b"x" * length)
        assert connection.recv(1000).startswith(b"HTTP/1.1 400")
    assert running.get("/a", X="x" * 50_000).body == b"slowly"


GOOD = b"POST /a HTTP/1.1\r\nHost: x\r\n"
CHUNKED = GOOD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        GOOD + b"X: " + b"y" * 70_000 + b"\r\n\r\n",
        b"GET /ready HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
        GOOD + b"X: y\r\n" * 100 + b"\r\n",
        b"GET /" + b"y" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["one piece", "one piece for what is ready", "many lines", "a long path"],
)
def test_a_head_that_arrives_at_once_has_the_same_limits(running: Running, sent: bytes) -> None:
    assert status_of(running, sent) == 400
    assert running.application.calls == []


@pytest.mark.parametrize(
    "rest",
    [
        b"0\r\n" + b"X: " + b"y" * 70_000 + b"\r\n\r\n",
        b"0\r\n" + b"X: y\r\n" * 101 + b"\r\n",
        b"1;" + b"y" * 70_000,
        b"0\r\nX: " + b"y" * 70_000,
    ],
    ids=["long trailers", "many trailers", "a long extension", "a trailer without an end"],
)
@pytest.mark.parametrize("together", [True, False])
def test_the_framing_of_a_body_is_bounded(running: Running, rest: bytes, *, together: bool) -> None:
    pieces = [CHUNKED.replace(b"/a", b"/never") + rest] if together else [CHUNKED.replace(b"/a", b"/never"), rest]
    with running.send() as connection:
        for piece in pieces:
            running.give(connection, piece)
        assert connection.recv(1000).startswith(b"HTTP/1.1 400")


def test_a_body_in_many_small_chunks_with_a_trailer_is_accepted(running: Running) -> None:
    sent = CHUNKED.replace(b"/a", b"/read") + b"1\r\ny\r\n" * 50_000 + b"0\r\nHost: other\r\n\r\n"
    assert status_of(running, sent) == 200
    assert running.application.hosts == [[b"x"]]


@pytest.mark.parametrize("path", [b"/ready", b"/a"])
@pytest.mark.parametrize(
    "hosts",
    [
        b"",
        b"Host: x\r\nHost: x\r\n",
        b"Host: x\r\nhost: y\r\n",
        b"Host: \r\n",
        b"Host: a b\r\n",
        b"Host: x/y\r\n",
        b"Host: u@x\r\n",
        b"Host: x:y\r\n",
        b"Host: x, y:1\r\n",
        b"Host: [::1\r\n",
        b"Host: <x>\r\n",
        b"Host: %zz\r\n",
        b"Host: " + b"x" * 400 + b"\r\n",
    ],
)
def test_a_request_without_exactly_one_host_is_refused(running: Running, path: bytes, hosts: bytes) -> None:
    for _ in range(2):
        assert status_of(running, b"GET " + path + b" HTTP/1.1\r\n" + hosts + b"\r\n") == 400
    assert running.application.calls == []


@pytest.mark.parametrize("host", [b"x", b"x:80", b"[::1]:8080", b"[fe80::1]", b"10.0.0.1", b"a-b_c.example.", b"x:"])
@pytest.mark.parametrize("path", [b"/ready", b"/a"])
def test_a_host_with_or_without_a_port_is_accepted(running: Running, path: bytes, host: bytes) -> None:
    assert status_of(running, b"GET " + path + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n") == 200


def test_http_1_0_needs_no_host(running: Running) -> None:
    assert status_of(running, b"GET /a HTTP/1.0\r\n\r\n") == 200
    assert status_of(running, b"GET /a HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n") == 400


UPGRADE = b"GET /other HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"


def test_requests_after_an_upgrade_request_are_answered(running: Running) -> None:
    with running.send(UPGRADE * 500 + READY) as connection:
        received = read_until(connection, PAGE.body)
        assert received.count(b"HTTP/1.1 200 OK") == 501


@pytest.mark.parametrize("framing", [b"Content-Length: 38", b"Transfer-Encoding: chunked"])
def test_the_body_of_an_upgrade_request_is_never_mistaken_for_a_request(running: Running, framing: bytes) -> None:
    head = b"POST /read HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n" + framing + b"\r\n\r\n"
    with running.send(head + b"GET /smuggled HTTP/1.1\r\nHost: victim\r\n\r\n") as connection:
        received = b"".join(iter(lambda: connection.recv(65536), b""))
        assert received.startswith(b"HTTP/1.1 400 ")
        assert received.count(b"HTTP/1.1 ") == 1
    assert running.application.calls == []


def test_a_body_with_another_transfer_coding_is_refused(running: Running) -> None:
    head = b"POST /read HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: "
    assert status_of(running, head + b"gzip, chunked\r\n\r\n0\r\n\r\n") == 400
    assert running.application.calls == []
    assert status_of(running, head + b"Chunked\r\n\r\n0\r\n\r\n") == 200


def status_of(running: Running, sent: bytes) -> int:
    return int(running.raw(sent).split()[1])


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01\x02\x00\x01\x00", b"hello\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n"]
)
def test_anything_but_http_is_refused_with_a_sentence_and_not_logged(
    running: Running, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    response = running.raw(sent)
    assert response.startswith(b"HTTP/1.1 400 Bad Request: this is not an HTTP/1.1 request; use http://")
    assert caplog.text == ""


def test_garbage_after_a_request_does_not_replace_its_response(running: Running) -> None:
    with running.send(b"GET /never HTTP/1.1\r\nHost: x\r\n\r\nrubbish\r\n\r\n") as connection:
        running.application.release.set()
        assert read_until(connection, b"slowly").startswith(b"HTTP/1.1 200 OK\r\n")
        assert connection.recv(1000) == b""


def test_a_half_closed_connection_is_closed(running: Running) -> None:
    with running.send(b"GET / H") as connection:
        connection.shutdown(socket.SHUT_WR)
        eventually(lambda: not running.server.server_state.connections)
        assert connection.recv(1000) == b""


def test_the_oldest_connection_without_a_login_is_replaced() -> None:
    with Running(ConnectionLimits(3, 3)) as running, running.send() as user, running.send() as silent:
        running.ask_plainly(user)
        with running.send() as dribbling, running.send() as new:
            dribbling.sendall(b"GET / H")
            assert silent.recv(1000) == b""
            for connection in (user, new, user):
                running.ask_plainly(connection)
            dribbling.setblocking(False)
            with pytest.raises(BlockingIOError):
                dribbling.recv(1000)


def test_a_login_accepted_by_the_application_counts() -> None:
    with Running(ConnectionLimits(2, 2)) as running, running.send() as user, running.send() as silent:
        user.sendall(b"GET /login HTTP/1.1\r\nHost: x\r\n\r\n")
        read_until(user, b"slowly")
        with running.send() as new:
            assert silent.recv(1000) == b""
            running.ask_plainly(new)


REFUSED = READY.replace(b"/ready", b"/refused")


def test_a_ready_refusal_has_its_reason_and_needs_no_application(running: Running) -> None:
    with running.send() as connection:
        for _ in range(3):
            connection.sendall(REFUSED)
            received = read_until(connection, REFUSAL.body)
            assert received.startswith(b"HTTP/1.1 401 Unauthorized: log in with a user name and password")
        running.ask_plainly(connection)
    assert running.application.calls == []


def test_a_ready_refusal_does_not_count_as_a_login() -> None:
    with Running(ConnectionLimits(2, 2)) as running, running.send() as user, running.send() as stranger:
        for client, message in ((user, READY), (user, REFUSED), (stranger, REFUSED), (stranger, REFUSED)):
            client.sendall(message)
            read_until(client, PAGE.body if message is READY else REFUSAL.body)
        with running.send() as new:
            assert stranger.recv(1000) == b"", "the stranger is replaced"
            for connection in (new, user):
                running.ask_plainly(connection)


def test_a_new_connection_is_refused_when_users_have_all_of_them() -> None:
    with Running(ConnectionLimits(1, 1)) as running, running.send() as user:
        user.sendall(READY + b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n")
        read_until(user, PAGE.body)
        with socket.create_connection(("127.0.0.1", running.port), timeout=60) as refused:
            response = read_until(refused, b"\r\n\r\n")
        assert response.startswith(b"HTTP/1.1 503 Service Unavailable: all connections of this index are taken")
        running.application.release.set()
        read_until(user, b"slowly")
