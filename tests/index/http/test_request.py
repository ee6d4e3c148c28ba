"""Requests: short bodies, however slowly they arrive, and the origin of a change."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message

from ops.index.errors import BadRequest, OtherSite, RequestTimeout, TooLarge
from ops.index.http import request as module
from ops.index.http.request import Request, note_login, short_body
from tests.index.serving import Server

SCOPE: dict[str, Any] = {"type": "http", "method": "POST", "path": "/", "headers": []}


async def dribble() -> Message:
    """A byte of a body that never ends."""
    await asyncio.sleep(0.001)
    return {"type": "http.request", "body": b"x", "more_body": True}


async def unsent(_message: Message) -> None:
    raise AssertionError


def test_a_slow_short_body_has_one_deadline_in_total(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHORT_BODY_SECONDS", 0.1)
    with pytest.raises(RequestTimeout) as refused:
        asyncio.run(Request(SCOPE, dribble, unsent, {}, "").body(10_000_000))
    assert (refused.value.status, refused.value.headers) == (408, {"Connection": "close"})


def test_a_short_body_is_bounded_and_must_be_complete() -> None:
    with pytest.raises(TooLarge):
        asyncio.run(short_body(dribble, 10))

    async def gone() -> Message:
        return {"type": "http.disconnect"}

    with pytest.raises(BadRequest):
        asyncio.run(short_body(gone, 10))


@pytest.mark.parametrize(
    ("hops", "headers", "proxied"),
    [(0, {b"x-forwarded-for": b"192.0.2.1"}, False), (1, {}, False), (1, {b"x-forwarded-for": b"192.0.2.1"}, True)],
)
def test_a_request_is_proxied_if_a_trusted_proxy_names_its_client(
    hops: int, headers: dict[bytes, bytes], *, proxied: bool
) -> None:
    assert Request(SCOPE, dribble, unsent, headers, "", hops=hops).proxied is proxied


def test_a_server_without_the_login_extension_is_not_notified() -> None:
    note_login({})
    note_login({"extensions": {}})
    Request({**SCOPE, "extensions": None}, dribble, unsent, {}, "").logged_in()


@pytest.mark.parametrize(
    ("refused", "headers"),
    [
        (False, {}),
        (False, {"host": "x:1", "origin": "http://x:1"}),
        (False, {"host": "X:1", "origin": "HTTP://x:1"}),
        (False, {"host": "x", "origin": "http://x:80"}),
        (False, {"host": "x:80", "origin": "http://x"}),
        (False, {"host": "[::1]:1", "origin": "http://[::1]:1"}),
        (True, {"host": "x:1", "origin": "https://x:1"}),
        (True, {"host": "x", "origin": "https://x"}),
        (True, {"host": "x:443", "origin": "https://x"}),
        (True, {"host": "x", "origin": "http://x, http://y"}),
        (True, {"host": "x", "origin": "http://x/path"}),
        (True, {"host": "x", "origin": "http://y@x"}),
        (True, {"host": "", "origin": "http://"}),
        (True, {"host": "x y", "origin": "http://x y"}),
        (True, {"host": "x", "origin": "moz-extension://x"}),
        (True, {"host": "x", "origin": "https://x", "x-forwarded-proto": "https"}),  # no proxy is trusted to say so
        (True, {"host": "x:1", "origin": "http://x"}),
        (True, {"host": "x", "origin": "null"}),
        (True, {"host": "x", "origin": ""}),
        (True, {"host": "x", "origin": "http://["}),
        (True, {"origin": "http://x"}),
        (False, {"sec-fetch-site": "same-origin", "origin": "http://outside", "host": "inside"}),
        (False, {"sec-fetch-site": "none"}),
        (True, {"sec-fetch-site": "same-site"}),
        (True, {"sec-fetch-site": "cross-site"}),
        (True, {"sec-fetch-site": "nonsense"}),
    ],
)
def test_a_request_from_another_site_is_refused(refused: bool, headers: dict[str, str]) -> None:
    fields = {name.encode(): value.encode() for name, value in headers.items()}
    request = Request({"method": "POST", "path": "/"}, None, None, fields, "")  # type: ignore[arg-type]  # unused
    if refused:
        with pytest.raises(OtherSite):
            request.check_same_origin()
    else:
        request.check_same_origin()


@pytest.mark.parametrize(
    ("refused", "origin", "forwarded"),
    [
        (False, "https://index.example", {"proto": "https", "host": "index.example"}),
        (False, "https://index.example:8443", {"proto": "https", "host": "index.example:8443"}),
        (False, "https://inside", {"proto": "https"}),
        (False, "http://inside", {}),
        (True, "http://index.example", {"proto": "https", "host": "index.example"}),
        (True, "https://index.example", {"proto": "http", "host": "index.example"}),
        (True, "https://index.example", {"proto": "https", "host": "other.example"}),
        (True, "https://inside", {}),
        (True, "https://made-up", {"proto": "https", "host": "made-up, index.example"}),
    ],
)
def test_behind_a_trusted_proxy_the_origin_is_the_one_it_reports(
    refused: bool, origin: str, forwarded: dict[str, str]
) -> None:
    fields = {f"x-forwarded-{name}".encode(): value.encode() for name, value in forwarded.items()}
    fields |= {b"host": b"inside", b"origin": origin.encode()}
    scope = {"method": "POST", "path": "/", "scheme": "http"}
    request = Request(scope, None, None, fields, "", hops=1)  # type: ignore[arg-type]  # unused
    with pytest.raises(OtherSite) if refused else contextlib.nullcontext():
        request.check_same_origin()


def test_a_page_of_the_same_host_over_another_scheme_changes_nothing(tmp_path: Path) -> None:
    """Over loopback, through the server: an attacker on plain HTTP must not act for a page over TLS."""
    with Server(tmp_path, "--trusted-proxy", "127.0.0.1") as server:
        body = json.dumps({"status": "archived"}).encode()

        def change(**headers: str) -> int:
            fields = {name.replace("_", "-"): value for name, value in headers.items()}
            fields |= {"Content-Type": "application/json", "Host": "index.example"}
            return server.request("POST", "/projects/spam/status", headers=fields, body=body).status

        assert change(Origin="http://index.example") == 404, "no such project: the check was passed"
        assert change(Origin="https://index.example") == 403
        assert change(Origin="https://index.example", X_Forwarded_Proto="https") == 404
        assert change(Origin="http://index.example", X_Forwarded_Proto="https") == 403
