"""Sending files: whole, in ranges, conditionally, to slow clients and to those that disconnect."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import time
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ops.index.http.files import PIECE, Delivery, OpenFile
from ops.index.http.request import Request
from ops.index.storage.directory import DirectoryStorage
from tests.index.archives import wheel, wheel_name
from tests.index.serving import Response, Server, authorization, eventually, send_request

SMALL = wheel_name("spam", "1.0")
CONTENT = wheel("spam", "1.0", lines="Requires-Python: >=3.9\n", payload=os.urandom(3000))
BIG = "big-1.0.tar.gz"
BIG_SIZE = 60 * 1024 * 1024


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("delivery"))
    (server.packages / "older").mkdir()
    (server.packages / SMALL).write_bytes(CONTENT)
    (server.packages / f"{SMALL}.asc").write_bytes(b"-----BEGIN PGP SIGNATURE-----\n")
    (server.packages / "older" / "eggs-1.0+local.1.tar.gz").write_bytes(b"eggs")
    (server.packages / "empty-1.0.tar.gz").write_bytes(b"")
    (server.packages / "notes.txt").write_bytes(b"not for you")
    with (server.packages / BIG).open("wb") as big:
        for number in range(BIG_SIZE // 1024 // 1024):
            big.write(bytes([number]) * 1024 * 1024)
    with server:
        yield server


def get(server: Server, range_: str, **headers: str) -> Response:
    return server.get(f"/packages/{SMALL}", Range=range_, **headers)


def test_a_file_arrives_unchanged(server: Server) -> None:
    response = server.get(f"/packages/{SMALL}")
    assert response.status == 200
    assert response.body == CONTENT
    assert response["content-length"] == str(len(CONTENT))
    assert response["accept-ranges"] == "bytes"
    assert response["content-type"] == "application/octet-stream"
    assert response["cache-control"].startswith("private")
    assert "immutable" in response["cache-control"]


def test_head_of_a_file_is_the_same_without_the_bytes(server: Server) -> None:
    full, head = server.get(f"/packages/{SMALL}"), server.request("HEAD", f"/packages/{SMALL}")
    assert head.status == 200
    assert head.body == b""
    assert {n.lower(): v for n, v in head.headers.items()} | {"date": ""} == {
        n.lower(): v for n, v in full.headers.items()
    } | {"date": ""}


@pytest.mark.parametrize("path", ["older/eggs-1.0+local.1.tar.gz", "older/eggs-1.0%2Blocal.1.tar.gz"])
def test_a_plus_in_a_path_may_be_quoted_or_not(server: Server, path: str) -> None:
    assert server.get(f"/packages/{path}").body == b"eggs"


def test_a_signature_can_be_fetched_next_to_its_file(server: Server) -> None:
    assert server.get(f"/packages/{SMALL}.asc").body.startswith(b"-----BEGIN PGP")


@pytest.mark.parametrize(
    "path",
    [
        "notes.txt",
        "nothing-1.0.tar.gz",
        "nothing-1.0.tar.gz.metadata",
        "empty-1.0.tar.gz.metadata",
        "../credentials/.htpasswd",
        "..%2Fcredentials%2F.htpasswd",
        "%2e%2e/credentials/.htpasswd",
        "older/../notes.txt",
        "older",
        "older/",
        ".index/facts/" + SMALL,
        "//etc/passwd",
        f"{SMALL}%00",
        f"{SMALL}/",
        "%ff%fe",
        "a" * 3000,
    ],
)
def test_only_listed_files_are_sent(server: Server, path: str) -> None:
    response = server.get(f"/packages/{path}")
    assert response.status == 404
    assert b"root:" not in response.body
    assert b"$2b$" not in response.body


def test_the_metadata_is_as_announced_on_the_page(server: Server) -> None:
    file = server.get("/simple/spam/", Accept="application/vnd.pypi.simple.v1+json").body
    metadata = server.get(f"/packages/{SMALL}.metadata")
    assert b"Requires-Python: >=3.9" in metadata.body
    assert hashlib.sha256(metadata.body).hexdigest().encode() in file
    assert server.get(f"/packages/{SMALL}.metadata", If_None_Match=metadata["etag"]).status == 304


@pytest.mark.parametrize(
    ("range_", "start", "stop"),
    [("bytes=0-9", 0, 10), ("bytes=10-", 10, None), ("bytes=-10", -10, None), ("bytes=5-5", 5, 6)],
)
def test_a_range_is_sent_as_partial_content(server: Server, range_: str, start: int, stop: int | None) -> None:
    response = get(server, range_)
    assert response.status == 206
    assert response.body == CONTENT[start:stop]
    first = start % len(CONTENT)
    assert response["content-range"] == f"bytes {first}-{first + len(response.body) - 1}/{len(CONTENT)}"


def test_a_range_beyond_the_end_is_refused_with_the_size(server: Server) -> None:
    response = get(server, f"bytes={len(CONTENT)}-")
    assert response.status == 416
    assert response["content-range"] == f"bytes */{len(CONTENT)}"
    assert server.get("/packages/empty-1.0.tar.gz", Range="bytes=0-").status == 416


def test_an_empty_file_is_sent(server: Server) -> None:
    response = server.get("/packages/empty-1.0.tar.gz")
    assert (response.status, response.body, response["content-length"]) == (200, b"", "0")


@pytest.mark.parametrize("range_", ["bytes=x", "rows=0-1", "bytes=0-4, 100-109, -7"])
def test_anything_but_one_range_gets_the_whole_file(server: Server, range_: str) -> None:
    response = get(server, range_)
    assert (response.status, response.body) == (200, CONTENT)


def test_a_range_is_sent_only_if_the_client_s_copy_is_current(server: Server) -> None:
    full = server.get(f"/packages/{SMALL}")
    for same in (full["etag"], full["last-modified"]):
        assert get(server, "bytes=0-9", If_Range=same).status == 206
    for other in ('"other"', "W/" + full["etag"], "Thu, 01 Jan 1970 00:00:00 GMT"):
        assert get(server, "bytes=0-9", If_Range=other).status == 200


def test_a_file_is_sent_only_if_it_is_the_requested_version(server: Server) -> None:
    full = server.get(f"/packages/{SMALL}")
    etag, modified = full["etag"], full["last-modified"]
    earlier, later, none = "Thu, 01 Jan 1970 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", "yesterday"
    for named in (etag, f'"other", {etag}', "*"):
        assert server.get(f"/packages/{SMALL}", If_Match=named, If_Unmodified_Since=earlier).status == 200
    for named in ('"other"', f"W/{etag}"):
        refused = server.get(f"/packages/{SMALL}", If_Match=named)
        assert (refused.status, refused["etag"]) == (412, etag)
    for date, status in ((modified, 200), (later, 200), (none, 200), (earlier, 412)):
        assert server.get(f"/packages/{SMALL}", If_Unmodified_Since=date).status == status


def test_a_file_that_the_client_has_is_not_sent_again(server: Server) -> None:
    full = server.get(f"/packages/{SMALL}")
    for named in (full["etag"], "W/" + full["etag"], f'"other", {full["etag"]}', "*"):
        response = server.get(f"/packages/{SMALL}", If_None_Match=named)
        assert (response.status, response.body) == (304, b"")
        assert response["etag"] == full["etag"]
    assert server.get(f"/packages/{SMALL}", If_Modified_Since=full["last-modified"]).status == 304
    assert server.get(f"/packages/{SMALL}", If_None_Match='"x"', If_Modified_Since=full["last-modified"]).status == 200


def test_many_requests_go_over_one_connection(server: Server) -> None:
    connection = server.connect()
    for _ in range(5):
        assert send_request(connection, "GET", f"/packages/{SMALL}").body == CONTENT
        assert send_request(connection, "HEAD", f"/packages/{SMALL}").body == b""
        assert (
            send_request(connection, "GET", f"/packages/{SMALL}", headers={"Range": "bytes=1-2"}).body == CONTENT[1:3]
        )
        assert send_request(connection, "GET", "/packages/x-1.0.tar.gz").status == 404
    connection.close()


def memory_of_all_parts(server: Server) -> int:
    """Memory of the server after all lazy imports."""
    for path in ("/", "/projects/spam/", "/packages/", "/admin/docs"):
        server.get(path)
    return server.memory()


def test_a_large_file_arrives_complete_and_takes_no_memory(server: Server) -> None:
    before = memory_of_all_parts(server)
    body = server.get(f"/packages/{BIG}").body
    with (server.packages / BIG).open("rb") as file:
        assert hashlib.sha256(body).digest() == hashlib.file_digest(file, "sha256").digest()
    assert server.memory() - before < 20 * 1024 * 1024


def test_a_client_that_stops_reading_keeps_at_most_two_pieces_in_memory(server: Server) -> None:
    before = memory_of_all_parts(server)
    idle = []
    for _ in range(8):
        connection = socket.create_connection((server.host, server.port))
        head = f"GET /packages/{BIG} HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization('alice')}\r\n\r\n"
        connection.sendall(head.encode())
        idle.append(connection)
    time.sleep(0.5)
    assert server.get(f"/packages/{SMALL}").status == 200, "others are served meanwhile"
    assert server.memory() - before < 20 * 1024 * 1024
    eventually(lambda: len(server.open_files()) == 8)
    for connection in idle:
        connection.close()
    eventually(lambda: server.open_files() == [])


def test_truncating_a_file_while_it_is_sent_closes_the_connection(server: Server) -> None:
    """The client must not mistake the part that it got for the whole."""
    path = server.packages / "cut-1.0.tar.gz"
    path.write_bytes(bytes(20 * 1024 * 1024))
    eventually(lambda: server.request("HEAD", f"/packages/{path.name}").status == 200)
    with socket.create_connection((server.host, server.port), timeout=60) as connection:
        request = f"GET /packages/{path.name} HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization('alice')}\r\n\r\n"
        connection.sendall(request.encode())
        received = len(connection.recv(65536))
        os.truncate(path, 1024 * 1024)
        while piece := connection.recv(1024 * 1024):
            received += len(piece)
    assert received < 20 * 1024 * 1024
    path.unlink()


class _Listener:
    """An ASGI server's side of one request, kept in memory."""

    def __init__(
        self, method: str = "GET", *, extensions: tuple[str, ...] = (), leaves_after: int = 1000, **headers: str
    ) -> None:
        self._leaves_after = leaves_after
        self.sent: list[MutableMapping[str, Any]] = []
        fields = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
        scope = {
            "type": "http",
            "method": method,
            "path": "/",
            "headers": list(fields.items()),
            "extensions": {name: {} for name in extensions},
        }
        self.request = Request(scope, self._receive, self._send, fields, "")

    async def _receive(self) -> MutableMapping[str, Any]:
        while len(self.sent) < self._leaves_after:
            await asyncio.sleep(0.001)
        return {"type": "http.disconnect"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        self.sent.append(message)
        await asyncio.sleep(0.002 if self._leaves_after < 1000 else 0)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


def deliver(path: Path, listener: _Listener) -> bool:
    return asyncio.run(Delivery(DirectoryStorage(path.parent)).deliver(listener.request, path))


def test_a_server_with_pathsend_gets_the_path(tmp_path: Path) -> None:
    path = tmp_path / "spam"
    path.write_bytes(b"spam")
    listener = _Listener(extensions=("http.response.pathsend",))
    assert deliver(path, listener)
    assert listener.sent[1:] == [{"type": "http.response.pathsend", "path": str(path)}]
    partial = _Listener(extensions=("http.response.pathsend",), range="bytes=1-2")
    assert deliver(path, partial)
    assert partial.body == b"pa"


def test_nothing_more_is_read_for_a_disconnected_client(tmp_path: Path) -> None:
    """The server silently drops what is sent to a closed connection."""
    path = tmp_path / "spam"
    path.write_bytes(bytes(20 * PIECE))
    listener = _Listener(leaves_after=3)
    assert deliver(path, listener)
    assert len(listener.body) < 6 * PIECE


@pytest.mark.parametrize("seconds", [-(10**15), 10**13])
def test_a_file_with_an_extreme_time_still_gets_a_date(seconds: int) -> None:
    status: Any = SimpleNamespace(st_size=1, st_mtime_ns=seconds * 10**9)
    assert OpenFile(0, status, None).last_modified.endswith(" GMT")


def test_anything_but_a_regular_file_is_not_sent(tmp_path: Path) -> None:
    listener = _Listener()
    assert not deliver(tmp_path / "nothing", listener)
    assert not deliver(tmp_path, listener)
    assert listener.sent == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(range_=st.text(max_size=60), if_range=st.text(max_size=40), etag=st.text(max_size=40))
def test_no_request_header_makes_sending_fail(tmp_path: Path, range_: str, if_range: str, etag: str) -> None:
    path = tmp_path / "spam"
    path.write_bytes(b"spam and eggs")
    for text in (range_, f"bytes={range_}"):
        listener = _Listener(range=text, if_range=if_range, if_none_match=etag)
        assert deliver(path, listener)
        start = listener.sent[0]
        assert start["status"] in {200, 206, 304, 416}
        length = dict(start["headers"]).get(b"content-length")
        assert length is None or int(length) == len(listener.body)
