"""Requirements of Modal's container runtime for an application."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ops.targets.container import Message, Receive, Send, for_modal


@pytest.mark.parametrize("body", [b"whole", bytearray(b"whole"), memoryview(b"whole")])
def test_every_body_reaches_the_runtime_as_bytes(body: Any) -> None:
    """The runtime puts it into a protobuf, which accepts nothing else."""

    async def application(scope: Message, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    async def request() -> None:
        await for_modal(application)({"type": "http"}, receive, send)

    asyncio.run(request())
    assert "body" not in sent[0]
    assert type(sent[1]["body"]) is bytes
    assert sent[1]["body"] == b"whole"
