"""uvicorn with the limits of a server that strangers can reach, for ``python -m ops.index``."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import uvicorn

from ops.index.config import Options
from ops.index.connection import IDLE_SECONDS, Connection
from ops.index.connection_limits import ConnectionLimits

if TYPE_CHECKING:
    from starlette.types import ASGIApp

BACKLOG = 2048
"""The most connections that wait to be accepted, if there are descriptors enough."""

_SETTLED_TICKS = 30
"""Tenths of a second after which all that is imported in the background is there."""

_GRACE = 10
"""Seconds that requests get to end when the server is told to stop."""


class Server(uvicorn.Server):
    """One process, one event loop, one listening socket.

    Parameters:
        application: what answers.
        ready: called once when requests are answered.
        settled: called once some seconds later, when what is imported in the background is there.
        limits: how many connections there may be.
        backlog: the most connections that wait to be accepted; they are accepted all at once.
        stopping: called once when the server is told to stop, before requests get the time to end.
    """

    def __init__(
        self,
        application: ASGIApp,
        *,
        ready: Callable[[], None],
        settled: Callable[[], object] | None = None,
        limits: ConnectionLimits | None = None,
        backlog: int = BACKLOG,
        stopping: Callable[[], object] | None = None,
    ) -> None:
        options = Options()
        limits = limits or ConnectionLimits(options.max_connections, options.max_connections_per_address)
        connection: Any = partial(Connection, limits=limits)
        super().__init__(
            uvicorn.Config(
                application,
                http=connection,
                backlog=backlog,
                ws="none",
                lifespan="on",
                interface="asgi3",
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=int(IDLE_SECONDS),
                timeout_graceful_shutdown=_GRACE,
            )
        )
        self._ready = ready
        self._settled = settled
        self._stopping = stopping

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and tell that it has started."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop, after the requests that are being answered."""
        if self._stopping is not None:
            self._stopping()
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second; once a second connections are closed whose client was waited for too long."""
        if counter == _SETTLED_TICKS and self._settled is not None:
            self._settled()
        if counter % 10 == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Connection):
                    connection.sweep(now)
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGTERM and SIGINT, and end as if asked politely: uvicorn would raise the signal once more."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.handle_exit)
        yield
