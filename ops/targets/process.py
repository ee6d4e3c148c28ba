"""Server process of the local target, and the file that identifies it."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from ops.private_files import UMASK, private_file, replace_file

STOP_SECONDS = 15.0
"""Seconds for a server to finish its requests after SIGTERM, before it is killed."""

_GATE = 'read -r line && exec "$@" </dev/null'
"""Shell script that becomes a command once it gets a line, or ends with the process that should send it."""


@dataclass(frozen=True, kw_only=True)
class ServerProcess:
    """Detached server process.

    Parameters:
        pid: its process id.
        created: start of the process in seconds since the epoch, because process ids are reused.
        host: the address that it listens on.
        port: the TCP port.
        fingerprint: of its code and configuration.
    """

    pid: int
    created: float
    host: str
    port: int
    fingerprint: str

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        *,
        file: Path,
        log: Path,
        host: str,
        port: int,
        fingerprint: str,
        code: Path,
        variables: Mapping[str, str],
    ) -> ServerProcess:
        """Start *command* in its own session, so that it outlives the notebook's kernel and any Ctrl-C there.

        Both of its outputs are appended to *log*. It imports ``ops`` from the folder *code*. Its environment is ours
        with these *variables*. It only runs once it is saved in *file*: no server is left unknown if we are killed.
        """
        descriptor = private_file(log, os.O_WRONLY | os.O_APPEND)
        try:
            process = subprocess.Popen(
                ["/bin/sh", "-c", _GATE, "sh", *command],
                stdin=subprocess.PIPE,
                stdout=descriptor,
                stderr=descriptor,
                cwd=log.parent,
                env={**_environment(code), **variables},
                start_new_session=True,
                umask=UMASK,
            )
        finally:
            os.close(descriptor)
        process.returncode = 0  # meant to outlive us: no ResourceWarning when the handle is collected
        assert process.stdin is not None  # noqa: S101 - for the type checker
        with process.stdin as gate:
            created = psutil.Process(process.pid).create_time()
            started = cls(pid=process.pid, created=created, host=host, port=port, fingerprint=fingerprint)
            started.save(file)
            gate.write(b"\n")
        return started

    @classmethod
    def load(cls, path: Path) -> ServerProcess | None:
        """Read the file *path*; None if it is missing or invalid."""
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                pid=int(stored["pid"]),
                created=float(stored["created"]),
                host=str(stored["host"]),
                port=int(stored["port"]),
                fingerprint=str(stored["fingerprint"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def save(self, path: Path) -> None:
        """Write it to a private file for later runs."""
        replace_file(path, json.dumps(asdict(self), indent=2) + "\n", sync=False)

    def alive(self) -> bool:
        """True if this process is still running: same id, same start, and not a zombie."""
        process = self._find()
        return process is not None

    def listens(self) -> bool:
        """True if this process is running and listens on its port."""
        process = self._find()
        try:
            connections = process.net_connections("tcp") if process is not None else []
        except psutil.Error:
            return False
        return any(each.status == psutil.CONN_LISTEN and each.laddr.port == self.port for each in connections)

    def stop(self, *, seconds: float = STOP_SECONDS) -> bool:
        """End it with SIGTERM, and with SIGKILL after *seconds*. False if it was not running."""
        process = self._find()
        if process is None:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
            try:
                process.wait(timeout=seconds)
            except psutil.TimeoutExpired:
                process.kill()
                process.wait(timeout=5)
        return True

    def _find(self) -> psutil.Process | None:
        try:
            process = psutil.Process(self.pid)
            # The start is relative to the boot time, which shifts by a second or so when the clock is set.
            if abs(process.create_time() - self.created) > 5 or process.status() == psutil.STATUS_ZOMBIE:
                return None
        except psutil.Error:
            return None
        return process


def port_holder(port: int) -> str:
    """Process id, command and user of the program that listens on *port*; empty if unknown.

    Programs of other users are not always visible. Of the arguments only the script or module is shown, because others
    may contain a password.
    """
    for process, connections in _listeners():
        if any(getattr(each.laddr, "port", None) == port for each in connections if each.status == psutil.CONN_LISTEN):
            return _described(process)
    return ""


def _listeners() -> Iterator[tuple[psutil.Process, Sequence[Any]]]:
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.pid:
                with contextlib.suppress(psutil.Error):
                    yield psutil.Process(connection.pid), [connection]
    except psutil.AccessDenied:
        # macOS shows only the user's own programs, one by one.
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                yield process, process.net_connections("tcp")


def _described(process: psutil.Process) -> str:
    command, user = "", ""
    with contextlib.suppress(psutil.Error):
        command = process.name()
        arguments = process.cmdline()
        if arguments[1:2] == ["-m"]:
            command = shlex.join([command, *arguments[1:3]])
        elif len(arguments) > 1 and Path(process.cwd(), arguments[1]).is_file():
            command = shlex.join([command, arguments[1]])
    with contextlib.suppress(psutil.Error, KeyError):
        user = f" of the user {process.username()}"
    return f"process {process.pid}{f' ({command})' if command else ''}{user}"


def _environment(code: Path) -> dict[str, str]:
    """The server's environment: ours, without variables of a notebook's kernel and secrets of the operator."""
    dropped = ("JPY_", "MODAL_TOKEN", "RUNBOOK_", "TWINE_", "UV_PUBLISH_", "AUTH_TOKEN", "MPLBACKEND", "PYDEVD_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    kept["PYTHONUNBUFFERED"] = "1"
    # `python -m ops.index` starts in the target's folder, where it would not find the package.
    kept["PYTHONPATH"] = os.pathsep.join([str(code), *filter(None, [os.environ.get("PYTHONPATH")])])
    kept.setdefault("PATH", os.defpath)
    kept["VIRTUAL_ENV"] = sys.prefix
    return kept
