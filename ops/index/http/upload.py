"""Uploads: received at the client's pace within limits, then interpreted by pypiserver."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from ops.index.auth.roles import Identity, Role
from ops.index.config import Options
from ops.index.errors import (
    Forbidden,
    PackageIndexError,
    QuotaExceeded,
    RequestTimeout,
    StorageFull,
    TooLarge,
    TooManyUploads,
)
from ops.index.http.request import Confirm, Request, client_gone
from ops.index.packages.inspector import DeferredError
from ops.index.packages.releases import Releases
from ops.index.packages.repository import Repository
from ops.index.packages.uploads import Publisher
from ops.index.sandbox.sandbox import Cancellation

if TYPE_CHECKING:
    from ops.index.http.pypiserver_bridge import Pypiserver
    from ops.index.http.upload_form import UploadForm

PIECE_BYTES: Final = 1024**2
"""Bytes of a body that are buffered before a thread processes them; a smaller upload needs only one."""

PIECE_SECONDS: Final = 60.0
"""Longest pause in the middle of an upload."""

LEAST_RATE: Final = 500
"""Bytes per second; slower uploads are aborted after a minute, as by default in Apache's mod_reqtimeout."""

SLOT_SECONDS: Final = 5.0
"""Longest wait, with the body unread, for an earlier upload by the same user to end. twine and ``uv publish`` do not
retry after a 429, so a short burst should pass."""

_LINGER_SECONDS: Final = 30.0
"""Time for a client to finish sending after a refusal: twine reads no response before it has sent everything, and
closing a connection while bytes are arriving may lose the response."""

_LONG_INSPECTIONS: Final = 64
"""Uploads that may wait concurrently for a long inspection, each in a dedicated thread."""

_logger = logging.getLogger(__name__)


class UploadApi:
    """Handler of POST to the root of the index.

    A slow client occupies no thread: threads work only on bytes that have arrived. pypiserver is imported when first
    needed, because that takes as long as serving 5,000 pages.

    Parameters:
        publisher: stages and inspects files.
        releases: removes files.
        repository: has the files.
        confirm: finds the current user of an Authorization header and an address.
        options: limits, and ``upload_threads``.
    """

    def __init__(
        self,
        publisher: Publisher,
        releases: Releases,
        repository: Repository,
        confirm: Confirm,
        options: Options,
    ) -> None:
        self._publisher = publisher
        self._releases = releases
        self._repository = repository
        self._confirm = confirm
        self._options = options
        self._slots = UploadSlots(options.uploads_per_user)
        self._threads = ThreadPoolExecutor(options.upload_threads, thread_name_prefix="upload")
        self._waiting = ThreadPoolExecutor(_LONG_INSPECTIONS, thread_name_prefix="inspection")
        self._importing = threading.Lock()
        self._pypiserver: Pypiserver | None = None

    def warm_up(self) -> None:
        """Import pypiserver and the inspection of uploads, unless that was done. Blocks."""
        with self._importing:
            if self._pypiserver is None:
                import ops.index.packages.inspection  # noqa: F401 - which the first upload would wait for
                from ops.index.http.pypiserver_bridge import Pypiserver

                self._pypiserver = Pypiserver(self._publisher, self._releases, self._repository)

    def stop(self) -> None:
        """End long inspections, because the server is stopping; their clients get 503. Does not block."""
        self._publisher.stop()

    def close(self) -> None:
        """End the threads after their current work."""
        self.stop()
        self._waiting.shutdown(wait=True, cancel_futures=True)
        self._threads.shutdown(wait=True)

    async def handle(self, request: Request, identity: Identity) -> None:
        """Receive an upload and respond to it.

        Credentials are verified again when the body has arrived: the user may have lost a right since.

        Raises:
            PackageIndexError: it is refused.
        """
        if identity.role is Role.READER:
            raise Forbidden(identity.username, "upload to this index")
        length = request.headers.get(b"content-length", b"0")
        limit = self._options.max_upload_bytes + self._options.max_form_bytes
        if len(length) > 18 or not length.isdigit() or int(length) > limit:
            raise TooLarge("the upload", limit=self._options.max_upload_bytes)
        body = TimedBody(request)
        try:
            size = self._publisher.quotas.least_size(int(length))
            if size:
                await asyncio.to_thread(self._publisher.quotas.expect, size)
            async with self._slots.slot(identity.username):
                published = await self._receive(request, body, identity, announced=size)
        except (QuotaExceeded, StorageFull, TooManyUploads) as error:
            if body.complete or b"expect" in request.headers:
                raise
            await _refuse_early(error, request, body)
        else:
            if published:
                await request.text(200, "")

    async def _receive(self, request: Request, body: TimedBody, identity: Identity, *, announced: int) -> bool:
        """Receive a body and publish its files. False if the client has disconnected.

        Raises:
            PackageIndexError: it is refused.
        """
        if self._pypiserver is None:
            await asyncio.to_thread(self.warm_up)
        from ops.index.http.upload_form import UploadForm  # imported with pypiserver

        content_type = request.header(b"content-type") or ""
        form = UploadForm(content_type, self._publisher, identity, announced=announced, options=self._options)
        loop = asyncio.get_running_loop()
        publish = self._publish_small
        try:
            pieces: list[bytes] = []
            size = 0
            while not body.complete:
                piece = await body.receive()
                if piece is None:
                    return False
                pieces.append(piece)
                size += len(piece)
                if size >= PIECE_BYTES and not body.complete:
                    await loop.run_in_executor(self._threads, form.feed, pieces)
                    pieces, size, publish = [], 0, self._publish
                    if isinstance(form.error, QuotaExceeded | StorageFull):
                        raise form.error  # at once: the rest may be gigabytes
            while True:
                try:
                    await loop.run_in_executor(self._threads, publish, request, form, pieces)
                    return True
                except DeferredError as deferred:
                    if not await self._inspect(deferred, request):
                        return False
                    pieces, publish = [], self._publish
        finally:
            if form.files:
                await asyncio.shield(loop.run_in_executor(self._threads, form.discard))

    def _publish_small(self, request: Request, form: UploadForm, pieces: list[bytes]) -> None:
        with self._publisher.turn():
            self._publish(request, form, pieces)

    def _publish(self, request: Request, form: UploadForm, pieces: list[bytes]) -> None:
        """Parse the last pieces and let pypiserver process the form, in a thread.

        Raises:
            DeferredError: its file has to be inspected at length first.
            PackageIndexError: it is refused.
        """
        try:
            if pieces:
                form.finish(pieces)
            identity = self._confirm(request.headers.get(b"authorization"), request.address)
            assert self._pypiserver is not None  # noqa: S101 - created before the body was received
            self._pypiserver.handle(form, identity, request.address)
        except DeferredError:
            raise
        except BaseException:
            form.discard()
            raise
        form.discard()

    async def _inspect(self, deferred: DeferredError, request: Request) -> bool:
        """Inspect an upload while its client stays connected. False if it has disconnected.

        Raises:
            PackageIndexError: it is not installable, or could not be inspected.
        """
        cancellation = Cancellation()
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._waiting, self._publisher.inspect, deferred, cancellation)
        leaving = asyncio.ensure_future(client_gone(request.receive))
        try:
            await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                return False
            work.result()
            return True
        finally:
            cancellation.cancel()
            leaving.cancel()
            work.add_done_callback(_retrieve_error)


class TimedBody:
    """The body of an upload, whose client must neither pause nor send too slowly.

    Parameters:
        request: whose body it is.
    """

    def __init__(self, request: Request) -> None:
        self._receive = request.receive
        self._clock = asyncio.get_running_loop().time
        self._received = 0
        self._waited = 0.0
        self.complete = False

    async def receive(self) -> bytes | None:
        """The next bytes; None if the client has disconnected.

        Raises:
            RequestTimeout: the client is too slow.
        """
        began = self._clock()
        allowed = PIECE_SECONDS + self._received / LEAST_RATE
        try:
            async with asyncio.timeout(min(PIECE_SECONDS, allowed - self._waited)):
                message = await self._receive()
        except TimeoutError:
            raise RequestTimeout(
                f"the upload paused for {PIECE_SECONDS:.0f} s, or was slower than {LEAST_RATE} "
                "bytes per second; send it again"
            ) from None
        self._waited += self._clock() - began
        if message["type"] == "http.disconnect":
            return None
        piece: bytes = message.get("body", b"")
        self._received += len(piece)
        self.complete = not message.get("more_body", False)
        return piece


class UploadSlots:
    """Limit on concurrent uploads by one user. Used in the event loop only.

    Parameters:
        limit: concurrent uploads; 0 for any number.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._users: dict[str, tuple[asyncio.Semaphore, int]] = {}

    @asynccontextmanager
    async def slot(self, username: str) -> AsyncIterator[None]:
        """Hold a slot for the duration of a user's upload.

        Raises:
            TooManyUploads: no slot became free in time.
        """
        if not self._limit:
            yield
            return
        slots, interested = self._users.get(username) or (asyncio.Semaphore(self._limit), 0)
        self._users[username] = (slots, interested + 1)
        try:
            try:
                async with asyncio.timeout(SLOT_SECONDS):
                    await slots.acquire()
            except TimeoutError:
                raise TooManyUploads(username, limit=self._limit) from None
            try:
                yield
            finally:
                slots.release()
        finally:
            interested = self._users[username][1] - 1
            if interested:
                self._users[username] = (slots, interested)
            else:
                del self._users[username]


async def _refuse_early(error: PackageIndexError, request: Request, body: TimedBody) -> None:
    """Respond before the body is complete, drop the rest, and close the connection (RFC 9112, section 9.6)."""
    status = error.status_for(request.header(b"user-agent") or "")
    if status >= 500:
        _logger.warning("an upload was refused: %s", error)
    await request.refuse(error, (b"connection", b"close"), more_body=True)
    with contextlib.suppress(TimeoutError, RequestTimeout):
        async with asyncio.timeout(_LINGER_SECONDS):
            while not body.complete and await body.receive() is not None:
                pass
    await request.send({"type": "http.response.body", "body": b""})


def _retrieve_error(work: asyncio.Future[None]) -> None:
    """Retrieve an error that is no longer awaited, so that asyncio does not log it."""
    if not work.cancelled():
        work.exception()
