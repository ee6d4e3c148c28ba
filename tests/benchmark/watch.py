"""Servers observed from outside: their memory, and whether they are idle."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from tests.benchmark.servers import Server

REST_SECONDS = 300.0
"""Seconds for which a measurement waits for its servers to be idle."""

_REST_SHARE = 0.1  # of one CPU, for all servers together: an idle server still has timers and housekeeping
_REST_CHECKS = 4  # longer than any server here waits before it starts background work


def await_rest(servers: Iterable[Server], *, most_seconds: float = REST_SECONDS, every_seconds: float = 1.0) -> bool:
    """Wait until no server does background work; returns whether that happened.

    Ours scans a new directory while it already serves, which would distort any measurement meanwhile.

    Parameters:
        most_seconds: time limit.
        every_seconds: interval between samples; four idle ones in a row are required.
    """
    watched = list(servers)
    deadline = time.monotonic() + most_seconds
    quiet, seen, since = 0, _used(watched), time.monotonic()
    while quiet < _REST_CHECKS and time.monotonic() < deadline:
        time.sleep(every_seconds)
        used, now = _used(watched), time.monotonic()
        quiet = quiet + 1 if used - seen <= _REST_SHARE * (now - since) else 0
        seen, since = used, now
    return quiet >= _REST_CHECKS


def _used(servers: Iterable[Server]) -> float:
    return sum(server.cpu_seconds() for server in servers)


class MemoryWatch:
    """Samples a server's memory in a thread; *peak* is the maximum, in bytes."""

    def __init__(self, server: Server, *, every_seconds: float = 0.02) -> None:
        self.peak = 0
        self._server = server
        self._every = every_seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self.peak = max(self.peak, self._server.memory())
            if self._over.wait(self._every):
                return
