"""The reason of a refusal in the status line."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from ops.index.reason_phrase import LONGEST, reason_phrase, status_line, with_reasons


@pytest.mark.parametrize(
    ("sentence", "phrase"),
    [
        ("it already exists", "it already exists"),
        ("one\r\nSet-Cookie: two", "one Set-Cookie: two"),
        ("a\x00b\x1b[31mc\x7fd\x85e\u2028f", "a?b?[31mc?d e f"),
        ("'gr\u00fc\u00df\u2026' \u2013 no", "'gr?...' - no"),
        ("  ", ""),
    ],
)
def test_a_phrase_is_printable_ascii_on_one_line(sentence: str, phrase: str) -> None:
    assert reason_phrase(sentence) == phrase


@pytest.mark.parametrize("sentence", ["x" * 100_000, "\u00e9" * 100_000, "word " * 10_000, "\u2026" * 1000])
def test_a_phrase_is_bounded(sentence: str) -> None:
    assert len(reason_phrase(sentence)) <= LONGEST


def test_a_status_line_begins_with_the_standard_phrase() -> None:
    assert status_line(409, "it exists") == b"HTTP/1.1 409 Conflict: it exists\r\n"
    assert re.fullmatch(rb"HTTP/1\.1 499 [A-Z].*: why\r\n", status_line(499, "why"))


class FakeCycle:
    """A fake of uvicorn's cycle: writes a head, then the body."""

    def __init__(self) -> None:
        self.written = b""
        self.transport: Any = self

    def write(self, data: bytes) -> None:
        self.written += data

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.transport.write(b"HTTP/1.1 %d Standard\r\nx: y\r\n\r\n" % message["status"])
        else:
            self.transport.write(message.get("body", b""))


def answered(status: int, content_type: str, *pieces: bytes) -> bytes:
    """Bytes written for a response."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        headers = [(b"content-type", content_type.encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": piece is not pieces[-1]})

    async def nothing() -> Message:
        raise AssertionError

    cycle = FakeCycle()

    async def run() -> None:
        await with_reasons(cycle, app, {}, nothing, cycle.send)

    asyncio.run(run())
    return cycle.written


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/plain; charset=utf-8", b"no such file\nmore\n"),
        ("application/json", json.dumps({"detail": "no such file"}).encode()),
    ],
)
def test_a_refusal_repeats_its_body_in_the_status_line(content_type: str, body: bytes) -> None:
    assert answered(404, content_type, body) == b"HTTP/1.1 404 Not Found: no such file\r\nx: y\r\n\r\n" + body
    assert answered(404, content_type, body, b"\r\nrest").endswith(body + b"\r\nrest")


@pytest.mark.parametrize(
    ("status", "content_type", "body"),
    [
        (200, "text/plain", b"fine"),
        (301, "text/plain", b"elsewhere"),
        (404, "text/html", b"<p>not here</p>"),
        (404, "text/plain", b""),
        (422, "application/json", b'{"detail": [1]}'),
        (422, "application/json", b"[" * 60_000),
        (422, "application/json", b"\xff"),
    ],
)
def test_everything_else_keeps_its_standard_phrase(status: int, content_type: str, body: bytes) -> None:
    assert answered(status, content_type, body) == b"HTTP/1.1 %d Standard\r\nx: y\r\n\r\n" % status + body
