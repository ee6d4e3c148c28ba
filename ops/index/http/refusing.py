"""Refusing an upload while its body is still on its way."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from ops.index.errors import PackageIndexError

_LINGER_SECONDS: Final = 30.0
"""For so long a client may go on sending: twine reads no answer before it has sent all, and closing a connection on
which bytes are still arriving may take the answer from the client."""

_log = logging.getLogger(__name__)


async def refuse_early(
    error: PackageIndexError,
    user_agent: str,
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
) -> None:
    """Answer now, drop what still arrives, and close the connection (RFC 9112 section 9.6).

    Parameters:
        error: why.
        user_agent: of the client.
        receive: for the rest of the body.
        send: for the answer.
    """
    status = error.status_for(user_agent)
    if status >= 500:
        _log.warning("an upload was refused: %s", error)
    headers = {
        "content-type": "text/plain; charset=utf-8",
        "content-length": str(len(error.body)),
        "cache-control": "private, no-store",
        "x-content-type-options": "nosniff",
        **{name.lower(): value for name, value in error.headers.items()},
        "connection": "close",
    }
    fields = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": error.body, "more_body": True})
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            more = True
            while more:
                message = await receive()
                more = message["type"] != "http.disconnect" and message.get("more_body", False)
    await send({"type": "http.response.body", "body": b""})
