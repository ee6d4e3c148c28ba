"""Adapter of an ASGI application for Modal's container runtime."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


def for_modal(application: Application) -> Application:
    """Wrap *application* to send bodies of type ``bytes`` only.

    The runtime puts each message into a protobuf, which accepts nothing else. The index also sends a ``bytearray``,
    which saves a copy with uvicorn.
    """

    async def call(scope: Message, receive: Receive, send: Send) -> None:
        async def send_bytes(message: Message) -> None:
            body = message.get("body")
            if body is not None and type(body) is not bytes:
                message["body"] = bytes(body)
            await send(message)

        await application(scope, receive, send_bytes)

    return call
