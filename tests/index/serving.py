"""A real server process on loopback, and plain HTTP to it."""

from __future__ import annotations

import asyncio
import base64
import faulthandler
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import bcrypt

from ops.index.connection_limits import ConnectionLimits
from ops.index.server import Server as OneProcess

ROOT = Path(__file__).resolve().parents[2]

PASSWORD = "correct horse battery"
TOKEN = "a-token-of-more-than-thirty-two-characters"

JSON = "application/vnd.pypi.simple.v1+json"


@dataclass(frozen=True)
class Response:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def __getitem__(self, name: str) -> str:
        return self.headers[name] or ""


class Http:
    """Requests to a server on this machine."""

    host = "127.0.0.1"
    port: int

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.port, timeout=60)

    def request(
        self,
        method: str,
        path: str,
        *,
        user: str | None = "alice",
        password: str = PASSWORD,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Response:
        """Send one request on a new connection."""
        with closing(self.connect()) as connection:
            return send_request(connection, method, path, user=user, password=password, headers=headers, body=body)

    def get(self, path: str, *, user: str | None = "alice", **headers: str) -> Response:
        """GET with headers given as ``If_None_Match=…``."""
        return self.request("GET", path, user=user, headers={k.replace("_", "-"): v for k, v in headers.items()})

    def raw(self, request: bytes) -> bytes:
        """Send raw bytes, and read until the server closes or the head of the response has arrived."""
        with socket.create_connection((self.host, self.port), timeout=60) as connection:
            connection.sendall(request)
            response = b""
            while b"\r\n\r\n" not in response:
                piece = connection.recv(65536)
                if not piece:
                    break
                response += piece
            return response


class Server(Http):
    """``python -m ops.index`` with three users: alice publishes, rea reads, adam administers."""

    def __init__(self, folder: Path, *arguments: str, users: bool = True) -> None:
        self.packages = folder / "packages"
        self.credentials = folder / "credentials"
        self.log = folder / "server.log"
        self._arguments = arguments
        self.packages.mkdir(parents=True, exist_ok=True)
        self.credentials.mkdir(exist_ok=True)
        if users:
            entry = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
            lines = "".join(f"{name}:{entry}\n" for name in ("alice", "rea", "adam"))
            (self.credentials / ".htpasswd").write_text(lines)
            (self.credentials / ".htgroup").write_text("reader: rea\nadmin: adam\n")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, *wrapper: str) -> None:
        """Start, and wait until it has printed its address.

        Parameters:
            wrapper: command that runs the server's.
        """
        command = [*wrapper, sys.executable, "-m", "ops.index", "--packages", str(self.packages)]
        command += ["--credentials", str(self.credentials), "--port", "0", *self._arguments]
        environment = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG", "TMPDIR"}}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**environment, "AUTH_TOKEN": TOKEN},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url, self.log.read_text()
        self.port = int(urlsplit(self.url).port or 0)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it, and return its exit code."""
        self.process.send_signal(number)
        code = self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Fail if the server logs an error or a traceback meanwhile."""
        before = self.log.stat().st_size
        yield
        with self.log.open("rb") as log:
            log.seek(before)
            said = log.read().decode(errors="replace")
        assert "Traceback" not in said, said
        assert "ERROR" not in said, said

    def url_for(self, user: str = "alice") -> str:
        """The URL with the user's name and password."""
        return f"http://{user}:{PASSWORD.replace(' ', '%20')}@{self.host}:{self.port}/"

    def memory(self) -> int:
        """The largest resident set so far, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024

    def open_files(self) -> list[str]:
        """Distributions that the process holds open."""
        found = []
        for link in Path(f"/proc/{self.process.pid}/fd").iterdir():
            try:
                target = str(link.readlink())
            except OSError:
                continue
            if target.startswith(str(self.packages.resolve())) and "/.index/" not in target:
                found.append(target)
        return found


class ThreadServer(Http):
    """An application in a thread of this process, under the same server as ``python -m ops.index``."""

    def __init__(self, application: Any, limits: ConnectionLimits | None = None) -> None:
        self.listener = socket.create_server((self.host, 0))
        self.port = self.listener.getsockname()[1]
        self._started = threading.Event()
        stop = getattr(application, "stop", None)
        self.server = OneProcess(application, ready=self._started.set, stopping=stop, limits=limits)
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self._thread.join(60)
        assert not self._thread.is_alive()

    def request(self, *arguments: Any, **more: Any) -> Response:
        """Stop it; if it does not respond, print what each of its threads is doing."""
        try:
            return super().request(*arguments, **more)
        except TimeoutError:
            faulthandler.dump_traceback(2)
            raise

    def _run(self) -> None:
        async def serve() -> None:
            self.loop = asyncio.get_running_loop()
            await self.server._serve([self.listener])  # without its signal handlers, which need the main thread

        asyncio.run(serve())


async def confirm_lifespan(receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    """Confirm the start and the end, as an application that needs neither."""
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})


def authorization(user: str, password: str = PASSWORD) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def send_request(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    *,
    user: str | None = "alice",
    password: str = PASSWORD,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> Response:
    """One request on a connection that may be reused."""
    connection.putrequest(method, path, skip_host="Host" in (headers or {}), skip_accept_encoding=True)
    if user is not None:
        connection.putheader("Authorization", authorization(user, password))
    for name, value in (headers or {}).items():
        connection.putheader(name, value)
    if body is not None and "Content-Length" not in (headers or {}):
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    response = connection.getresponse()
    return Response(response.status, response.headers, response.read())


def eventually(check: object, *, seconds: float = 60) -> None:
    """Wait until *check* is true."""
    assert callable(check)
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.02)
