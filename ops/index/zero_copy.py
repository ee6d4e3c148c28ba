"""Files sent from the page cache to a client by the kernel (ASGI extension ``http.response.zerocopysend``)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Final

from ops.index.http.files import PIECE, ZERO_COPY, in_memory
from ops.index.http.request import client_gone

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from uvicorn.protocols.http.flow_control import FlowControl

SENDS_FILES: Final = hasattr(os, "sendfile")
"""True on systems whose kernel supports it."""

_AT_ONCE: Final = 8 * 1024 * 1024
"""Bytes given to the kernel at a time, which take a millisecond; then other clients get a turn."""

_PROBED: Final = 2 * 1024 * 1024
"""Bytes per check whether the file is in memory: kernels read ahead, and evict, in order."""

_WATCHED: Final = 16 * 1024
"""Bytes sent through the transport when the socket is full: it reports when they have been sent."""


def with_zero_copy(cycle: Any, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
    """Call *app*, and send the files that it names without copying them through this process.

    Parameters:
        cycle: uvicorn's request cycle, which counts the remaining bytes of the response.
        app: the application.
        scope: of the request.
        receive: likewise.
        send: the server's, for all other messages.
    """

    async def send_file(message: Message) -> None:
        if cycle.disconnected:
            return
        file, start, count = message["file"].fileno(), message["offset"], message["count"]
        transport = cycle.transport
        transport.set_write_buffer_limits(0)  # writing is paused until the last byte is sent
        if await _send_file(transport, cycle.flow, file, start, start + count):
            transport.set_write_buffer_limits()
            cycle.expected_content_length -= count
            await send({"type": "http.response.body", "body": b"", "more_body": message.get("more_body", False)})
        elif cycle.disconnected or transport.is_closing():
            await client_gone(receive)
        else:  # the client must not mistake what it got for the whole
            transport.close()

    def send_any(message: Message) -> Awaitable[None]:
        return send_file(message) if message["type"] == ZERO_COPY else send(message)

    return app(scope, receive, send_any)


async def _send_file(transport: Any, flow: FlowControl, file: int, start: int, stop: int) -> bool:
    """Send a part of a file at the client's pace. False if the client has disconnected, or the file was truncated."""
    while start < stop:
        await flow.drain()
        if transport.is_closing():
            return False
        end = min(start + _AT_ONCE, stop)
        if in_memory(file, end - 1) and all(in_memory(file, place) for place in range(start, end, _PROBED)):
            try:
                start += os.sendfile(transport.get_extra_info("socket").fileno(), file, start, end - start)
            except BlockingIOError:
                pass
            except OSError:
                transport.abort()
                return False
            if start == end:
                await asyncio.sleep(0)  # others get a turn even if this client reads as fast as we send
                continue
            piece = os.pread(file, min(_WATCHED, end - start), start)
        else:
            piece = await asyncio.to_thread(os.pread, file, min(PIECE, end - start), start)
        if not piece or transport.is_closing():
            return False
        transport.write(piece)
        start += len(piece)
    await flow.drain()
    return not transport.is_closing()
