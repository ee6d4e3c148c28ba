"""Large downloads over real connections: whole, at the client's pace, and never at others' expense."""

from __future__ import annotations

import logging
import os
import re
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from ops.index.connection import Connection
from ops.index.http import files
from ops.index.http.files import Delivery
from ops.index.http.representation import Response
from ops.index.http.request import Request
from ops.index.storage.directory import DirectoryStorage
from tests.index.serving import Server, ThreadServer, authorization, confirm_lifespan, eventually

SIZE = 24 * 1024 * 1024
CONTENT = os.urandom(SIZE // 8) * 8


class FilesOnly:
    """A fake index that sends the files of a folder, without caching."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._delivery = Delivery(DirectoryStorage(folder))
        self.fast_path = self

    def at_once(self, path: str, headers: dict[bytes, bytes], peer: str) -> Response | None:
        return Response(200, [(b"content-length", b"5")], b"ready") if path == "/ready" else None

    def challenge(self, *_: Any) -> None: ...

    def state(self) -> int:
        return 0

    def response(self, *_: Any) -> None: ...

    def keep(self, *_: Any) -> None: ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await confirm_lifespan(receive, send)
            return
        request = Request(scope, receive, send, dict(scope["headers"]), "")
        assert await self._delivery.deliver(request, self._folder / scope["path"][1:])


class Running(ThreadServer):
    """A server with one file of 24 MiB."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "big"
        self.path.write_bytes(CONTENT)
        (folder / "ready").write_bytes(b"ready")
        super().__init__(FilesOnly(folder))

    def ask(self, *headers: str, path: str = "/big") -> socket.socket:
        connection = socket.create_connection((self.host, self.port), timeout=20)
        connection.sendall("\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode())
        return connection

    def connections(self) -> list[Connection]:
        return [each for each in list(self.server.server_state.connections) if isinstance(each, Connection)]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with Running(tmp_path) as running:
        yield running


def read_response(connection: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of one response."""
    received = bytearray()
    while b"\r\n\r\n" not in received:
        byte = connection.recv(1)
        assert byte, received
        received += byte
    head = bytes(received)
    found = re.search(rb"content-length: (\d+)", head)
    assert found is not None
    length = int(found[1])
    body = bytearray()
    while len(body) < length:
        piece = connection.recv(min(1024 * 1024, length - len(body)))
        assert piece, "the connection was closed"
        body += piece
    return head, bytes(body)


@pytest.mark.parametrize(("start", "stop"), [(0, 10), (0, SIZE), (SIZE - 5_000_000, SIZE), (1_000_001, 20_000_000)])
def test_a_part_of_a_large_file_is_sent_byte_for_byte(running: Running, start: int, stop: int) -> None:
    with running.ask(f"Range: bytes={start}-{stop - 1}") as connection:
        head, body = read_response(connection)
    assert head.startswith(b"HTTP/1.1 206 ")
    assert body == CONTENT[start:stop]


def test_data_not_in_memory_is_read_by_a_thread(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = set()
    real = os.pread

    def pread(file: int, size: int, offset: int) -> bytes:
        threads.add(threading.current_thread())
        return real(file, size, offset)

    monkeypatch.setattr(files, "in_memory", lambda *_: False)
    monkeypatch.setattr(os, "pread", pread)
    with running.ask() as connection:
        assert read_response(connection)[1] == CONTENT
    assert threads
    assert vars(running)["_thread"] not in threads


def test_requests_after_a_download_get_their_responses_after_it(running: Running) -> None:
    with running.ask() as connection:
        connection.sendall(b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
        assert read_response(connection)[1] == CONTENT
        assert [read_response(connection)[1] for _ in range(2)] == [b"ready", b"ready"]
        connection.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert read_response(connection)[1] == CONTENT
        assert connection.recv(1) == b""


def test_a_client_that_does_not_read_is_closed_after_some_minutes(running: Running) -> None:
    with running.ask():
        eventually(lambda: [each for each in running.connections() if each._stuck_since is not None])
        (served,) = running.connections()
        for later in (500, 1000):
            running.loop.call_soon_threadsafe(served.sweep, running.loop.time() + later)
            if later == 500:
                assert running.get("/ready").status == 200
                assert served in running.connections()
        eventually(lambda: not running.connections())


@pytest.mark.parametrize("reset", [False, True])
def test_a_client_that_disconnects_midway_leaves_nothing_behind(
    running: Running, caplog: pytest.LogCaptureFixture, *, reset: bool
) -> None:
    files = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with running.ask() as connection:
            connection.recv(100_000)
            if reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    eventually(lambda: len(list(Path("/proc/self/fd").iterdir())) <= files)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_truncating_a_file_closes_the_connection(running: Running) -> None:
    with running.ask() as connection:
        received = len(connection.recv(65536))
        os.truncate(running.path, 1024 * 1024)
        while piece := connection.recv(1024 * 1024):
            received += len(piece)
    assert received < SIZE


@pytest.mark.parametrize("reset", [False, True])
def test_a_server_process_logs_nothing_about_clients_that_disconnect(tmp_path: Path, *, reset: bool) -> None:
    server = Server(tmp_path)
    (server.packages / "big-1.0.tar.gz").write_bytes(CONTENT)
    head = f"GET /packages/big-1.0.tar.gz HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization('alice')}\r\n\r\n"
    with server, server.watched():
        assert server.get("/packages/big-1.0.tar.gz").body == CONTENT
        for _ in range(5):
            with socket.create_connection((server.host, server.port), timeout=20) as connection:
                connection.sendall(head.encode())
                connection.recv(100_000)
                if reset:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        eventually(lambda: server.open_files() == [])
        assert server.get("/packages/big-1.0.tar.gz", Range="bytes=5-9").body == CONTENT[5:10]
