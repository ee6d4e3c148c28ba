"""Sandbox that runs a function on strangers' content in a child process, with limits."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ops.index.errors import SandboxBusy, SandboxUnavailable, WorkCancelled, WorkFailed
from ops.index.sandbox import fork_server

_START_SECONDS = 60.0
"""Time for the fork server to start and import what the work needs, on a busy machine."""

_REPORT_SECONDS = 5.0
"""Time for the fork server to kill and report a worker that reached its wall-clock limit."""

_PIECE = 256 * 1024

_KEPT_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""Variables that an interpreter may need to start. Others are not passed on: they may hold secrets."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one call. macOS does not enforce the memory limit.

    Parameters:
        cpu_seconds: of processor time.
        wall_seconds: from its start to its end.
        memory_bytes: of address space, the interpreter and imported modules included.
        result_bytes: of the result.
    """

    cpu_seconds: int
    wall_seconds: float
    memory_bytes: int = 512 * 1024**2
    result_bytes: int = 8 * 1024**2


class Cancellation:
    """Cancels work from another thread, permanently."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._actions: list[Callable[[], None]] = []
        self.cancelled = False

    def cancel(self) -> None:
        """Cancel current and future work with this cancellation. Returns at once."""
        with self._lock:
            self.cancelled = True
            actions = list(self._actions)
        for action in actions:
            action()

    @contextlib.contextmanager
    def calling(self, action: Callable[[], None]) -> Iterator[None]:
        """Call *action* if cancelled before or inside the context."""
        with self._lock:
            self._actions.append(action)
            late = self.cancelled
        try:
            if late:
                action()
            yield
        finally:
            with self._lock:
                self._actions.remove(action)


class _ServerKilledError(Exception):
    """The fork server ended during a call."""


class Sandbox:
    """Runs one function on strangers' content, each call in its own process.

    A fork server, started on first use, imports the function once and forks a worker for each call, so that
    a worker costs milliseconds and leaves nothing behind. All have an empty environment, no standard streams,
    ``/`` as their directory, and end with this process. A call during which the fork server is killed is repeated
    once.

    Parameters:
        work: ``package.module:function``; takes bytes and the descriptors of files, and returns bytes.
        limits: of each call.
        preload: ``package.module:function``; called once in the fork server to import what the work needs.
        workers: maximum number of concurrent calls.
        queue: maximum number of further calls waiting for a worker.
    """

    def __init__(self, work: str, limits: Limits, *, preload: str = "", workers: int = 1, queue: int = 0) -> None:
        self._work = work
        self._preload = preload
        self._limits = limits
        self._workers = workers
        self._queue = queue
        self._free = threading.Condition()
        self._running = 0
        self._waiting = 0
        self._closing = Cancellation()
        self._starting = threading.Lock()
        self._ending = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def run(self, payload: bytes, *files: int, cancellation: Cancellation | None = None) -> bytes:
        """Call the function in a worker and wait for its result. Blocks.

        Parameters:
            payload: its argument.
            files: descriptors passed to the worker; their numbers there are further arguments. The position is
                shared.
            cancellation: ends it early.

        Raises:
            WorkFailed: it raised, crashed, or reached a limit.
            WorkCancelled: it was cancelled, or the sandbox is closed.
            SandboxBusy: too many calls are waiting.
            SandboxUnavailable: no process can be started.
        """
        cancellation = cancellation or Cancellation()
        with self._worker(cancellation):
            try:
                return self._call(payload, files, cancellation)
            except _ServerKilledError:  # perhaps just before this call: try again, once
                try:
                    return self._call(payload, files, cancellation)
                except _ServerKilledError:
                    raise SandboxUnavailable("its process was killed") from None

    def close(self) -> None:
        """End the current calls, and accept no more. Does not block."""
        self._closing.cancel()
        self._end_process()

    @contextlib.contextmanager
    def _worker(self, cancellation: Cancellation) -> Iterator[None]:
        """Wait for the right to run one worker."""

        def wake() -> None:
            with self._free:
                self._free.notify_all()

        def over() -> bool:
            return cancellation.cancelled or self._closing.cancelled

        with self._closing.calling(wake), cancellation.calling(wake), self._free:
            if self._running >= self._workers and self._waiting >= self._queue:
                raise SandboxBusy
            self._waiting += 1
            self._free.wait_for(lambda: self._running < self._workers or over())
            self._waiting -= 1
            if over():
                self._free.notify()
                raise WorkCancelled
            self._running += 1
        try:
            yield
        finally:
            with self._free:
                self._running -= 1
                self._free.notify()

    def _call(self, payload: bytes, files: Sequence[int], cancellation: Cancellation) -> bytes:
        try:
            data, its_data = socket.socketpair()
        except OSError as error:
            raise SandboxUnavailable(str(error)) from error
        with data, its_data:
            try:
                life, its_life = socket.socketpair()
            except OSError as error:
                raise SandboxUnavailable(str(error)) from error
            with life, its_life:

                def stop() -> None:
                    for end in (data, life):  # the fork server kills a worker whose `life` is closed
                        with contextlib.suppress(OSError):
                            end.shutdown(socket.SHUT_RDWR)

                with self._closing.calling(stop), cancellation.calling(stop):
                    try:
                        server = self._submit([its_data.fileno(), its_life.fileno(), *files])
                        its_data.close()
                        its_life.close()
                        try:
                            return self._judged(*self._run_in_worker(data, life, payload))
                        except (_ServerKilledError, TimeoutError):
                            if not cancellation.cancelled:
                                self._end_process(server)  # it may not have ended yet
                            raise
                    except Exception as error:
                        if self._closing.cancelled or cancellation.cancelled:
                            raise WorkCancelled from None
                        if isinstance(error, TimeoutError):
                            raise WorkFailed(self._too_slow) from None
                        raise

    def _run_in_worker(self, data: socket.socket, life: socket.socket, payload: bytes) -> tuple[int, bytes]:
        """Send the payload, and return the worker's exit code and result.

        Raises:
            WorkFailed: the result is too long.
            TimeoutError: the fork server did not end the worker in time.
        """
        deadline = time.monotonic() + self._limits.wall_seconds + _REPORT_SECONDS
        result = bytearray()
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its exit code says why
                data.settimeout(_left(deadline))
                data.sendall(payload)
                data.shutdown(socket.SHUT_WR)
                while True:
                    data.settimeout(_left(deadline))
                    piece = data.recv(_PIECE)
                    if not piece:
                        break
                    result += piece
                    if len(result) > self._limits.result_bytes:
                        raise WorkFailed(f"its result is longer than {self._limits.result_bytes:,} bytes")
            life.settimeout(_left(deadline))
            status = life.recv(4, socket.MSG_WAITALL)
        except TimeoutError:  # the fork server does not respond
            raise
        except OSError:
            status = b""
        if len(status) < 4:
            raise _ServerKilledError
        return int.from_bytes(status, "big", signed=True), bytes(result)

    def _judged(self, code: int, result: bytes) -> bytes:
        """The result, unless the exit code indicates a failure; negative codes are signals."""
        if code == fork_server.CANNOT_FORK:
            raise SandboxUnavailable("no process can be forked")
        if code == fork_server.OUT_OF_MEMORY:
            raise WorkFailed(f"it needs more than {self._limits.memory_bytes // 1024**2} MiB of memory")
        if code == fork_server.RAISED:
            raise WorkFailed(f"it raised {result[:200].decode('ascii', 'replace')}")
        if code in {-signal.SIGXCPU, -signal.SIGALRM}:
            raise WorkFailed(self._too_slow)
        if code in {-signal.SIGKILL, -signal.SIGTERM}:  # by someone, or because memory ran out
            raise SandboxUnavailable("its process was killed")
        if code:
            raise WorkFailed(f"its process ended with {_name_of(code)}")
        return result

    @property
    def _too_slow(self) -> str:
        cpu, wall = self._limits.cpu_seconds, self._limits.wall_seconds
        return f"it takes more than {cpu} s of processor time, or {wall:g} s in all"

    def _submit(self, descriptors: list[int]) -> subprocess.Popen[bytes]:
        """Send a call to the fork server, which is started if needed."""
        with self._starting:
            if self._closing.cancelled:
                raise WorkCancelled
            for last in (False, True):
                server, control = self._started()
                try:
                    socket.send_fds(control, [b"\0"], descriptors)
                except OSError as error:  # it was killed meanwhile
                    self._end_process(server)
                    if last:
                        raise SandboxUnavailable(error.strerror or str(error)) from error
                else:
                    return server
        raise AssertionError

    def _started(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        with self._ending:
            process, known = self._process, self._control
            if process is not None and known is not None and process.poll() is None:
                return process, known
        self._end_process()
        settings = {**asdict(self._limits), "work": self._work, "preload": self._preload, "path": _import_path()}
        command = [sys.executable, "-I", "-S", "-X", "utf8", fork_server.__file__, json.dumps(settings)]
        try:
            control, its_control = socket.socketpair()
        except OSError as error:
            raise SandboxUnavailable(error.strerror or str(error)) from error
        with its_control:
            try:
                process = subprocess.Popen(
                    command,
                    stdin=its_control.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    env={name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ},
                    start_new_session=True,
                )
            except (OSError, ValueError) as error:
                control.close()
                raise SandboxUnavailable(f"no process can be started: {error}") from error
        with self._ending:
            self._process, self._control = process, control
        if self._closing.cancelled:
            self._end_process()
        try:
            control.settimeout(_START_SECONDS)
            ready = control.recv(1)
        except OSError:
            ready = b""
        if not ready:
            self._end_process()
            raise SandboxUnavailable("its process did not start")
        return process, control

    def _end_process(self, only: subprocess.Popen[bytes] | None = None) -> None:
        """Kill the fork server and its workers; with *only*, only if it is that one."""
        with self._ending:
            if only not in {None, self._process}:
                return
            process, self._process = self._process, None
            control, self._control = self._control, None
        if process is not None:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)  # its own session; not reaped yet, so the id is still its own
            process.kill()
            process.wait()
        if control is not None:
            control.close()


def _import_path() -> list[str]:
    """The absolute entries of this process's import path."""
    root = str(Path(__file__).resolve().parents[3])
    return list(dict.fromkeys([root, *(entry for entry in sys.path if Path(entry).is_absolute())]))


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _name_of(code: int) -> str:
    if code > 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
