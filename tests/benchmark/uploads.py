"""Small uploads: prepared in advance, and sent over persistent connections like twine's (legacy upload API)."""

from __future__ import annotations

import itertools
import os
import threading
import time
import uuid
from pathlib import Path
from urllib.parse import urlsplit

from tests.benchmark.corpus import Wheel, build_wheel
from tests.benchmark.load import send, supply
from tests.benchmark.responses import Tally
from tests.benchmark.servers import Server

_PROJECTS = 50


class Uploader:
    """Uploads new wheels to one server.

    Parameters:
        server: receives them.
        most: number of prepared uploads for each measurement; a server that accepts all of them early is measured by
            the time it took.
    """

    def __init__(self, server: Server, *, most: int) -> None:
        self._server = server
        self._most = most
        self._numbers = itertools.count()

    def measure(self, *, connections: int, seconds: float) -> Tally:
        """Upload for *seconds*."""
        messages = [self._next() for _ in range(self._most)]
        return send(self._server.url, supply(iter(messages)), connections=connections, seconds=seconds)

    def _next(self) -> bytes:
        number = next(self._numbers)
        wheel, content = build_wheel(f"bench-upload-{number % _PROJECTS:02}", f"1.{number // _PROJECTS}")
        return upload_request(self._server, wheel, content)


def upload_request(server: Server, wheel: Wheel, content: bytes) -> bytes:
    """The complete POST request for one small file."""
    head, tail = upload_frame(server, wheel)
    return head + content + tail


def upload_frame(server: Server, wheel: Wheel) -> tuple[bytes, bytes]:
    """The bytes before and after the content in an upload: the request's head and the form's fields.

    The fields are twine's, for the legacy upload API.
    """
    boundary = uuid.uuid4().hex
    fields = {
        ":action": "file_upload",
        "protocol_version": "1",
        "metadata_version": "2.1",
        "name": wheel.project,
        "version": wheel.version,
        "summary": "A distribution of the benchmark",
        "requires_python": ">=3.8",
        "filetype": "bdist_wheel",
        "pyversion": "py3",
        "sha256_digest": wheel.sha256,
    }
    form = "".join(_field(boundary, name, value) for name, value in fields.items())
    form += (
        f'--{boundary}\r\nContent-Disposition: form-data; name="content"; filename="{wheel.filename}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    before, after = form.encode(), f"\r\n--{boundary}--\r\n".encode()
    parts = urlsplit(server.upload_url)
    lines = [
        f"POST {parts.path} HTTP/1.1",
        f"Host: {parts.netloc}",
        "User-Agent: pypi-runbook-benchmark",
        "Accept: */*",
        "Connection: keep-alive",
        f"Content-Type: multipart/form-data; boundary={boundary}",
        f"Content-Length: {len(before) + wheel.size + len(after)}",
    ]
    if server.upload_authorization:
        lines.append(f"Authorization: {server.upload_authorization}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + before, after


def durable_writes(folder: Path, *, threads: int, seconds: float) -> float:
    """Files a second that the disk allows without a server: write 21 kB, fsync, rename, fsync the directory."""
    _, content = build_wheel("bench-upload", "1.0")
    written = [0] * threads
    begin = time.perf_counter()
    deadline = begin + seconds

    def run(thread: int) -> None:
        while not written[thread] or time.perf_counter() < deadline:
            _write_durably(folder / f"{thread}-{written[thread]}.whl", content)
            written[thread] += 1

    workers = [threading.Thread(target=run, args=(thread,)) for thread in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(written) / (time.perf_counter() - begin)


def _write_durably(path: Path, content: bytes) -> None:
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _field(boundary: str, name: str, value: str) -> str:
    return f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
