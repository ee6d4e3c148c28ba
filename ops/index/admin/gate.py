"""Checks before the admin application reads a request, and its refusals (RFC 6750)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ops.index.admin.token import OPEN_PATHS, TokenCheck
from ops.index.errors import PackageIndexError, TooLarge, TooManyAttempts
from ops.index.http.request import note_login, short_body
from ops.index.http.security_headers import secured


class Refusal(BaseModel):
    """The reason of a refusal."""

    detail: str


_MEANINGS: Final = {
    400: "The body ended early, or cannot be read",
    401: "No token, or a wrong one",
    403: "The server can read the credentials but not write them",
    404: "There is no such user, or no such token",
    408: "The body did not arrive in time",
    409: "It was changed meanwhile; nothing has changed",
    413: "The body is too long for a registration",
    415: "The body is not application/json",
    422: "A field cannot be stored; the response does not repeat the password",
    429: "Too many wrong tokens; see Retry-After",
    500: "The change could not be stored; nothing has changed",
    507: "The disk is full; nothing has changed",
}

_HEADERS: Final = {
    401: ("WWW-Authenticate", "Bearer, with the realm (RFC 6750)", {"type": "string"}),
    429: ("Retry-After", "seconds until the next attempt", {"type": "integer", "minimum": 1}),
}


def json_refusal(status: int, detail: str, headers: Any = None) -> JSONResponse:
    """A refusal in the same form as FastAPI's own."""
    return JSONResponse({"detail": detail}, status, headers)


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI entries of an operation's refusals, as FastAPI takes them."""
    return {status: _response(status) for status in statuses}


def _response(status: int) -> dict[str, Any]:
    response: dict[str, Any] = {"model": Refusal, "description": _MEANINGS[status]}
    if status in _HEADERS:
        name, meaning, schema = _HEADERS[status]
        response["headers"] = {name: {"description": meaning, "required": True, "schema": schema}}
    return response


_BODY_BYTES: Final = 64 * 1024

_REALM: Final = 'Bearer realm="pypi-admin"'


class Gate:
    """Middleware that checks token, content type and size before a body is read.

    Parameters:
        app: the application behind it.
        token_check: checks the token.
        root_path: where the application is mounted.
        routes: of the application. Only bodies that are posted to one of them are read.
    """

    def __init__(self, app: ASGIApp, *, token_check: TokenCheck, root_path: str, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._token_check = token_check
        self._root = root_path
        self._posted_to = {
            route.path for route in routes if isinstance(route, Route) and "POST" in (route.methods or ())
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it (ASGI 3)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if not scope.get("root_path", "").endswith(self._root):  # the mounting application may have set it already
            scope = {**scope, "root_path": scope.get("root_path", "") + self._root}
        request = Request(scope)
        send = _secured(send)
        refused = self._refusal(request)
        if refused is None and self._takes_body(request):
            try:
                body = await short_body(receive, _BODY_BYTES)
            except PackageIndexError as error:
                refused = json_refusal(error.status, error.message, error.headers)
            else:
                receive = _arrived(body, receive)
        await (refused or self._app)(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        path = inner_path(request)
        refused = None
        if path not in OPEN_PATHS and not is_own(path):
            refused = self._unauthorized(request)
            if refused is None and self._takes_body(request) and not is_json(request):
                refused = json_refusal(415, "the body must be JSON, with the header Content-Type: application/json")
            if refused is None:
                note_login(request.scope)
        length = request.headers.get("content-length", "0")
        if refused is None and self._takes_body(request) and not (length.isdecimal() and int(length) <= _BODY_BYTES):
            refused = json_refusal(413, str(TooLarge("the body", limit=_BODY_BYTES)))
        return refused

    def _takes_body(self, request: Request) -> bool:
        path = inner_path(request)
        return request.method == "POST" and (path in self._posted_to or is_own(path))

    def _unauthorized(self, request: Request) -> Response | None:
        try:
            authorization = request.headers.get("authorization", "").encode("latin-1")
            if self._token_check.accepts(authorization, address_of(request)):
                return None
        except TooManyAttempts as error:
            return json_refusal(
                error.status, "too many wrong admin tokens; check the token, and try again later", error.headers
            )
        return json_refusal(401, "the admin token is missing or wrong", {"WWW-Authenticate": _REALM})


def inner_path(request: Request) -> str:
    """The path below the root of the application."""
    root: str = request.scope.get("root_path", "")
    path: str = request.scope["path"]
    return path.removeprefix(root) if path.startswith(f"{root}/") else path


def is_own(path: str) -> bool:
    """True for the users' own pages, which ask for their login instead of the admin token."""
    return path in {"/invitation", "/account"} or path.startswith("/account/")


def is_json(request: Request) -> bool:
    """True if the request declares a JSON body."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


def _secured(send: Send) -> Send:
    async def secured_send(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": secured(message["headers"])}
        await send(message)

    return secured_send


def _arrived(body: bytes, receive: Receive) -> Receive:
    """Returns a body that has arrived completely, then further messages from the server."""
    given = False

    async def arrived() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return arrived


def address_of(request: Request) -> str:
    """The client's address."""
    return request.client.host if request.client else ""
