"""Sending of files from the page cache to a client by the kernel (ASGI extension ``http.response.zerocopysend``)."""

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
"""True on systems whose kernel does it."""

_AT_ONCE: Final = 8 * 1024 * 1024
"""Bytes that the kernel is given at a time, which take it a millisecond; then it is somebody else's turn."""

_PROBED: Final = 2 * 1024 * 1024
"""Bytes of which the first is looked for in memory: a kernel reads ahead, and forgets, in order."""

_WATCHED: Final = 16 * 1024
"""Bytes that take the way through the transport when the socket is full: it tells when they have left."""


def with_zero_copy(cycle: Any, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
    """Call *app*, and send the files that it names without a copy through this process.

    Parameters:
        cycle: uvicorn's request cycle, which counts what is left of the response.
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
        transport.set_write_buffer_limits(0)  # writing is paused until the last byte has left
        if await _send_file(transport, cycle.flow, file, start, start + count):
            transport.set_write_buffer_limits()
            cycle.expected_content_length -= count
            await send({"type": "http.response.body", "body": b"", "more_body": message.get("more_body", False)})
        elif cycle.disconnected or transport.is_closing():
            await client_gone(receive)
        else:  # the client must not take what it got for the whole
            transport.close()

    def send_any(message: Message) -> Awaitable[None]:
        return send_file(message) if message["type"] == ZERO_COPY else send(message)

    return app(scope, receive, send_any)


async def _send_file(transport: Any, flow: FlowControl, file: int, start: int, stop: int) -> bool:
    """Send a part of a file at the pace of the client. False if the client has left, or the file has become shorter."""
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
                await asyncio.sleep(0)  # others are served even if this client reads as fast as it is sent to
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
