"""HTTP client: its user agent, its retries, and the text of its errors."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ops.errors import IndexRequestError
from ops.http_client import HttpClient
from ops.secret import Secret
from tests.fakes import FakeIndex

pytest_plugins = ["tests.operations"]


@pytest.mark.parametrize("near", [True, False])
def test_a_client_without_credentials_ignores_the_user_s_netrc(
    index: FakeIndex, newcomer: Path, monkeypatch: pytest.MonkeyPatch, near: bool
) -> None:
    monkeypatch.setattr("ops.http_client.is_loopback", lambda _: near)
    netrc = newcomer / ".netrc"
    netrc.write_text("machine 127.0.0.1\nlogin alice\npassword a-good-password\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    index.add_user("alice", "a-good-password")
    with HttpClient(index.url) as stranger:
        assert stranger.request("GET", "simple/").status_code == 401
    with HttpClient(index.url, token=Secret(index.token)) as operator:
        assert operator.request("GET", "admin/users").status_code == 200
    assert index.logins == []


def test_credentials_are_sent_in_utf_8(index: FakeIndex) -> None:
    index.add_user("李", "пароль-пароль")
    with HttpClient(index.url, username="李", password=Secret("пароль-пароль")) as user:
        assert user.request("GET", "simple/").status_code == 200


def test_a_proxy_from_the_environment_is_not_used_for_loopback(
    index: FakeIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with HttpClient(index.url) as stranger:
        assert stranger.request("GET", "health").status_code == 200


def test_secret_headers_are_sent_only_to_their_own_host() -> None:
    seen: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, self.headers["Modal-Secret"]))
            host = "localhost" if self.path == "/away" else "127.0.0.1"
            there = f"http://{host}:{self.connection.getsockname()[1]}/there"
            self.send_response(200 if self.path == "/there" else 303)
            self.send_header("Location", there)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Do not log."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        with HttpClient(url, headers={"Modal-Secret": Secret("ws-a-proxy-secret")}) as client:
            assert client.request("GET", "here").status_code == 200
            assert client.request("GET", "away").status_code == 200
        server.shutdown()
    assert seen == [
        ("/here", "ws-a-proxy-secret"),
        ("/there", "ws-a-proxy-secret"),
        ("/away", "ws-a-proxy-secret"),
        ("/there", None),
    ]


def test_a_missing_response_is_an_error_with_the_reason_and_without_the_secret() -> None:
    with (
        HttpClient("http://127.0.0.1:9/", username="alice", password=Secret("a-good-password")) as user,
        pytest.raises(IndexRequestError, match=r"there was no response from http://127\.0\.0\.1:9/simple/") as caught,
    ):
        user.request("GET", "simple/")
    assert "refused" in str(caught.value)
    assert caught.value.status is None
    assert "a-good-password" not in str(caught.value)


def test_a_request_that_may_have_arrived_is_not_repeated() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        connections: list[int] = []

        def hang_up() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connection.recv(65536)
                connections.append(1)
                connection.close()

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        with HttpClient(f"http://127.0.0.1:{server.getsockname()[1]}/") as user, pytest.raises(IndexRequestError):
            user.request("POST", "admin/register_user", json={})
        assert len(connections) == 1
        server.shutdown(socket.SHUT_RDWR)
    thread.join()
