"""Changes whose user was removed, or lost a right, while the body arrived."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.index.archives import wheel, wheel_name
from tests.index.serving import PASSWORD, TOKEN, Server, authorization
from tests.index.test_app import form, upload

NAME, CONTENT = wheel_name("spam", "1.0"), wheel("spam", "1.0")
OTHER, OTHER_CONTENT = wheel_name("spam", "2.0"), wheel("spam", "2.0")
SIGNATURE = b"-----BEGIN PGP SIGNATURE-----\nx\n-----END PGP SIGNATURE-----\n"
FORM = "multipart/form-data; boundary=b"
JSON = "application/json"

CHANGES: dict[str, tuple[str, str, bytes]] = {
    "yank": ("/projects/spam/yank", JSON, b'{"version": "1.0", "reason": "x"}'),
    "unyank": ("/projects/spam/unyank", JSON, b'{"version": "1.0"}'),
    "status": ("/projects/spam/status", JSON, b'{"status": "quarantined"}'),
    "removal": ("/", FORM, form(action="remove_pkg", name="spam", version="1.0")),
    "upload": ("/", FORM, form(action="file_upload", name="spam", version="2.0", content=(OTHER, OTHER_CONTENT))),
    "signature": ("/legacy/", FORM, form(action="file_upload", content=(f"{NAME}.asc", SIGNATURE))),
}
SEARCH = ("/RPC2", "text/xml", b"<methodCall><methodName>search</methodName><string>spam</string></methodCall>")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("changes")) as server:
        assert upload(server, NAME, CONTENT).status == 200
        yield server


def administer(server: Server, method: str, path: str, **fields: object) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": JSON}
    body = json.dumps(fields).encode() if fields else None
    response = server.request(method, f"/admin/{path}", user=None, headers=headers, body=body)
    assert response.status in {200, 201, 204}, response.text


@contextmanager
def begun(server: Server, change: tuple[str, str, bytes], user: str) -> Iterator[tuple[socket.socket, bytes]]:
    """A request whose body has arrived except for its last bytes, and those bytes."""
    path, content_type, body = change
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization(user)}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection((server.host, server.port), timeout=60) as connection:
        connection.sendall(head.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")  # the login was accepted, and the body is awaited
        connection.sendall(body[:-5])
        yield connection, body[-5:]


def state(server: Server) -> list[object]:
    """Everything that a change may affect, as seen by a user."""
    page = json.loads(server.get("/simple/spam/", Accept="application/vnd.pypi.simple.v1+json").body)
    return [page, server.get(f"/packages/{NAME}.asc").status]


@pytest.mark.parametrize("change", [*CHANGES.values(), SEARCH], ids=[*CHANGES, "search"])
def test_a_user_removed_meanwhile_changes_nothing(server: Server, change: tuple[str, str, bytes]) -> None:
    before = state(server)
    administer(server, "POST", "register_user", username="leaver", password=PASSWORD, role="admin")
    with begun(server, change, "leaver") as (connection, rest):
        administer(server, "DELETE", "users/leaver")
        connection.sendall(rest)
        assert connection.recv(1000).startswith(b"HTTP/1.1 401 Unauthorized: ")
    assert state(server) == before


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_user_demoted_to_reader_meanwhile_changes_nothing(server: Server, change: tuple[str, str, bytes]) -> None:
    before = state(server)
    administer(server, "POST", "register_user", username="demoted", password=PASSWORD, role="admin")
    with begun(server, change, "demoted") as (connection, rest):
        administer(server, "POST", "register_user", username="demoted", role="reader")
        connection.sendall(rest)
        assert connection.recv(1000).startswith(b"HTTP/1.1 403 Forbidden: the user 'demoted' may not ")
    assert state(server) == before


def test_a_password_replaced_meanwhile_changes_nothing(server: Server) -> None:
    before = state(server)
    administer(server, "POST", "register_user", username="careful", password=PASSWORD)
    with begun(server, CHANGES["yank"], "careful") as (connection, rest):
        administer(server, "POST", "register_user", username="careful", password="another horse battery")
        connection.sendall(rest)
        assert connection.recv(1000).startswith(b"HTTP/1.1 401 ")
    assert state(server) == before


def test_a_user_whose_rights_are_unchanged_makes_the_change(server: Server) -> None:
    with begun(server, CHANGES["yank"], "alice") as (connection, rest):
        connection.sendall(rest)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
    with begun(server, CHANGES["unyank"], "alice") as (connection, rest):
        connection.sendall(rest)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
