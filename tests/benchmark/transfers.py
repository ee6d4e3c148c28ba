"""Uploads and downloads of files too large for memory, one connection each."""

from __future__ import annotations

import hashlib
import re
import socket
import time
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from ops.errors import IndexRequestError
from tests.benchmark.corpus import Wheel
from tests.benchmark.servers import ANY_PAGE, Server
from tests.benchmark.uploads import upload_frame

RESPONSE_SECONDS = 600.0
_PIECE = 2**20


def upload(server: Server, wheel: Wheel, source: Path) -> float:
    """Upload one file like a publisher; returns the seconds until the response.

    Raises:
        IndexRequestError: the server refused it, or broke the connection.
    """
    head, tail = upload_frame(server, wheel)
    begin = time.perf_counter()
    try:
        with _connect(server) as connection, source.open("rb") as file:
            connection.sendall(head)
            connection.sendfile(file)
            connection.sendall(tail)
            status, rest = _read_head(connection)
    except OSError as error:
        raise IndexRequestError(f"{server.name} did not take {wheel.filename}", why=repr(error)) from error
    seconds = time.perf_counter() - begin
    if not 200 <= status < 300:
        raise IndexRequestError(
            f"{server.name} refused {wheel.filename}",
            status=status,
            why=f"{status} {rest[:200].decode(errors='replace')}",
        )
    return seconds


def download(server: Server, path: str, wheel: Wheel, *, check: bool = False) -> float:
    """Download one file and discard it; returns the seconds taken.

    Parameters:
        path: its URL path, as on the project's page.
        check: also verify the digest, which takes extra time.

    Raises:
        IndexRequestError: the response was not the complete file.
    """
    lines = [f"GET {path} HTTP/1.1", f"Host: {urlsplit(server.url).netloc}", "Accept: */*", "Connection: close"]
    if server.authorization:
        lines.append(f"Authorization: {server.authorization}")
    buffer = memoryview(bytearray(_PIECE))
    digest = hashlib.sha256()
    begin = time.perf_counter()
    try:
        with _connect(server) as connection:
            connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n")
            status, first = _read_head(connection)
            got = len(first)
            if check:
                digest.update(first)
            while got < wheel.size and (count := connection.recv_into(buffer)):
                got += count
                if check:
                    digest.update(buffer[:count])
    except OSError as error:
        raise IndexRequestError(f"{server.name} did not send {wheel.filename}", why=repr(error)) from error
    seconds = time.perf_counter() - begin
    whole = status == 200 and got == wheel.size and (not check or digest.hexdigest() == wheel.sha256)
    if not whole:
        raise IndexRequestError(
            f"{server.name} did not send {wheel.filename} whole",
            status=status,
            why=f"{status} with {got:,} of {wheel.size:,} bytes",
        )
    return seconds


def file_path(server: Server, wheel: Wheel) -> str:
    """The file's URL path, found on the project's page like an installer does.

    Raises:
        IndexRequestError: the page failed, or does not list the file.
    """
    page: str = server.get(f"{server.index_path}{wheel.project}/", accept=ANY_PAGE).decode()
    pattern = r'(?:href="|"url":\s*")([^"#]*' + re.escape(wheel.filename) + r')["#]'
    found = re.search(pattern, page)
    if found is None:
        raise IndexRequestError(f"{server.name} does not list {wheel.filename}", why="its project page lacks it")
    path: str = urlsplit(urljoin(server.page_url(wheel.project), found[1])).path
    return path


def _connect(server: Server) -> socket.socket:
    parts = urlsplit(server.url)
    return socket.create_connection((parts.hostname, parts.port or 80), timeout=RESPONSE_SECONDS)


def _read_head(connection: socket.socket) -> tuple[int, bytes]:
    """Status, and the part of the body that arrived with the head."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError("the connection ended before a response")
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    return int(head[9:12]), rest
