"""Built-in load generator: requests over a bounded number of persistent connections.

It sends uploads, and requests pages if wrk is not installed.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, cast
from urllib.parse import urlsplit

from tests.benchmark.responses import ResponseParser, Tally

_RESPONSE_SECONDS = 120.0


def request(
    url: str, *, authorization: str = "", accept: str = "*/*", headers: Mapping[str, str] = MappingProxyType({})
) -> bytes:
    """A GET request's bytes (RFC 9112)."""
    parts = urlsplit(url)
    lines = [f"GET {parts.path} HTTP/1.1", f"Host: {parts.netloc}", f"Accept: {accept}", "Connection: keep-alive"]
    if authorization:
        lines.append(f"Authorization: {authorization}")
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def fetch(
    url: str,
    *,
    authorization: str,
    accept: str,
    connections: int,
    seconds: float,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> Tally:
    """Request one page repeatedly.

    Parameters:
        connections: number of concurrent clients.
        seconds: how long to send new requests.
        headers: additional headers.
    """
    message = request(url, authorization=authorization, accept=accept, headers=headers)
    return send(url, lambda: message, connections=connections, seconds=seconds)


def send(url: str, messages: Callable[[], bytes | None], *, connections: int, seconds: float) -> Tally:
    """Send prepared requests to the server of *url*, one at a time on each connection.

    Requests in flight when the time is up are awaited and counted.

    Parameters:
        messages: returns the next request's bytes; None after the last one.
        connections: number of concurrent connections.
        seconds: how long to send new requests.
    """
    tally = Tally()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=_new_loop) as runner:
                runner.run(_send(url, messages, connections=connections, seconds=seconds, tally=tally))
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            failures.append(error)

    # In a notebook this thread's event loop is already running.
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return tally


async def _send(
    address: str, messages: Callable[[], bytes | None], *, connections: int, seconds: float, tally: Tally
) -> None:
    parts = urlsplit(address)
    loop = asyncio.get_running_loop()
    begin = time.perf_counter()
    deadline = begin + seconds

    def next_message() -> bytes | None:
        return messages() if time.perf_counter() < deadline else None

    clients = [_Client(loop, (parts.hostname or "", parts.port or 80), next_message, tally) for _ in range(connections)]
    for client in clients:
        client.connect()
    try:
        async with asyncio.timeout(seconds + _RESPONSE_SECONDS):
            await asyncio.gather(*(client.done for client in clients))
    except TimeoutError:
        tally.broken += sum(not client.done.done() for client in clients)
    tally.seconds = time.perf_counter() - begin


class _Client(asyncio.Protocol):
    """One connection: sends a request, counts its response, sends the next. Reopened if the server closes it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        address: tuple[str, int],
        messages: Callable[[], bytes | None],
        tally: Tally,
    ) -> None:
        self.done: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._address = address
        self._messages = messages
        self._tally = tally
        self._message: bytes | None = None
        self._parser = ResponseParser()
        self._transport: asyncio.Transport | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    def connect(self) -> None:
        """Open the connection, and send the first request once it is established."""
        task = self._loop.create_task(self._open())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open(self) -> None:
        try:
            await self._loop.create_connection(lambda: self, *self._address)
        except OSError:
            self._tally.broken += 1
            self._finish()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass
        self._next()

    def data_received(self, data: bytes) -> None:
        if self._parser.feed(data):
            self._count()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self.done.done():
            return
        if self._message is not None:  # a response without a length ends with the connection
            if self._parser.feed_end():
                self._tally.responses[self._parser.status] += 1
            else:
                self._tally.broken += 1
            self._message = None
            self._parser = ResponseParser()
        self.connect()

    def _count(self) -> None:
        self._tally.responses[self._parser.status] += 1
        closes = self._parser.closes
        self._message = None
        self._parser = ResponseParser()
        if not closes:
            self._next()
        elif self._transport is not None:
            self._transport.close()

    def _next(self) -> None:
        self._message = self._messages()
        if self._message is None:
            self._finish()
        elif self._transport is not None:
            self._transport.write(self._message)

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
        if self._transport is not None:
            self._transport.close()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def supply(messages: Iterator[bytes]) -> Callable[[], bytes | None]:
    """Adapt an iterator of requests for :func:`send`."""
    return lambda: next(messages, None)
