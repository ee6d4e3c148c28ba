"""Reasons of refusals in the status line (RFC 9112, section 4).

twine, hatch and flit show only a response's status line, so the reason must be there. ASGI has no field
for it, so it is taken from the body.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LONGEST = 400
"""Characters of a phrase: enough for every message of the index, and well below the limits of proxies."""

_LONGEST_BODY = 65536
_NOT_PRINTABLE = re.compile(r"[^\x20-\x7e]+")
_TYPOGRAPHY = str.maketrans(
    {"\u2026": "...", "\u2013": "-", "\u2014": "-", "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'}
)


def reason_phrase(sentence: str) -> str:
    """A sentence as a reason phrase: printable ASCII on one line, of at most :data:`LONGEST` characters."""
    words = " ".join(sentence[: 4 * LONGEST].translate(_TYPOGRAPHY).split())
    plain = _NOT_PRINTABLE.sub("?", words)
    return plain if len(plain) <= LONGEST else plain[: LONGEST - 3].rstrip() + "..."


@lru_cache(maxsize=256)  # unauthenticated requests get the same few sentences
def status_line(status: int, sentence: str) -> bytes:
    """The status line with the standard phrase, followed by the sentence."""
    return f"HTTP/1.1 {status} {_standard(status)}: {reason_phrase(sentence)}\r\n".encode("ascii")


def with_reasons(cycle: Any, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
    """Call *app*, and put the reasons for its refusals into their status lines.

    uvicorn writes the status line with the headers, so the start of a refusal is delayed until its body is known, and
    the line is replaced as it is written. For all other responses this adds a function call to each message.

    Parameters:
        cycle: uvicorn's request cycle, whose transport *send* writes to.
        app: the application.
        scope: of the request.
        receive: likewise.
        send: uvicorn's.
    """
    held: Message | None = None

    def send_with_reason(message: Message) -> Awaitable[None]:
        nonlocal held
        if held is not None:
            start, held = held, None
            return _refuse(cycle, send, start, message)
        if message.get("status", 0) >= 400:
            held = message
            return _nothing()
        return send(message)

    return app(scope, receive, send_with_reason)


async def _refuse(cycle: Any, send: Send, start: Message, body: Message) -> None:
    sentence = _sentence(start, body.get("body", b""))
    if sentence:
        cycle.transport = _Restated(cycle.transport, status_line(start["status"], sentence))
    await send(start)
    await send(body)


async def _nothing() -> None:
    """Delay the start."""


def _standard(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Refused"


def _sentence(start: Message, body: bytes) -> str:
    """The reason in a body: the first line of a text, or the ``detail`` of a JSON object."""
    if not 0 < len(body) <= _LONGEST_BODY:
        return ""
    kind = next((value for name, value in start.get("headers", ()) if name.lower() == b"content-type"), b"")
    match kind.partition(b";")[0].strip().lower():
        case b"text/plain":
            return bytes(body).decode("utf-8", "replace").strip().partition("\n")[0]
        case b"application/json":
            try:
                content = json.loads(bytes(body))
            except (ValueError, RecursionError):
                return ""
            detail = content.get("detail") if isinstance(content, dict) else None
            return detail if isinstance(detail, str) else ""
    return ""


class _Restated:
    """A transport that replaces the status line in the first write."""

    def __init__(self, transport: Any, line: bytes) -> None:
        self._transport = transport
        self._line: bytes | None = line

    def write(self, data: bytes) -> None:
        if self._line is not None:
            data = self._line + data.partition(b"\r\n")[2]
            self._line = None
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
