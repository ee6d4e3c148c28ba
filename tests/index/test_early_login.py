"""The first login is verified while the server is still being imported, and is otherwise like any other."""

from __future__ import annotations

import base64
import contextlib
import json
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import bcrypt
import pytest

from ops.index import early_login
from ops.index.early_login import EarlyLogin
from tests.index.serving import ROOT

PASSWORD = "correct horse battery"
DIGEST = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()


class FakeVerify:
    """Counts verifications, and ends only when told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None, int]] = []
        self.begun = threading.Event()
        self.may_end = threading.Event()

    def __call__(self, password: str, digest: str | None, level: int) -> bool:
        self.asked.append((password, digest, level))
        self.begun.set()
        assert self.may_end.wait(60)
        return digest == DIGEST and password == PASSWORD


@pytest.fixture
def verify(monkeypatch: pytest.MonkeyPatch) -> FakeVerify:
    fake = FakeVerify()
    monkeypatch.setattr(early_login, "verify_password", fake)
    return fake


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


@pytest.fixture
def early(listener: socket.socket, tmp_path: Path) -> Iterator[EarlyLogin]:
    (tmp_path / ".htpasswd").write_text(f"alice:{DIGEST}\n")
    with contextlib.closing(EarlyLogin(listener, tmp_path, rounds=5)) as made:
        yield made


def request(username: str = "alice", password: str = PASSWORD) -> bytes:
    credentials = base64.b64encode(f"{username}:{password}".encode()).decode()
    return f"GET /simple/ HTTP/1.1\r\nHost: x\r\nAUTHORIZATION: Basic {credentials}\r\n\r\n".encode()


@contextlib.contextmanager
def verifying(verify: FakeVerify, listener: socket.socket, sent: bytes) -> Iterator[None]:
    """A client that waits for the response, while its password is verified."""
    with socket.create_connection(listener.getsockname()) as client:
        client.sendall(sent)
        assert verify.begun.wait(60)
        yield


def status(port: int, sent: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(sent)
        return client.recv(4096).split()[1]


def test_bcrypt_runs_once_and_before_its_result_is_needed(
    early: EarlyLogin, listener: socket.socket, verify: FakeVerify
) -> None:
    with verifying(verify, listener, request()):
        (connection,) = early.connections()
        with connection:
            verify.may_end.set()
            assert early.verify_password(PASSWORD, DIGEST, 5)
            assert verify.asked == [(PASSWORD, DIGEST, 5)]
            connection.setblocking(True)
            assert connection.recv(4096) == request(), "the server reads it all"
    assert early.verify_password(PASSWORD, DIGEST, 5)
    assert len(verify.asked) == 2, "the result serves one login"


@pytest.mark.parametrize(("username", "digest"), [("alice", DIGEST), ("nobody", None)], ids=["known", "unknown"])
def test_an_early_wrong_login_costs_the_same_as_a_later_one(
    early: EarlyLogin, listener: socket.socket, verify: FakeVerify, username: str, digest: str | None
) -> None:
    with verifying(verify, listener, request(username, "wrong")):
        verify.may_end.set()
        assert not early.verify_password("wrong", digest, 5)
    assert verify.asked == [("wrong", digest, 5)]


def test_a_different_login_does_not_get_the_result(
    early: EarlyLogin, listener: socket.socket, verify: FakeVerify
) -> None:
    with verifying(verify, listener, request()):
        verify.may_end.set()
        for login in (("wrong", DIGEST, 5), (PASSWORD, None, 5), (PASSWORD, DIGEST, 6)):
            early.verify_password(*login)
            assert verify.asked[-1] == login


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nAuthorization: Basic",
        b"GET / HTTP/1.1\r\nAuthorization: Bearer pyidx_0123456789ab_" + b"0" * 64 + b"\r\n\r\n",
        b"\x16\x03\x01" + b"\xff" * 20_000,
    ],
)
def test_connections_without_a_password_are_passed_on_without_delay(
    early: EarlyLogin, listener: socket.socket, verify: FakeVerify, sent: bytes
) -> None:
    verify.may_end.set()
    with (
        socket.create_connection(listener.getsockname()) as stranger,
        socket.create_connection(listener.getsockname()) as client,
    ):
        stranger.sendall(sent)
        client.sendall(request())
        assert verify.begun.wait(60)
        connections = early.connections()
        assert len(connections) == 2
        for connection in connections:
            connection.close()


def test_a_server_without_requests_is_not_delayed(listener: socket.socket, tmp_path: Path) -> None:
    early = EarlyLogin(listener, tmp_path / "missing", rounds=5)
    assert early.connections() == []
    early.close()
    with socket.create_connection(listener.getsockname()):
        assert select.select([listener], [], [], 60)[0], "the connection waits for the server"


def test_without_a_password_file_the_connection_is_passed_on(listener: socket.socket, tmp_path: Path) -> None:
    with (
        contextlib.closing(EarlyLogin(listener, tmp_path / "missing", rounds=5)) as early,
        socket.create_connection(listener.getsockname()) as client,
    ):
        client.sendall(request())
        early._accepted.wait(60)
        (connection,) = early.connections()
        connection.close()


def test_only_a_few_connections_are_accepted_early(listener: socket.socket, early: EarlyLogin) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(early_login._CONNECTIONS + 3):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        listener.setblocking(False)
        while len(early._connections) < early_login._CONNECTIONS:
            threading.Event().wait(0.001)
        for connection in early.connections():
            connection.close()
        for _ in range(3):
            listener.accept()[0].close()


def test_a_login_during_the_imports_gets_its_page(tmp_path: Path) -> None:
    """A real server, paused in the middle of its start until the login has begun."""
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials/.htpasswd").write_text(f"alice:{DIGEST}\n")
    code = (
        "import json, sys, ops.index.__main__ as main, ops.index.early_login as early\n"
        "real, serve, asked = early.verify_password, main._serve, []\n"
        "early.verify_password = lambda *login: asked.append("
        "'early' if 'ops.index.server' not in sys.modules else 'late') or real(*login)\n"
        "def wait(*arguments, early_login, **named):\n"
        "    print(json.dumps(named['listener'].getsockname()[1]), flush=True)\n"
        "    early_login._thread.join()\n"
        "    serve(*arguments, early_login=early_login, **named)\n"
        "main._serve = wait\n"
        "code = main.main(sys.argv[1:])\n"
        "print(asked)\n"
    )
    command = [sys.executable, "-c", code, "--port", "0", "--bcrypt-rounds", "10"]
    command += ["--packages", str(tmp_path / "packages"), "--credentials", str(tmp_path / "credentials")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            port = json.loads(process.stdout.readline())
            assert status(port, request()) == b"200"
            assert status(port, request()) == b"200"
            assert status(port, request(password="wrong horse battery")) == b"401"
        finally:
            process.terminate()
        said = process.stdout.read()
    assert "['early', 'late']" in said
