"""Process that forks the workers of a sandbox. Run as a script, with its settings as JSON.

Its standard input is a socket for calls: one byte each, with two sockets and the files of the call. The first socket
carries the payload in and the result out. The second gets the exit code; when the other side shuts it,
the worker is killed. The process ends when its standard input ends.

Until its import path is set, it can import only the standard library.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

RAISED = 70
OUT_OF_MEMORY = 71
CANNOT_FORK = 72
"""Exit codes of a worker, besides 0 and a signal's negative number."""

_DESCRIPTORS = 256
"""Open files of the fork server."""

_FILES = 8
"""Files of one call."""

_PIECE = 256 * 1024


@dataclass(eq=False)
class _Worker:
    """A process that handles one call.

    Parameters:
        process: its id.
        life: gets its exit code.
        gone: a pipe that becomes readable when the process has ended.
    """

    process: int
    life: socket.socket
    gone: int


class ForkServer:
    """Forks a worker for each call.

    Parameters:
        control: socket for calls.
        work: function that a worker calls.
        limits: of each worker.
    """

    def __init__(self, control: socket.socket, work: Callable[..., bytes], limits: dict[str, Any]) -> None:
        self._control = control
        self._work = work
        self._limits = limits
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ)

    def serve(self) -> None:
        """Serve until the control socket is shut."""
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    if not self._accept():
                        return
                elif key.data.life.fileno() >= 0:  # else it was reaped in this round
                    if key.fd != key.data.gone:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(key.data.process, signal.SIGKILL)
                    self._reap(key.data)

    def end(self) -> None:
        """Kill all workers."""
        for key in list(self._selector.get_map().values()):
            if key.data is not None and key.fd == key.data.gone:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(key.data.process, signal.SIGKILL)

    def _accept(self) -> bool:
        message, descriptors, _, _ = socket.recv_fds(self._control, 1, 2 + _FILES)
        if not message:
            return False
        if len(descriptors) < 2:  # too many open files; the other side sees its sockets closed
            for descriptor in descriptors:
                os.close(descriptor)
            return True
        data, life = (socket.socket(fileno=descriptor) for descriptor in descriptors[:2])
        try:
            self._fork(data, life, descriptors[2:])
        except OSError:
            _report(life, CANNOT_FORK)
        finally:
            data.close()
            for descriptor in descriptors[2:]:
                os.close(descriptor)
        return True

    def _fork(self, data: socket.socket, life: socket.socket, files: list[int]) -> None:
        gone, alive = os.pipe()
        try:
            process = os.fork()
        except OSError:
            os.close(gone)
            os.close(alive)
            raise
        if process == 0:
            code = RAISED
            try:
                _keep_only([data.fileno(), alive, *files])
                _set_limits(self._limits)
                code = _perform(self._work, data, files)
            finally:
                os._exit(code)
        os.close(alive)
        worker = _Worker(process, life, gone)
        self._selector.register(life, selectors.EVENT_READ, worker)
        self._selector.register(gone, selectors.EVENT_READ, worker)

    def _reap(self, worker: _Worker) -> None:
        self._selector.unregister(worker.life)
        self._selector.unregister(worker.gone)
        os.close(worker.gone)
        _, status = os.waitpid(worker.process, 0)
        _report(worker.life, os.waitstatus_to_exitcode(status))


def _report(life: socket.socket, code: int) -> None:
    with life, contextlib.suppress(OSError):
        life.sendall(code.to_bytes(4, "big", signed=True))


def _perform(work: Callable[..., bytes], data: socket.socket, files: Sequence[int]) -> int:
    """Read the payload, process it and send the result, in the worker."""
    try:
        payload = bytearray()
        while piece := data.recv(_PIECE):
            payload += piece
        code, result = 0, work(bytes(payload), *files)
    except MemoryError:
        code, result = OUT_OF_MEMORY, b""
    except BaseException as error:  # noqa: BLE001 - strangers' content may raise anything
        code, result = RAISED, type(error).__name__.encode("ascii", "replace")
    data.sendall(result)
    return code


def _keep_only(descriptors: list[int]) -> None:
    """Close the files of the fork server and of other workers."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(null, stream)
    start = 3
    for descriptor in sorted(descriptors):
        os.closerange(start, descriptor)
        start = descriptor + 1
    os.closerange(start, _DESCRIPTORS)


def _set_limits(limits: dict[str, Any]) -> None:
    import resource

    sys.dont_write_bytecode = True
    for number in (signal.SIGALRM, signal.SIGXCPU, signal.SIGXFSZ, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, limits["wall_seconds"])
    _limit(resource.RLIMIT_CPU, limits["cpu_seconds"], limits["cpu_seconds"] + 1)
    _limit(resource.RLIMIT_AS, limits["memory_bytes"])
    _limit(resource.RLIMIT_FSIZE, 0)


def _limit(kind: int, soft: int, hard: int | None = None) -> None:
    """Lower a limit, unless it is already lower or unsupported, as for address space on macOS."""
    import resource

    hard = soft if hard is None else hard
    present = resource.getrlimit(kind)[1]
    if present != resource.RLIM_INFINITY:
        soft, hard = min(soft, present), min(hard, present)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(kind, (soft, hard))


def _lower_priority() -> None:
    """Run at a lower priority than the server, and be killed first when memory runs out."""
    with contextlib.suppress(OSError):
        os.nice(10)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _function(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return function


def main(settings: dict[str, Any]) -> None:
    """Import what the work needs, report readiness, and fork workers until stopped."""
    import resource

    sys.path[:] = [*settings["path"], *sys.path]
    _limit(resource.RLIMIT_NOFILE, _DESCRIPTORS)
    _limit(resource.RLIMIT_CORE, 0)
    _lower_priority()
    with socket.socket(fileno=os.dup(0)) as control:
        work = _function(settings["work"])
        if settings["preload"]:
            _function(settings["preload"])()
        gc.collect()
        gc.freeze()  # so that a worker copies no pages for the garbage collector
        control.sendall(b"\0")
        server = ForkServer(control, work, settings)
        try:
            server.serve()
        finally:
            server.end()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
