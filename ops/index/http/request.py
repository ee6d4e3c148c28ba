"""One request and the sending of its answer, over ASGI."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias
from urllib.parse import unquote_to_bytes

from ops.index.errors import BadRequest, RequestTimeout, TooLarge
from ops.index.http.forwarded import chosen
from ops.index.http.representation import Answer, Headers
from ops.index.http.security_headers import security_headers

PATIENCE = 60.0
"""Seconds for which a client may send nothing in the middle of an upload."""

SHORT_BODY_SECONDS = 30.0
"""Seconds in which all of a body must come that has to be short."""

LOGGED_IN = "ops.index.logged_in"
"""An extension of the scope by our own server: called once the credentials of a request were found to be right."""

_HOST: Final = re.compile(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")
_PREFIX: Final = re.compile(r"(/(?!\.\.?(/|$))([A-Za-z0-9._~@+=-]|%[0-9A-Fa-f]{2})+)+")

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


class Request:
    """A request, its headers by name, and what it takes to answer it.

    Parameters:
        scope: of an HTTP request.
        receive: for the body and for the news that the client went away.
        send: for the answer.
        headers: by name in lower case; those that came more than once are joined with commas.
        address: where it comes from.
        hops: how many trusted proxies it came through. With none, what it says of having been forwarded is ignored.
    """

    __slots__ = ("_hops", "_path", "address", "headers", "method", "receive", "scope", "send", "started")

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        headers: dict[bytes, bytes],
        address: str,
        *,
        hops: int = 0,
    ) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.headers = headers
        self.method: str = scope["method"]
        self.address = address
        self.started = False
        self._hops = hops
        self._path: str | None = None

    @property
    def path(self) -> str:
        """The path below the root of the index, decoded as file names are, so that no byte is lost."""
        if self._path is None:
            raw: bytes | None = self.scope.get("raw_path")
            decoded: str = self.scope["path"]
            if raw and b"%" in raw:
                decoded = os.fsdecode(unquote_to_bytes(raw.partition(b"?")[0]))
            root: str = self.scope.get("root_path") or ""
            self._path = decoded.removeprefix(root) if root and decoded.startswith(root + "/") else decoded
        return self._path

    @property
    def scheme(self) -> str:
        """``http`` or ``https``, as the client wrote it; behind a trusted proxy by X-Forwarded-Proto."""
        scheme = self._forwarded(b"x-forwarded-proto").lower()
        return scheme if scheme in {"http", "https"} else str(self.scope.get("scheme") or "http")

    @property
    def host(self) -> str:
        """Host and port as the client wrote them; behind a trusted proxy by X-Forwarded-Host. Empty if unknown."""
        hosts = (self._forwarded(b"x-forwarded-host"), (self.header(b"host") or "").strip())
        return next((host for host in hosts if _HOST.fullmatch(host)), "")

    @property
    def root(self) -> str:
        """The path to the root of the index as the client wrote it, without a slash at its end. A trusted proxy says by
        X-Forwarded-Prefix what it has taken away.
        """
        prefix = self._forwarded(b"x-forwarded-prefix").rstrip("/")
        root: str = self.scope.get("root_path") or ""
        return prefix + root if _PREFIX.fullmatch(prefix) else root

    def _forwarded(self, name: bytes) -> str:
        value = self.headers.get(name) if self._hops else None
        return "" if value is None else chosen(value, self._hops)

    def header(self, name: bytes) -> str | None:
        """A header's value by its name in lower case."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    async def body(self, limit: int) -> bytes:
        """All of a body that has to be short.

        Raises:
            TooLarge: it is longer than *limit* bytes.
            RequestTimeout: it is not there within :data:`SHORT_BODY_SECONDS`.
            BadRequest: it ended early.
        """
        return await short_body(self.receive, limit)

    def logged_in(self) -> None:
        """Tell the server that the credentials of the request are right."""
        note_login(self.scope)

    async def answer(self, status: int, headers: Headers, body: bytes = b"") -> None:
        """Send a whole answer. The body of an answer to HEAD is left out, its length is told."""
        self.started = True
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": b"" if self.method == "HEAD" else body})

    async def ready(self, answer: Answer) -> None:
        """Send an answer that was made before."""
        await self.answer(answer.status, answer.headers, answer.body)

    async def sentence(self, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
        """Send one line of plain text, which is what pip, uv and twine show of a refusal."""
        body = text.encode("utf-8", "replace") + b"\n"
        await self.answer(
            status,
            [
                (b"content-type", b"text/plain; charset=utf-8"),
                (b"content-length", str(len(body)).encode()),
                (b"cache-control", b"private, no-store"),
                *security_headers(),
                *headers,
            ],
            body,
        )

    async def redirect(self, location: str) -> None:
        """Send the client on for good, to an address relative to this one."""
        await self.sentence(301, f"This page is at {location}", (b"location", location.encode("ascii")))


async def short_body(receive: Receive, limit: int) -> bytes:
    """All of a body that has to be short, as :meth:`Request.body`."""
    content = bytearray()
    try:
        async with asyncio.timeout(SHORT_BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise BadRequest("the body ended early; send the request again")
                content += message.get("body", b"")
                if len(content) > limit:
                    raise TooLarge("the body", limit=limit)
                if not message.get("more_body", False):
                    return bytes(content)
    except TimeoutError:
        raise RequestTimeout(
            f"the body did not arrive within {SHORT_BODY_SECONDS:.0f} s; send the request again"
        ) from None


def note_login(scope: Scope) -> None:
    """Tell the server that the credentials of a request are right, if it wants to know."""
    tell = (scope.get("extensions") or {}).get(LOGGED_IN)
    if tell is not None:
        tell()
