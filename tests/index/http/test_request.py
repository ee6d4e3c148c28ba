"""Bodies that have to be short, and come as slowly as a client likes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ops.index.errors import BadRequest, RequestTimeout, TooLarge
from ops.index.http import request, upload_handler
from ops.index.http.request import Message, Request, note_login, short_body

SCOPE: dict[str, Any] = {"type": "http", "method": "POST", "path": "/", "headers": []}


async def dribble() -> Message:
    """A byte of a body that never ends."""
    await asyncio.sleep(0.001)
    return {"type": "http.request", "body": b"x", "more_body": True}


async def unsent(_message: Message) -> None:
    raise AssertionError


def test_a_short_body_that_dribbles_has_a_deadline_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "SHORT_BODY_SECONDS", 0.1)
    with pytest.raises(RequestTimeout) as refused:
        asyncio.run(Request(SCOPE, dribble, unsent, {}, "").body(10_000_000))
    assert (refused.value.status, refused.value.headers) == (408, {"Connection": "close"})


def test_a_short_body_is_bounded_and_must_be_whole() -> None:
    with pytest.raises(TooLarge):
        asyncio.run(short_body(dribble, 10))

    async def gone() -> Message:
        return {"type": "http.disconnect"}

    with pytest.raises(BadRequest):
        asyncio.run(short_body(gone, 10))


def test_an_upload_that_dribbles_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_handler, "PATIENCE", 0.05)
    monkeypatch.setattr(upload_handler, "_LEAST_RATE", 1_000_000)

    async def receive_all() -> RequestTimeout | None:
        patient = upload_handler._Patient(Request(SCOPE, dribble, unsent, {}, ""))
        while (await patient.receive())["type"] != "http.disconnect":
            pass
        return patient.late

    late = asyncio.run(receive_all())
    assert late is not None
    assert late.status == 408


def test_a_server_that_does_not_want_to_know_of_logins_is_not_told() -> None:
    note_login({})
    note_login({"extensions": {}})
    Request({**SCOPE, "extensions": None}, dribble, unsent, {}, "").logged_in()
