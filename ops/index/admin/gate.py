"""What every request to the admin application passes first: its bearer token (RFC 6750), and what it may bring."""

from __future__ import annotations

import hmac
from typing import Any, Final

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ops.index.access.audit import Audit
from ops.index.access.throttle import Throttle
from ops.index.errors import PackageIndexError, TooLarge, TooManyAttempts
from ops.index.options import Options
from ops.index.web.exchange import note_login, short_body

_OPEN: Final = frozenset({"/health", "/docs", "/openapi.json"})
"""Paths that need no token. They tell nothing of the users."""

_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})

_BODY_BYTES: Final = 64 * 1024

GUESSABLE: Final = 32
"""A token of fewer bytes may be found by trying. For a longer one no wait protects anything."""

_REALM: Final = 'Bearer realm="pypi-admin"'


class Gate:
    """Looks at token, content type and size before anything of a request is read.

    Parameters:
        app: what stands behind it.
        token: what opens it.
        root_path: where the application is mounted.
        audit: where wrong tokens are noted.
        options: the number of wrong tokens that are free.
    """

    def __init__(self, app: ASGIApp, *, token: str, root_path: str, audit: Audit, options: Options) -> None:
        self._app = app
        self._root = root_path
        self._token = token.encode()
        self._audit = audit
        self._throttle = Throttle(options.login_failures, options.login_window_seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it (ASGI 3)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if not scope.get("root_path", "").endswith(self._root):  # whoever mounts it may have said so already
            scope = {**scope, "root_path": scope.get("root_path", "") + self._root}
        request = Request(scope)
        refusal = self._refusal(request)
        if refusal is None and request.method in _WITH_BODY:
            try:
                body = await short_body(receive, _BODY_BYTES)
            except PackageIndexError as error:
                refusal = answer(error.status, error.message, error.headers)
            else:
                receive = _arrived(body, receive)
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        root: str = request.scope.get("root_path", "")
        path = request.scope["path"]
        if (path.removeprefix(root) if path.startswith(f"{root}/") else path) in _OPEN:
            return None
        try:
            if not self._right_token(request):
                return answer(
                    401,
                    "the admin token is missing or wrong",
                    {"WWW-Authenticate": _REALM},
                )
        except TooManyAttempts as error:
            return answer(
                error.status, "too many wrong admin tokens; check the token, and try again later", error.headers
            )
        if request.method in _WITH_BODY:
            if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
                return answer(415, "the body must be JSON, with the header Content-Type: application/json")
            length = request.headers.get("content-length", "0")
            if not length.isdecimal() or int(length) > _BODY_BYTES:
                return answer(413, str(TooLarge("the body", limit=_BODY_BYTES)))
        note_login(request.scope)
        return None

    def _right_token(self, request: Request) -> bool:
        """Whether the token is right.

        Raises:
            TooManyAttempts: too many wrong ones came from there, and this one is wrong too or could be guessed.
        """
        address = address_of(request)
        header = request.headers.get("authorization", "").strip().encode("latin-1")
        scheme, _, given = header.partition(b" ")
        right = hmac.compare_digest(given.strip(), self._token) and scheme.lower() == b"bearer"
        if not right or len(self._token) < GUESSABLE:
            try:
                self._throttle.check("", address)
            except TooManyAttempts:
                if header:
                    self._audit.record("admin.throttled", user="", address=address)
                raise
        if not right and header:
            self._throttle.wrong("", address)
            self._audit.record("admin.refused", user="", address=address)
        return right


def _arrived(body: bytes, receive: Receive) -> Receive:
    """Gives a body that is here as a whole, then whatever else the server says."""
    given = False

    async def arrived() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return arrived


def address_of(request: Request) -> str:
    """Where a request comes from."""
    return request.client.host if request.client else ""


def answer(status: int, detail: str, headers: Any = None) -> JSONResponse:
    """A refusal, as FastAPI words its own."""
    return JSONResponse({"detail": detail}, status, {"Cache-Control": "no-store", **(headers or {})})
