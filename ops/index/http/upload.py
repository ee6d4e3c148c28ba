"""Uploads, taken apart while they arrive, and handed to pypiserver without another copy.

Left to itself, pypiserver's framework writes a body to a temporary file, then each file in it to a second one, line by
line, before a ``Backend`` sees a byte. Here the parts go to where they will stay as they come in, and pypiserver finds
a form that was read already: the framework keeps it in the request's environment, under a key of its own.
"""

from __future__ import annotations

import asyncio
import io
import logging
import sys
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

from pypiserver.bottle_wrapper import FileUpload, FormsDict

from ops.index.config import Options
from ops.index.errors import BadRequest, PackageIndexError, QuotaExceeded, StorageFull, TooLarge
from ops.index.http.multipart import FormParser, Part, boundary_of
from ops.index.http.pypiserver_bridge import DEFERRED, WSGIApp
from ops.index.http.refusing import refuse_early
from ops.index.packages.inspection import DeferredError
from ops.index.packages.releases import Uploader
from ops.index.packages.staging import Staged
from ops.index.packages.uploads import Publisher
from ops.index.sandbox.sandbox import Cancellation

PIECE_BYTES = 1024**2
"""So much of a body is gathered before a thread takes it; a smaller upload needs only one."""

_LONG_INSPECTIONS = 64
"""Uploads that wait at once for a long inspection, each in a thread of its own that does nothing."""

FILES = ("content", "gpg_signature")
"""The fields of the upload API that hold files. The bytes of others are dropped."""

IDENTITY = "ops.index.identity"
"""The key of the scope under which a layer in front may leave who sends the request."""

_FORM = "bottle.request.post"

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Answer: TypeAlias = tuple[int, list[tuple[bytes, bytes]], bytes]

_log = logging.getLogger(__name__)


class UploadReceiver:
    """pypiserver's WSGI application as an ASGI application that streams uploads.

    A client that is slow holds no thread: one works only while there are bytes to work on. What pypiserver answers is
    sent as a whole, so its file downloads are not meant to come this way.

    Parameters:
        wsgi: made by :func:`ops.index.http.pypiserver_bridge.create_wsgi`.
        publisher: gives the files that uploads wait in.
        options: limits, and ``upload_threads``.
    """

    def __init__(self, wsgi: WSGIApp, publisher: Publisher, options: Options) -> None:
        self._wsgi = wsgi
        self._publisher = publisher
        self._options = options
        self._threads = ThreadPoolExecutor(options.upload_threads, thread_name_prefix="upload")
        self._waiting = ThreadPoolExecutor(_LONG_INSPECTIONS, thread_name_prefix="inspection")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; the scope is one of HTTP."""
        loop = asyncio.get_running_loop()
        body = _Body(self._publisher, self._options, scope)
        try:
            pieces: list[bytes] = []
            size = 0
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                more = message.get("more_body", False)
                piece = message.get("body", b"")
                pieces.append(piece)
                size += len(piece)
                if more and size >= PIECE_BYTES:
                    await loop.run_in_executor(self._threads, body.take, pieces)
                    pieces, size = [], 0
                    if isinstance(body.error, QuotaExceeded | StorageFull):
                        await refuse_early(body.error, _header(scope, b"user-agent"), receive, send)
                        return
            answer = await loop.run_in_executor(self._threads, self._respond, scope, body, pieces)
            while isinstance(answer, DeferredError):
                try:
                    if not await self._inspect(answer, receive):
                        return
                except PackageIndexError as error:
                    answer = _refusal(scope, error)
                else:
                    answer = await loop.run_in_executor(self._threads, self._respond, scope, body, [])
        finally:
            if body.needs_discarding:
                await asyncio.shield(loop.run_in_executor(self._threads, body.discard))
        status, headers, content = answer
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def stop(self) -> None:
        """End inspections that go on at length; their clients get 503. Does not block."""
        self._publisher.stop()

    def close(self) -> None:
        """End the threads, after what they do."""
        self.stop()
        self._waiting.shutdown(wait=True, cancel_futures=True)
        self._threads.shutdown(wait=True)

    async def _inspect(self, deferred: DeferredError, receive: Receive) -> bool:
        """Have an upload inspected, for as long as its client is there; whether it still is.

        Raises:
            PackageIndexError: nobody could install it, or it could not be looked at.
        """
        cancellation = Cancellation()
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._waiting, self._publisher.inspect, deferred, cancellation)
        leaving = asyncio.ensure_future(_disconnect(receive))
        try:
            await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                return False
            work.result()
            return True
        finally:
            cancellation.cancel()
            leaving.cancel()
            work.add_done_callback(_see)

    def _respond(self, scope: Scope, body: _Body, pieces: list[bytes]) -> Answer | DeferredError:
        deferred: DeferredError | None = None
        try:
            body.take(pieces)
            environ = _environ(scope)
            body.finish(environ)
            answer = _call(self._wsgi, environ, head=scope["method"] == "HEAD")
            deferred = environ.get(DEFERRED)
            return deferred or answer
        except PackageIndexError as error:
            return _refusal(scope, error)
        finally:
            if deferred is None:
                body.discard()


class _Body:
    """What has arrived of a request's body. After an error the rest is dropped, and the error told at the end.

    A client that is still sending does not read an answer. Where there is no room it is told at once all the same: the
    rest may be gigabytes.
    """

    def __init__(self, publisher: Publisher, options: Options, scope: Scope) -> None:
        self._publisher = publisher
        self._options = options
        self._identity: Uploader | None = scope.get(IDENTITY)
        length = _header(scope, b"content-length")
        self._announced = publisher.quotas.least_size(int(length)) if length.isdecimal() else 0
        content_type = _header(scope, b"content-type")
        self._files: list[tuple[Part, Staged]] = []
        self._parser: FormParser | None = None
        self._plain = bytearray()
        self.error: PackageIndexError | None = None
        self._finished = False
        try:
            boundary = boundary_of(content_type)
        except BadRequest as error:
            self.error = error
        else:
            if boundary is not None:
                self._parser = FormParser(boundary, self._file_for, max_form_bytes=options.max_form_bytes)

    @property
    def needs_discarding(self) -> bool:
        return bool(self._files)

    def take(self, pieces: list[bytes]) -> None:
        if self.error is not None or not pieces:
            return
        piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        try:
            if self._parser is not None:
                self._parser.feed(piece)
            else:
                self._plain += piece
                if len(self._plain) > self._options.max_form_bytes:
                    raise TooLarge("the request", limit=self._options.max_form_bytes)
        except PackageIndexError as error:
            self.error = error
            self._plain.clear()
            self.discard()

    def finish(self, environ: dict[str, Any]) -> None:
        """Hand over what has arrived.

        Raises:
            PackageIndexError: that was no request that can be answered.
        """
        if self.error is not None:
            raise self.error
        environ["wsgi.input"] = io.BytesIO(self._plain)
        environ["CONTENT_LENGTH"] = str(len(self._plain))
        if self._parser is None:
            return
        if not self._finished:
            self._parser.finish()
            self._finished = True
        if (":action", "doc_upload") in self._parser.fields:
            # pypiserver would look at it and drop it: an answer of success for nothing.
            raise BadRequest("this index keeps no documentation, only wheels and sdists; host it elsewhere")
        form = FormsDict()
        form.recode_unicode = False
        for name, value in self._parser.fields:
            form.append(name, value)
        for part, staged in self._files:
            if part.name == "gpg_signature":
                self._publisher.check_signature(part.filename or "", staged)
            form.append(part.name, FileUpload(staged, part.name, part.filename))
        environ[_FORM] = form

    def discard(self) -> None:
        files, self._files = self._files, []
        for _, staged in files:
            staged.discard()

    def _file_for(self, part: Part) -> Staged | None:
        if part.name not in FILES or any(part.name == other.name for other, _ in self._files):
            return None
        announced = self._announced if part.name == "content" else 0
        staged = self._publisher.stage(part.filename or "", announced=announced, identity=self._identity)
        self._files.append((part, staged))
        return staged


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _see(work: asyncio.Future[None]) -> None:
    """Look at an error that nobody waits for any more, so that asyncio does not log it."""
    if not work.cancelled():
        work.exception()


def _refusal(scope: Scope, error: PackageIndexError) -> Answer:
    headers = {"content-type": "text/plain; charset=utf-8", **error.headers}
    return _answer(error.status_for(_header(scope, b"user-agent")), headers.items(), error.body)


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def _environ(scope: Scope) -> dict[str, Any]:
    """The request's environment (PEP 3333), without its body."""
    server = scope.get("server") or ("localhost", 80)
    client = scope.get("client") or ("", 0)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": scope["path"].encode("utf-8", "surrogateescape").decode("latin-1"),
        "QUERY_STRING": scope.get("query_string", b"").decode("latin-1"),
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
        "SERVER_PROTOCOL": f"HTTP/{scope.get('http_version', '1.1')}",
        "REMOTE_ADDR": client[0],
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.get("scheme", "http"),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        **scope.get("ops.index.environ", {}),
    }
    for name, value in scope["headers"]:
        key = name.decode("latin-1").upper().replace("-", "_")
        if key not in ("CONTENT_LENGTH", "TRANSFER_ENCODING"):
            environ[key if key == "CONTENT_TYPE" else f"HTTP_{key}"] = value.decode("latin-1")
    return environ


def _call(wsgi: WSGIApp, environ: dict[str, Any], *, head: bool) -> Answer:
    started: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:  # noqa: ARG001
        started.append((status, headers))
        return lambda piece: None  # noqa: ARG005 - pypiserver returns what it has to say

    pieces = wsgi(environ, start_response)
    try:
        content = b"".join(pieces)
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            close()
    status, headers = started[-1]
    return _answer(int(status[:3]), headers, b"" if head else content)


def _answer(status: int, headers: Iterable[tuple[str, str]], content: bytes) -> Answer:
    kept = [
        (name.lower().encode("latin-1"), value.encode("latin-1", "replace"))
        for name, value in headers
        if name.lower() != "content-length"
    ]
    return status, [*kept, (b"content-length", str(len(content)).encode())], content
