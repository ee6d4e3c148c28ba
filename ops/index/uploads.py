"""pypiserver inside ASGI: the upload API, and those of its pages that nothing here replaces."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from typing import Any

from ops.index.errors import PackageIndexError, TooLarge
from ops.index.exchange import ASGIApp, Exchange, Message
from ops.index.options import Options

_PATIENCE = 60.0
"""Seconds for which a client may send nothing in the middle of an upload. It holds a thread meanwhile."""

_PASSED_ON = frozenset({b"host", b"user-agent", b"accept", b"authorization", b"content-type", b"content-length"})
"""What pypiserver needs. Others could make it believe things: a forwarded host, a chunked body that no longer is."""


class LengthRequired(PackageIndexError):  # noqa: N818 - named as HTTP has it
    """The client did not say how much it sends (RFC 9110, section 15.5.12); pip, uv and twine always do."""

    status = 411


class Upstream:
    """pypiserver's WSGI application, made when it is first needed: importing it takes as long as answering 5,000 pages.

    Parameters:
        create: imports and makes the WSGI application. Runs in a thread, once.
        options: limits.
    """

    def __init__(self, create: Callable[[], Callable[..., Any]], options: Options) -> None:
        self._create = create
        self._options = options
        self._making = threading.Lock()
        self._app: ASGIApp | None = None

    def warm_up(self) -> None:
        """Make it now. Blocks."""
        with self._making:
            if self._app is None:
                from a2wsgi import WSGIMiddleware

                wsgi = self._create()

                def without_stdout(environ: Any, start_response: Any) -> Any:
                    environ["wsgi.errors"] = sys.stderr  # stdout has one line: the address
                    return wsgi(environ, start_response)

                middleware: Any = WSGIMiddleware(without_stdout, workers=self._options.upload_threads)
                self._app = middleware

    async def pass_on(self, exchange: Exchange, *, path: str) -> None:
        """Have pypiserver answer.

        Parameters:
            exchange: the request; nothing of its body has been read.
            path: what pypiserver is asked for.

        Raises:
            LengthRequired: the body has no length.
            TooLarge: it says that it is longer than the index takes.
        """
        self._check_length(exchange)
        if self._app is None:
            await asyncio.to_thread(self.warm_up)
        assert self._app is not None  # noqa: S101 - for the type checker
        scope = dict(exchange.scope)
        scope["path"] = path
        scope["root_path"] = ""
        scope["client"] = (exchange.address, (scope.get("client") or ("", 0))[1])
        scope["query_string"] = bytes(byte for byte in scope.get("query_string", b"") if 0x20 < byte < 0x7F)
        scope["headers"] = [(name, value) for name, value in exchange.headers.items() if name in _PASSED_ON]
        exchange.started = True
        patient = _Patient(exchange)
        await self._app(scope, patient.receive, patient.send)

    def _check_length(self, exchange: Exchange) -> None:
        if b"transfer-encoding" in exchange.headers:
            raise LengthRequired("the length of the upload is needed: send it with Content-Length, not in chunks")
        length = exchange.header(b"content-length") or "0"
        limit = self._options.max_upload_bytes + self._options.max_form_bytes
        if not length.isascii() or not length.isdecimal() or len(length) > 18 or int(length) > limit:
            raise TooLarge("the upload", limit=self._options.max_upload_bytes)


class _Patient:
    """Receives a body, and gives up on a client that stops sending."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._gave_up = False

    async def receive(self) -> Message:
        try:
            message = await asyncio.wait_for(self._exchange.receive(), _PATIENCE)
        except TimeoutError:
            message = {"type": "http.disconnect"}
        if message["type"] == "http.disconnect":
            self._gave_up = True
            raise ConnectionResetError("the client stopped sending in the middle of its upload")
        return message

    async def send(self, message: Message) -> None:
        if self._gave_up and message["type"] == "http.response.start":
            message = {**message, "status": 408}  # not our failure, whatever pypiserver makes of a body that ends early
        await self._exchange.send(message)
