"""One request, and methods to send its response over ASGI."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import unquote_to_bytes

from ops.index.auth.roles import Identity
from ops.index.errors import BadRequest, OtherSite, PackageIndexError, RequestTimeout, TooLarge
from ops.index.http.forwarded import chosen
from ops.index.http.representation import Headers, Response
from ops.index.http.security_headers import SECURITY_HEADERS

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

Confirm: TypeAlias = Callable[[bytes | None, str], Identity]
"""Finds the current user of an Authorization header and an address. Blocks."""

SHORT_BODY_SECONDS: Final = 30.0
"""Time for the whole of a short body to arrive."""

LOGGED_IN: Final = "ops.index.logged_in"
"""A scope extension of our own server: called once a request's credentials were verified."""

_HOST: Final = re.compile(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")
_PREFIX: Final = re.compile(r"(/(?!\.\.?(/|$))([A-Za-z0-9._~@+=-]|%[0-9A-Fa-f]{2})+)+")
_ORIGIN: Final = re.compile(r"(?P<scheme>https?)://(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{1,5}))?")
_PORTS: Final = {"http": 80, "https": 443}

_TEXT: Final = b"text/plain; charset=utf-8"
_NOT_CACHED: Final = ((b"cache-control", b"private, no-store"), *SECURITY_HEADERS)


class Request:
    """A request, its headers by name, and methods that respond to it.

    Parameters:
        scope: of an HTTP request.
        receive: for the body, and to notice that the client has disconnected.
        send: for the response.
        headers: by name in lower case; repeated ones are joined with commas.
        address: of the client.
        hops: trusted proxies on the path. With none, ``X-Forwarded-*`` headers are ignored.

    Attributes:
        username: of the user who sent it, once that is known.
        status: of the response, once that has started; 0 before.
        still_allowed: for a download, tells whether that user could still send it; None for any other.
    """

    __slots__ = (
        "_hops",
        "_path",
        "address",
        "headers",
        "method",
        "receive",
        "scope",
        "send",
        "status",
        "still_allowed",
        "username",
    )

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
        self.username = ""
        self.status = 0
        self.still_allowed: Callable[[], Awaitable[bool]] | None = None
        self._hops = hops
        self._path: str | None = None

    @property
    def started(self) -> bool:
        """True once the response has started."""
        return self.status != 0

    @property
    def path(self) -> str:
        """The path below the root of the index, decoded like file names, so that no byte is lost."""
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
        """The path to the root of the index as the client wrote it, without a final slash. What a trusted proxy has
        stripped is in X-Forwarded-Prefix.
        """
        prefix = self._forwarded(b"x-forwarded-prefix").rstrip("/")
        root: str = self.scope.get("root_path") or ""
        return prefix + root if _PREFIX.fullmatch(prefix) else root

    @property
    def index_url(self) -> str:
        """The index's address as the client wrote it, with a final slash: for links that leave a page, and commands.

        Behind an untrusted proxy that changes it, the page's script inserts the browser's address.
        """
        return f"{self.scheme}://{self.host or 'localhost'}{self.root}/"

    def _forwarded(self, name: bytes) -> str:
        value = self.headers.get(name) if self._hops else None
        return "" if value is None else chosen(value, self._hops)

    def header(self, name: bytes) -> str | None:
        """A header's value by its name in lower case."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    async def body(self, limit: int) -> bytes:
        """The whole of a short body.

        Raises:
            TooLarge: it is longer than *limit* bytes.
            RequestTimeout: it did not arrive within :data:`SHORT_BODY_SECONDS`.
            BadRequest: it ended early.
        """
        return await short_body(self.receive, limit)

    @property
    def proxied(self) -> bool:
        """True if it came through a trusted proxy, which names the client."""
        return self._hops > 0 and b"x-forwarded-for" in self.headers

    def logged_in(self) -> None:
        """Tell the server that the request's credentials are valid."""
        note_login(self.scope)

    def check_same_origin(self) -> None:
        """Refuse a request that another web site made the browser send.

        Browsers add Basic credentials by themselves, whatever site a form or script is on. pip, uv and twine send
        none of these headers.

        Without Sec-Fetch-Site, which browsers omit over plain HTTP except to loopback, the Origin is compared as a
        whole (RFC 6454): scheme, host and port, as the client wrote them, or as a trusted proxy reports them.

        Raises:
            OtherSite: the request comes from a page of another origin.
        """
        site = self.header(b"sec-fetch-site")
        origin = self.header(b"origin")
        foreign = False
        if site is not None:
            foreign = site.strip().lower() not in {"same-origin", "none"}
        elif origin is not None:
            own = _origin(f"{self.scheme}://{self.host}")
            foreign = own is None or _origin(origin) != own
        if foreign:
            raise OtherSite("another web site's page sent this, so nothing was changed; use the index's own address")

    async def respond(self, status: int, headers: Headers, body: bytes = b"", *, more_body: bool = False) -> None:
        """Send a complete response; HEAD gets no body.

        Parameters:
            status: such as 200.
            headers: all but Date and Connection.
            body: for GET and POST.
            more_body: let the caller complete the response.
        """
        self.status = status
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        content = b"" if self.method == "HEAD" else body
        await self.send({"type": "http.response.body", "body": content, "more_body": more_body})

    async def respond_with(self, response: Response) -> None:
        """Send a prepared response."""
        await self.respond(response.status, response.headers, response.body)

    async def text(self, status: int, text: str, *headers: tuple[bytes, bytes], more_body: bool = False) -> None:
        """Send one line of plain text, which pip, uv and twine show for a refusal."""
        await self.content(status, _TEXT, _line(text), *headers, more_body=more_body)

    async def content(
        self, status: int, content_type: bytes, body: bytes, *headers: tuple[bytes, bytes], more_body: bool = False
    ) -> None:
        """Send a body that is not cached."""
        await self.respond(status, [*_of_content(content_type, body), *headers], body, more_body=more_body)

    async def refuse(self, error: PackageIndexError, *headers: tuple[bytes, bytes], more_body: bool = False) -> None:
        """Send an error's status, headers and message."""
        refused = refusal_response(error, self.header(b"user-agent") or "")
        await self.respond(refused.status, [*refused.headers, *headers], refused.body, more_body=more_body)

    async def redirect(self, location: str) -> None:
        """Redirect permanently to an address relative to this one."""
        await self.text(301, f"This page is at {location}", (b"location", location.encode("ascii")))


def refusal_response(error: PackageIndexError, user_agent: str = "") -> Response:
    """The response with an error's status, headers and message."""
    body = _line(error.message)
    headers = [*_of_content(_TEXT, body), *headers_of(error)]
    return Response(error.status_for(user_agent), headers, body, error.message)


def headers_of(error: PackageIndexError) -> Headers:
    """An error's own headers, such as Retry-After."""
    return [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]


async def short_body(receive: Receive, limit: int) -> bytes:
    """The whole of a short body, as :meth:`Request.body`."""
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


async def client_gone(receive: Receive) -> None:
    """Wait until the client has disconnected."""
    while (await receive())["type"] != "http.disconnect":
        pass


def note_login(scope: Scope) -> None:
    """Tell the server that a request's credentials are valid, if it supports that."""
    tell = (scope.get("extensions") or {}).get(LOGGED_IN)
    if tell is not None:
        tell()


def _line(text: str) -> bytes:
    return text.encode("utf-8", "replace") + b"\n" if text else b""


def _of_content(content_type: bytes, body: bytes) -> Headers:
    """The headers of a body that is not cached."""
    return [(b"content-type", content_type), (b"content-length", str(len(body)).encode()), *_NOT_CACHED]


def _origin(text: str) -> tuple[str, str, int] | None:
    """Scheme, host and port of an origin; None for an opaque one, such as ``null``."""
    found = _ORIGIN.fullmatch(text.strip().lower())
    if found is None:
        return None
    return found["scheme"], found["host"], int(found["port"] or _PORTS[found["scheme"]])
