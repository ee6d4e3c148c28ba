"""Repeated requests are not parsed; user and page are looked up each time."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import pickle
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ops.index import DirectoryStorage, create_index
from ops.index.auth.passwords import hashed, verify_password
from ops.index.auth.roles import Identity, Role
from ops.index.auth.tokens import Tokens
from ops.index.auth.users import Users
from ops.index.config import Options
from ops.index.errors import StorageError
from ops.index.http import fast_path as fast_path_module
from ops.index.http.fast_path import LONGEST, FastPath
from ops.index.http.representation import Response
from ops.index.packages.repository import Repository
from tests.index.archives import wheel, wheel_name
from tests.index.serving import PASSWORD, TOKEN, Server, ThreadServer, authorization, eventually

MESSAGE = b"GET /simple/spam/ HTTP/1.1\r\nHost: x\r\nAuthorization: Basic secret\r\n\r\n"
HEADERS = {b"host": b"x", b"authorization": b"Basic secret", b"cookie": b"sweet", b"accept": b"text/html"}


class FakeParts:
    """A fake authenticator with one secret, and a fake API with one page."""

    def __init__(self) -> None:
        self.inside = {self.digest(b"Basic secret")}
        self.page: Response | None = Response(200, [], b"page")
        self.asked: list[tuple[str, Mapping[bytes, bytes]]] = []
        self.challenged: list[tuple[str, str]] = []
        self.counted: list[tuple[str, str, str, bytes]] = []
        self.stamps: list[object] = []
        self.current: object = 0

    def stamp(self) -> object:
        """Stamps of the users and of the pages."""
        if isinstance(self.current, Exception):
            raise self.current
        self.stamps.append(self.current)
        return self.current

    def digest(self, secret: bytes) -> bytes:
        return hashlib.sha256(b"key" + secret).digest()

    def holder(self, digest: bytes) -> Identity | None:
        return Identity("alice", Role.READER, None) if digest in self.inside else None

    def count(self, path: str, user: str, peer: str, headers: Mapping[bytes, bytes]) -> None:
        self.counted.append((path, user, peer, headers[b"user-agent"]))

    def challenge(self, path: str, headers: Mapping[bytes, bytes], peer: str) -> Response | None:
        assert not headers
        self.challenged.append((path, peer))
        return Response(401, [], b"no")

    def ready(self, path: str, headers: Mapping[bytes, bytes]) -> Response | None:
        self.asked.append((path, headers))
        return self.page


@pytest.fixture
def parts() -> FakeParts:
    return FakeParts()


@pytest.fixture
def fast_path(parts: FakeParts) -> FastPath:
    return FastPath(cast("Any", parts), cast("Any", parts), parts.count, parts.challenge)


def test_each_download_of_a_file_is_counted_but_no_page_or_metadata(parts: FakeParts, fast_path: FastPath) -> None:
    headers = HEADERS | {b"user-agent": b"pip/26.3"}
    for path in ("/packages/a-1.0.whl", "/packages/a-1.0.whl.metadata", "/simple/a/"):
        message = MESSAGE.replace(b"/simple/spam/", path.encode())
        fast_path.keep(message, path, headers)
        assert fast_path.response(message, "192.0.2.1") is parts.page
        assert fast_path.response(message, "192.0.2.2") is parts.page
    download = ("/packages/a-1.0.whl", "alice")
    assert parts.counted == [(*download, "192.0.2.1", b"pip/26.3"), (*download, "192.0.2.2", b"pip/26.3")]


def test_only_remembered_requests_are_answered(parts: FakeParts, fast_path: FastPath) -> None:
    assert fast_path.response(MESSAGE, "192.0.2.1") is None
    fast_path.keep(MESSAGE, "/simple/spam/", HEADERS)
    assert fast_path.response(MESSAGE, "192.0.2.1") is parts.page
    assert parts.asked == [("/simple/spam/", {b"accept": b"text/html"})]
    assert fast_path.response(MESSAGE + b" ", "192.0.2.1") is None
    assert fast_path.response(MESSAGE.lower(), "192.0.2.1") is None


def states(fast_path: FastPath, *changes: Callable[[], None]) -> list[int]:
    """The states of three requests in each iteration of an event loop, with a change between one and the next."""
    found: list[int] = []

    def receive() -> None:
        found.extend(fast_path.state() for _ in range(3))

    async def run() -> None:
        for change in (lambda: None, *changes):
            change()
            asyncio.get_running_loop().call_soon(receive)
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    asyncio.run(run())
    return found


def test_the_state_is_equal_until_something_changes(
    parts: FakeParts, fast_path: FastPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(fast_path_module, "time", SimpleNamespace(monotonic=lambda: now))

    def change() -> None:
        parts.current = object()

    def wait() -> None:
        nonlocal now
        now += 1.0

    first, *more = states(fast_path, lambda: None, change, lambda: None, wait, lambda: None)
    assert more == [first] * 5 + [first + 1] * 6 + [first + 2] * 6
    assert len(parts.stamps) == 2 * 6, "users and pages are checked once in each iteration"


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), StorageError("broken")])
def test_no_state_is_equal_while_it_is_unknown(parts: FakeParts, fast_path: FastPath, error: Exception) -> None:
    parts.current = error
    found = states(fast_path, lambda: None, lambda: None)[::3]
    assert found == [found[0], found[0] + 1, found[0] + 2]


def test_removed_users_and_changed_pages_take_the_normal_path(parts: FakeParts, fast_path: FastPath) -> None:
    fast_path.keep(MESSAGE, "/simple/spam/", HEADERS)
    parts.inside.clear()
    assert fast_path.response(MESSAGE, "192.0.2.1") is None
    assert parts.asked == [], "nothing is looked up for a stranger"
    parts.inside.add(parts.digest(b"Basic secret"))
    parts.page = None
    assert fast_path.response(MESSAGE, "192.0.2.1") is None


def test_no_secret_is_stored(fast_path: FastPath) -> None:
    fast_path.keep(MESSAGE, "/simple/spam/", HEADERS)
    kept: Any = vars(fast_path)["_requests"]
    assert len(kept) == 1
    everything = pickle.dumps([(key, value.login, value.path, dict(value.headers)) for key, value in kept.items()])
    for secret in (b"secret", b"sweet", b"Basic"):
        assert secret not in everything


def test_the_memory_of_requests_is_bounded(fast_path: FastPath) -> None:
    fast_path.keep(MESSAGE + b"x" * LONGEST, "/simple/spam/", HEADERS)
    assert fast_path.response(MESSAGE, "192.0.2.1") is None
    for number in range(10_000):
        fast_path.keep(MESSAGE + b"%d" % number, "/simple/spam/", HEADERS)
    assert len(vars(fast_path)["_requests"]) < 5_000
    assert fast_path.response(MESSAGE + b"9999", "192.0.2.1") is not None
    assert fast_path.response(MESSAGE + b"0", "192.0.2.1") is None


def test_strangers_requests_do_not_evict_users_requests(parts: FakeParts, fast_path: FastPath) -> None:
    fast_path.keep(MESSAGE, "/simple/spam/", HEADERS)
    for number in range(10_000):
        fast_path.keep(MESSAGE + b"%d" % number, "/simple/spam/", {b"host": b"x"})
        fast_path.keep(MESSAGE + b"a%d" % number, "/simple/spam/", {b"host": b"x", b"authorization": b"%d" % number})
    assert fast_path.response(MESSAGE, "192.0.2.1") is parts.page
    assert len(vars(fast_path)["_strangers"]) <= 256


def test_a_request_without_credentials_is_challenged_by_its_address(parts: FakeParts, fast_path: FastPath) -> None:
    fast_path.keep(MESSAGE, "/simple/", {b"host": b"x"})
    fast_path.keep(MESSAGE + b"proxied", "/simple/", {b"host": b"x", b"x-forwarded-for": b"192.0.2.9"})
    response = fast_path.response(MESSAGE, "192.0.2.1")
    assert response is not None
    assert response.status == 401
    assert parts.challenged == [("/simple/", "192.0.2.1")]
    assert fast_path.response(MESSAGE + b"proxied", "192.0.2.1") is None


class Talk:
    """The same request, repeated on one connection."""

    def __init__(self, server: Server, path: str) -> None:
        self._connection = server.connect()
        self._path = path

    def again(self) -> tuple[int, bytes]:
        self._connection.request("GET", self._path, headers={"Authorization": authorization("alice")})
        response = self._connection.getresponse()
        return response.status, response.read()

    def close(self) -> None:
        self._connection.close()


NAME = wheel_name("spam", "1.0")


@pytest.fixture
def server(tmp_path: Any) -> Any:
    server = Server(tmp_path)
    (server.packages / NAME).write_bytes(wheel("spam", "1.0"))
    with server:
        yield server


@pytest.mark.parametrize("path", ["/simple/spam/", f"/packages/{NAME}", f"/packages/{NAME}.metadata"])
def test_a_repeated_request_is_refused_once_its_user_is_removed(server: Server, path: str) -> None:
    talk = Talk(server, path)
    for _ in range(5):
        assert talk.again()[0] == 200
    (server.credentials / ".htpasswd").write_text("")
    eventually(lambda: talk.again()[0] == 401)
    talk.close()


@pytest.mark.parametrize("path", ["/simple/spam/", f"/packages/{NAME}", f"/packages/{NAME}.metadata"])
def test_a_repeated_request_for_a_removed_file_is_404(server: Server, path: str) -> None:
    talk = Talk(server, path)
    for _ in range(5):
        assert talk.again()[0] == 200
    (server.packages / NAME).unlink()
    eventually(lambda: talk.again()[0] == 404)
    talk.close()


@pytest.mark.parametrize("path", [f"/packages/{NAME}", f"/packages/{NAME}.metadata"])
def test_a_repeated_request_does_not_bypass_a_quarantine(server: Server, path: str) -> None:
    talk = Talk(server, path)
    for _ in range(5):
        assert talk.again()[0] == 200
    wanted = json.dumps({"status": "quarantined"}).encode()
    changed = server.request(
        "POST", "/projects/spam/status", user="adam", body=wanted, headers={"Content-Type": "application/json"}
    )
    assert changed.status == 200
    assert talk.again()[0] == 403
    talk.close()


def test_a_file_replaced_in_place_is_not_served_from_memory(server: Server) -> None:
    content, metadata = Talk(server, f"/packages/{NAME}"), Talk(server, f"/packages/{NAME}.metadata")
    before = content.again(), metadata.again()
    assert (content.again(), metadata.again()) == before
    newer = wheel("spam", "1.0", lines="Requires-Python: >=3.10\n")
    with (server.packages / NAME).open("r+b") as file:
        file.write(newer)
        file.truncate()
    assert content.again() == (200, newer)
    eventually(lambda: b">=3.10" in metadata.again()[1])
    content.close()
    metadata.close()


def test_a_failure_on_the_fast_path_falls_back_to_the_normal_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "packages").mkdir()
    index = create_index(
        packages=DirectoryStorage(tmp_path / "packages"), credentials=DirectoryStorage(tmp_path / "credentials")
    )
    simple_api: Any = vars(index)["_simple_api"]

    def fail() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Repository, "offers", lambda *_: fail())
    assert simple_api.ready(f"/packages/{NAME}", {}) is None


def strangers(server: Server, path: str, *headers: str) -> tuple[bytes, bytes]:
    """A refusal on the fast path, the second time by its bytes alone, and on the normal path."""
    lines = [f"GET {path} HTTP/1.1", "Host: x", *headers]
    first, second = (server.raw("\r\n".join([*lines, "", ""]).encode()) for _ in range(2))
    longer = server.raw("\r\n".join(["GET /%73imple/ HTTP/1.1", *lines[1:], "", ""]).encode())
    assert undated(first) == undated(second)
    return undated(first), undated(longer)


def undated(response: bytes) -> bytes:
    """The head of a response, without its time."""
    return re.sub(rb"date: [^\r]*\r\n", b"", response.partition(b"\r\n\r\n")[0])


def test_a_stranger_gets_the_same_refusal_on_both_paths(server: Server) -> None:
    for path in ("/", "/simple/", "/simple/spam/?x=y", "/packages/x", "/nothing", "//health"):
        for headers in ((), ("Authorization: Bearer secret",), ("Authorization:",)):
            refused, longer = strangers(server, path, *headers)
            assert refused.startswith(b"HTTP/1.1 401 Unauthorized: log in with a user name and password of this index")
            assert b'www-authenticate: Basic realm="pypi"' in refused
            assert refused == longer


def test_requests_that_need_no_login_are_answered_as_before(server: Server) -> None:
    for path in ("/health", "/health?x", "/%68ealth", "http://x/health") * 2:
        assert server.raw(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()).startswith(b"HTTP/1.1 200 OK")


def test_an_unknown_scheme_is_recorded_each_time(server: Server) -> None:
    for _ in range(3):
        strangers(server, "/simple/", "Authorization: Bearer secret")
    server.stop()
    (log,) = (server.packages / ".index/audit").iterdir()
    first, others = (json.loads(line) for line in log.read_text().splitlines())
    assert (first["event"], first["address"], first["why"]) == (
        "login.refused",
        "127.0.0.1",
        "neither a user name and password (RFC 7617) nor a token of this index (RFC 6750)",
    )
    assert others["more"] == 8
    assert "secret" not in log.read_text()


def test_neither_password_nor_token_is_left_in_the_log(server: Server) -> None:
    talk = Talk(server, "/simple/spam/")
    for _ in range(3):
        talk.again()
    talk.close()
    assert PASSWORD not in server.log.read_text()
    assert TOKEN not in server.log.read_text()


def test_a_hundred_first_requests_with_tokens_cost_less_than_one_password(tmp_path: Path) -> None:
    """Each is answered before a task or a thread is started, like a known user's."""
    packages, credentials = DirectoryStorage(tmp_path / "packages"), DirectoryStorage(tmp_path / "credentials")
    users, tokens = Users(credentials, Options()), Tokens(credentials)
    for number in range(2):
        users.register(f"user-{number}", password_hash=hashed(PASSWORD, 10))
    made = [tokens.create(f"user-{number % 2}").plain for number in range(100)]
    (packages.directory / NAME).write_bytes(wheel("spam", "1.0"))
    index = create_index(packages=packages, credentials=credentials)

    async def log_in() -> float:
        began = time.process_time()
        for token in made:
            headers = {b"authorization": f"Bearer {token}".encode(), b"accept": b"text/html"}
            response = index.at_once("/simple/spam/", headers, "192.0.2.1")
            assert response is not None
            assert response.status == 200
        return time.process_time() - began

    with ThreadServer(index) as server:
        assert server.get("/simple/spam/", user="user-0", Accept="text/html").status == 200
        tokens_took = asyncio.run_coroutine_threadsafe(log_in(), server.loop).result(60)
    entry = hashed(PASSWORD, Options().bcrypt_rounds)
    began = time.process_time()
    assert verify_password(PASSWORD, entry, Options().bcrypt_rounds)
    assert tokens_took < time.process_time() - began
