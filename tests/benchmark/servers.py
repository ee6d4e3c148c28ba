"""Server processes under measurement: start, wait, watch, stop."""

from __future__ import annotations

import base64
import contextlib
import copy
import http.client
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from ops.errors import IndexRequestError, StartError
from ops.secret import Secret

HOST = "127.0.0.1"
ANY_PAGE = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01"
"""Accept header of uv, sent by every client of the benchmark."""

START_SECONDS = 120.0
STOP_SECONDS = 15.0
_POLL_SECONDS = 0.005


@dataclass(frozen=True)
class Login:
    """The benchmark's only user, known only to its servers."""

    username: str
    password: Secret

    @classmethod
    def kept(cls, folder: Path) -> Login:
        """The user of the last run in *folder*, because devpi's prepared data has it; otherwise a new one."""
        path = folder / "password"
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(secrets.token_urlsafe(18))
        return cls("bench", Secret(path.read_text()))

    def header(self) -> str:
        """The value of ``Authorization`` (RFC 7617)."""
        token = base64.b64encode(f"{self.username}:{self.password.reveal()}".encode()).decode()
        return f"Basic {token}"


class Server:
    """One server and the location of its index.

    Parameters:
        name: the contender's name in tables.
        command: starts it in the foreground.
        folder: its working directory, for log and temporary files, on the same disk for all contenders.
        port: the TCP port on loopback named in *command*.
        index_path: path of the PEP 503 root, with leading and trailing slash.
        upload_path: path for uploads, or empty.
        login: the required user; None if no login is required.
        uploader: the user who may upload, if different; None for *login*.
        environment: additional environment variables.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        folder: Path,
        port: int,
        index_path: str = "/simple/",
        upload_path: str = "",
        login: Login | None = None,
        uploader: Login | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.port = port
        self.login = login
        self._uploader = uploader or login
        self.index_path = index_path
        self.upload_path = upload_path
        self._command = list(command)
        self._folder = folder
        self._environment = dict(environment or {})
        self._process: psutil.Popen | None = None

    @property
    def url(self) -> str:
        """The server's root, without a trailing slash."""
        return f"http://{HOST}:{self.port}"

    @property
    def index_url(self) -> str:
        """The PEP 503 root."""
        return self.url + self.index_path

    @property
    def upload_url(self) -> str:
        """The URL of uploads."""
        return self.url + self.upload_path

    @property
    def authorization(self) -> str:
        """Value of the ``Authorization`` header; empty if no login is required."""
        return self.login.header() if self.login else ""

    @property
    def upload_authorization(self) -> str:
        """The same for an upload."""
        return self._uploader.header() if self._uploader else ""

    def page_url(self, project: str) -> str:
        """The page of one project."""
        return f"{self.index_url}{project}/"

    def seen_by(self, name: str, login: Login | None) -> Server:
        """The same server under another name, for clients with another login."""
        seen = copy.copy(self)
        seen.name, seen.login = name, login
        return seen

    def start(self, *, until: str | None = None) -> float:
        """Start it and return the seconds until its first good response.

        Parameters:
            until: the path that must respond with 200; the index's root if None.

        Raises:
            StartError: it exited, or did not respond in time.
        """
        begin = time.perf_counter()
        self._launch()
        try:
            self._await_response(until or self.index_path)
        except BaseException:
            self.stop()
            raise
        return time.perf_counter() - begin

    def listen(self) -> None:
        """Start it and wait until it accepts connections, even if it responds later.

        Raises:
            StartError: it exited, or did not listen in time.
        """
        self._launch()
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection((HOST, self.port)):
                return
            time.sleep(_POLL_SECONDS)
        self.stop()
        raise StartError(f"{self.name} does not listen", why=self.log_tail() or "it said nothing")

    def _launch(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        scratch = self._folder / "tmp"
        scratch.mkdir(exist_ok=True)
        path = os.environ.get("PATH", os.defpath)
        environment = {"PATH": path, "HOME": str(self._folder), "TMPDIR": str(scratch), "LANG": "C.UTF-8"}
        with (self._folder / "server.log").open("ab") as log:
            self._process = psutil.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=environment | self._environment,
                start_new_session=True,
            )

    def stop(self) -> None:
        """Terminate it, and kill it or its child processes if they remain."""
        process, self._process = self._process, None
        if process is None:
            return
        family = [process, *_children(process)]
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
        psutil.wait_procs([process], timeout=STOP_SECONDS)
        for survivor in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                survivor.kill()
        psutil.wait_procs(family, timeout=STOP_SECONDS)
        process.poll()  # reap it through Popen too, which would otherwise warn about a running child

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def memory(self) -> int:
        """Current resident memory of all of its processes, in bytes."""
        return int(self._total(lambda process: process.memory_info().rss))

    def cpu_seconds(self) -> float:
        """CPU seconds used so far by all of its processes."""
        return self._total(_cpu_seconds)

    def get(self, path: str, *, accept: str = ANY_PAGE) -> bytes:
        """The body of one page.

        Raises:
            IndexRequestError: the status was not 200.
        """
        connection = http.client.HTTPConnection(HOST, self.port, timeout=START_SECONDS)
        with contextlib.closing(connection):
            try:
                status, body = _ask(connection, path, self.authorization, accept)
            except (OSError, http.client.HTTPException) as error:
                raise IndexRequestError(f"{self.name} did not respond to {path}", why=repr(error)) from error
        if status != 200:
            raise IndexRequestError(f"{self.name} responded to {path} with {status}", status=status, why=_excerpt(body))
        return body

    def log_tail(self) -> str:
        """The last lines of its log, joined into one."""
        try:
            lines = (self._folder / "server.log").read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return " | ".join(line.strip() for line in lines[-4:])

    def _total(self, figure: Callable[[psutil.Process], float]) -> float:
        """Sum over all of its processes; processes that have exited do not count."""
        total = 0.0
        for process in [self._process, *_children(self._process)] if self._process else []:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, ProcessLookupError):
                total += figure(process)
        return total

    def _await_response(self, path: str) -> None:
        assert self._process is not None
        begin = time.monotonic()
        seen = "no response"
        # A page outside the index needs no login; a login sent with it would be verified and cached.
        asking = (self.authorization, ANY_PAGE) if path.startswith(self.index_path) else ("", "*/*")
        while time.monotonic() < begin + START_SECONDS:
            if self._process.poll() is not None:
                raise StartError(f"{self.name} ended while it started", why=self.log_tail() or "it said nothing")
            connection = http.client.HTTPConnection(HOST, self.port, timeout=START_SECONDS)
            with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
                status, body = _ask(connection, path, *asking)
                if status == 200:
                    return
                seen = f"{status} {_excerpt(body)}"
            # Poll often at first for precision, later at 1% of the elapsed time to leave the CPU to the server.
            time.sleep(max(_POLL_SECONDS, (time.monotonic() - begin) / 100))
        raise StartError(f"{self.name} gave no good response in {START_SECONDS:.0f} seconds", why=seen)


@contextlib.contextmanager
def running(servers: Sequence[Server]) -> Iterator[None]:
    """Start all servers, and always stop them."""
    with contextlib.ExitStack() as stack:
        for server in servers:
            stack.enter_context(server)
        yield


def end_abandoned(folder: Path) -> list[int]:
    """Kill the servers left behind by a killed run; returns their process ids.

    The caller holds the lock on *folder*, so any process with that working directory and argument is abandoned.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            arguments = process.cmdline()
            if Path(process.cwd()).is_relative_to(folder) and any(str(folder) in part for part in arguments):
                found += [process, *_children(process)]
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(found, timeout=STOP_SECONDS)
    return [process.pid for process in found]


def free_port() -> int:
    """An unused TCP port on loopback.

    Systems assign others: no program gets it before its server starts, or while that restarts.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((HOST, port))
            return port


def _ask(connection: http.client.HTTPConnection, path: str, authorization: str, accept: str) -> tuple[int, bytes]:
    headers = {"Accept": accept} | ({"Authorization": authorization} if authorization else {})
    connection.request("GET", path, headers=headers)
    with connection.getresponse() as response:
        return response.status, response.read()


def _cpu_seconds(process: psutil.Process) -> float:
    """CPU seconds of one process, with the threads that have ended.

    psutil counts in ticks of 10 ms, a sixth of what a download of 200 MB takes. The number of the clock is that of
    ``clock_getcpuclockid`` in the C library, which Python offers for threads only.

    Raises:
        ProcessLookupError: it has ended.
    """
    if not sys.platform.startswith("linux"):
        return sum(process.cpu_times()[:2])
    try:
        return time.clock_gettime(~process.pid << 3 | 2)
    except OSError as error:
        raise ProcessLookupError(process.pid) from error


def _excerpt(body: bytes) -> str:
    return " ".join(body[:200].decode(errors="replace").split())


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
