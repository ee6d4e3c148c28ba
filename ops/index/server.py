"""Server for ``python -m ops.index``: uvicorn with limits for untrusted clients."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from ops.index.config import Options
from ops.index.connection import IDLE_SECONDS, Connection
from ops.index.connection_limits import ConnectionLimits
from ops.index.uvicorn_core import Config, UvicornServer

if TYPE_CHECKING:
    from starlette.types import ASGIApp

BACKLOG = 2048
"""Maximum number of connections waiting to be accepted, if there are enough descriptors."""

_SETTLED_TICKS = 30
"""Tenths of a second until all background imports are done."""

_GRACE = 10
"""Seconds for requests to finish when the server is stopping."""


class Server(UvicornServer):
    """One process, one event loop, one listening socket.

    Parameters:
        application: handles the requests.
        ready: called once, when requests are accepted.
        settled: called once, some seconds later, when all background imports are done.
        limits: on connections.
        backlog: maximum number of connections waiting to be accepted.
        stopping: called once, when the server is told to stop, before the grace period for requests.
        accepted: called once, to get the connections that were accepted earlier.
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
        accepted: Callable[[], Iterable[socket.socket]] = tuple,
    ) -> None:
        options = Options()
        limits = limits or ConnectionLimits(options.max_connections, options.max_connections_per_address)
        connection: Any = partial(Connection, limits=limits)
        super().__init__(
            Config(
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
        self._accepted = accepted

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and call *ready*."""
        await super().startup(sockets)
        if self.started:
            self._ready()
            for connection in self._accepted():
                with contextlib.suppress(OSError):  # the client has left
                    await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> asyncio.Protocol:
        connection: Any = self.config.http_protocol_class
        protocol: asyncio.Protocol = connection(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop, after the current requests."""
        if self._stopping is not None:
            self._stopping()
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second; once a second, close connections that timed out."""
        if counter == _SETTLED_TICKS and self._settled is not None:  # uvicorn's counter begins again every day
            self._settled()
            self._settled = None
        if counter % 10 == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Connection):
                    connection.sweep(now)
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGTERM and SIGINT with exit code 0: uvicorn would raise the signal again."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.handle_exit)
        yield
