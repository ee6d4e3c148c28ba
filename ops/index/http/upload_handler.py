"""pypiserver inside the index: the upload API."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Callable
from typing import Protocol

from ops.index.auth.roles import Identity, Role
from ops.index.config import Options
from ops.index.errors import Forbidden, QuotaExceeded, RequestTimeout, StorageFull, TooLarge, TooManyUploads
from ops.index.http.refusing import refuse_early
from ops.index.http.request import PATIENCE, Message, Receive, Request, Scope, Send
from ops.index.http.security_headers import secured
from ops.index.http.turns import Turns
from ops.index.packages.quotas import Quotas

_PASSED_ON = frozenset({b"user-agent", b"accept", b"authorization", b"content-type", b"content-length"})
"""What pypiserver needs. Others could make it believe things, such as a host that was forwarded."""

_LEAST_RATE = 500
"""Bytes a second below which an upload is given up after a minute, as Apache's mod_reqtimeout does by default."""


class Application(Protocol):
    """pypiserver as an ASGI application, such as :class:`ops.index.http.upload.UploadReceiver`."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

    def stop(self) -> None:
        """End what goes on at length."""

    def close(self) -> None:
        """End its threads."""


class UploadHandler:
    """pypiserver's application, made when it is first needed: importing it takes as long as answering 5,000 pages.

    Parameters:
        create: imports and makes the application. Runs in a thread, once.
        options: limits.
        quotas: whether there is room.
    """

    def __init__(self, create: Callable[[], Application], options: Options, quotas: Quotas) -> None:
        self._create = create
        self._quotas = quotas
        self._turns = Turns(options.uploads_per_user)
        self._options = options
        self._making = threading.Lock()
        self._app: Application | None = None

    def warm_up(self) -> None:
        """Make it now. Blocks."""
        with self._making:
            if self._app is None:
                self._app = self._create()

    def stop(self) -> None:
        """End what goes on at length: the server is stopping. Does not block."""
        if self._app is not None:
            self._app.stop()

    def close(self) -> None:
        """End it, if it was made."""
        if self._app is not None:
            self._app.close()

    async def pass_on(self, exchange: Request, identity: Identity) -> None:
        """Have pypiserver answer.

        Parameters:
            exchange: the request; nothing of its body has been read.
            identity: who sends it.

        Raises:
            Forbidden: the user may only read. Nothing of the body is read.
            TooLarge: the body says that it is longer than the index takes. Likewise.
            QuotaExceeded: it says that it is longer than any file may be now. Likewise.
            StorageFull: it says that it is longer than the disk has room for. Likewise.
            TooManyUploads: the user has too many under way. Likewise.
        """
        if identity.role is Role.READER:
            raise Forbidden(identity.username, "upload to this index")
        length = exchange.header(b"content-length") or "0"
        limit = self._options.max_upload_bytes + self._options.max_form_bytes
        if len(length) > 18 or not (length.isascii() and length.isdecimal()) or int(length) > limit:
            raise TooLarge("the upload", limit=self._options.max_upload_bytes)
        patient = _Patient(exchange)
        try:
            await self._expect(int(length))
            async with self._turns.turn(identity.username):
                await self._answer(exchange, identity, patient)
        except (QuotaExceeded, StorageFull, TooManyUploads) as error:
            if exchange.started or exchange.header(b"expect"):
                raise
            await refuse_early(error, exchange.header(b"user-agent") or "", patient.receive, patient.send)
        if patient.late is not None and not exchange.started:
            raise patient.late

    async def _expect(self, length: int) -> None:
        size = self._quotas.least_size(length)
        if size:
            await asyncio.to_thread(self._quotas.expect, size)

    async def _answer(self, exchange: Request, identity: Identity, patient: _Patient) -> None:
        if self._app is None:
            await asyncio.to_thread(self.warm_up)
        assert self._app is not None  # noqa: S101 - for the type checker
        # These have been imported by now.
        from ops.index.http.pypiserver_bridge import ADDRESS, AUTHORIZATION
        from ops.index.http.upload import IDENTITY

        scope = {
            **exchange.scope,
            "path": "/",
            "root_path": "",
            "headers": [
                (name, _without_password(identity) if name == b"authorization" else value)
                for name, value in exchange.headers.items()
                if name in _PASSED_ON
            ],
            "client": (exchange.address, (exchange.scope.get("client") or ("", 0))[1]),
            "ops.index.environ": {ADDRESS: exchange.address, AUTHORIZATION: exchange.headers.get(b"authorization")},
            IDENTITY: identity,
        }
        await self._app(scope, patient.receive, patient.send)


def _without_password(identity: Identity) -> bytes:
    """A header that pypiserver's framework can read: pip and twine send Latin-1, which it cannot."""
    return b"Basic " + base64.b64encode(f"{identity.username}:".encode())


class _Patient:
    """Receives an upload, and gives up on a client that stops sending, or sends next to nothing."""

    def __init__(self, exchange: Request) -> None:
        self._exchange = exchange
        self._clock = asyncio.get_running_loop().time
        self._received = 0
        self._waited = 0.0
        self._ended = False
        self.late: RequestTimeout | None = None

    async def receive(self) -> Message:
        if self._ended:  # the next news is that the client has left, and may be long in coming
            return await self._exchange.receive()
        began = self._clock()
        allowed = PATIENCE + self._received / _LEAST_RATE
        try:
            async with asyncio.timeout(min(PATIENCE, allowed - self._waited)):
                message = await self._exchange.receive()
        except TimeoutError:
            self.late = RequestTimeout(
                f"nothing was sent for {PATIENCE:.0f} s in the middle of the upload, or less than {_LEAST_RATE} bytes "
                "a second; send it again"
            )
            return {"type": "http.disconnect"}
        self._received += len(message.get("body", b""))
        self._waited += self._clock() - began
        self._ended = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        self._exchange.started = True
        if message["type"] == "http.response.start":
            message = {**message, "headers": secured(message.get("headers", ()))}
        await self._exchange.send(message)
