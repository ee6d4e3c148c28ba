"""Sending files: whole or in part, in large pieces, at the client's pace."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import stat
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from email.utils import formatdate, parsedate_to_datetime
from functools import lru_cache
from pathlib import Path

from ops.index.errors import StorageBusy
from ops.index.http.representation import (
    FILE_CACHING,
    ByteRange,
    Headers,
    Response,
    UnsatisfiableRangeError,
    entity_tags,
    range_applies,
    range_of,
)
from ops.index.http.request import Request, client_gone
from ops.index.packages.sidecars import LATEST
from ops.index.storage.storage import Storage
from ops.index.storage.waiting import READ_SECONDS

PIECE = 512 * 1024
"""Bytes read and sent at a time. Half the size costs a tenth more processor time. A client that stops reading keeps up
to three pieces in memory: one partly sent, one queued, and one that waits; the kernel keeps several MiB more."""

_TURN = 2
"""Pieces after which others get a turn, even if the client reads as fast as we send, and its disconnection is noticed:
asyncio warns of the fifth write after that."""

_TYPE = b"application/octet-stream"
"""Media type of every file: browsers must not interpret them."""

_SMALL = 64 * 1024
"""Largest file that is sent in one piece with its headers, in bytes."""

_COPIES = 8
"""Copies of shared files that are made concurrently for downloads."""

_POLL_SECONDS = 0.25
"""Seconds between two checks whether a copy can still be made."""

_ALLOWED_SECONDS = 0.5
"""Seconds between two checks whether the user of a download was removed."""

OPENING = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK

_logger = logging.getLogger(__name__)

_NO_WAIT: int | None = getattr(os, "RWF_NOWAIT", None)
_ONE_BYTE = [bytearray(1)]


class OpenFile:
    """An open file that is being sent.

    Parameters:
        descriptor: of the open file.
        status: from ``stat``.
        digest: its SHA-256 in hexadecimal, if known.
    """

    __slots__ = ("descriptor", "etag", "last_modified", "modified", "size")

    def __init__(self, descriptor: int, status: os.stat_result, digest: str | None) -> None:
        self.descriptor = descriptor
        self.size = status.st_size
        # Without a digest the tag is made from size and time: no large file is read for it.
        self.etag = f'"{digest}"' if digest else f'"{status.st_size:x}-{status.st_mtime_ns:x}"'
        self.modified = min(max(status.st_mtime_ns // 10**9, 0), int(LATEST))
        self.last_modified = _http_date(self.modified)


class Delivery:
    """Sends the files of one storage."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._directory = str(storage.directory)
        self._copying: ThreadPoolExecutor | None = None

    def at_once(self, path: str) -> Response | None:
        """The response to an unconditional GET for a small local file in memory; else None.

        Parameters:
            path: of the file, relative to the storage's directory.
        """
        try:
            descriptor = os.open(f"{self._directory}/{path}", OPENING)
        except OSError:
            return None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or not 0 < status.st_size <= _SMALL:
                return None
            body = read_at_once(descriptor, status.st_size, 0)
            if body is None or len(body) != status.st_size:
                return None
            file = OpenFile(descriptor, status, None)
        finally:
            os.close(descriptor)
        length = (b"content-length", str(file.size).encode())
        return Response(200, [*_headers(file), (b"content-type", _TYPE), length], body)

    async def deliver(self, request: Request, path: Path, *, digest: str | None = None) -> bool:
        """Respond to GET or HEAD for the file at *path* (RFC 9110, sections 13 and 14).

        Parameters:
            path: of the file.
            digest: its SHA-256, for the entity tag on storage whose files are copied before they are served.

        Returns:
            False if there is no such file; nothing has been sent then.
        """
        if not self._storage.shared:
            return await _deliver(request, path, digest, by_path=True)
        try:
            held = await self._held(path)
        except FileNotFoundError:
            return False
        try:
            return await _deliver(request, held.path, digest, by_path=False)
        finally:
            await asyncio.to_thread(held.close)

    async def _held(self, path: Path) -> _Held:
        """A copy, created if needed, in a thread that may wait for the storage.

        Raises:
            FileNotFoundError: there is no such file.
            StorageBusy: a commit or reload does not end. The copy is still made, for the next request.
        """
        loop = asyncio.get_running_loop()
        there = await _unless_cancelled(loop.run_in_executor(None, _hold, self._storage.copied, path))
        if there is not None:
            return there
        if self._copying is None:
            self._copying = ThreadPoolExecutor(_COPIES, thread_name_prefix="copies")
        making = loop.run_in_executor(self._copying, _hold, self._storage.detached, path)
        held = await _unless_cancelled(making, give_up=lambda: self._storage.closed)
        assert held is not None  # noqa: S101 - it is made or fails
        return held


class _Held:
    """A copy that is kept until closed.

    Parameters:
        path: of the copy.
        uses: what keeps it.
    """

    def __init__(self, path: Path, uses: ExitStack) -> None:
        self.path = path
        self.close = uses.close


def _hold(hold: Callable[[Path], AbstractContextManager[Path] | None], path: Path) -> _Held | None:
    with ExitStack() as stack:
        copy = hold(path)
        return None if copy is None else _Held(stack.enter_context(copy), stack.pop_all())


async def _unless_cancelled(
    holding: asyncio.Future[_Held | None], *, give_up: Callable[[], bool] = lambda: False
) -> _Held | None:
    """Wait for a copy; if the request is cancelled meanwhile, the copy is released once it exists.

    Parameters:
        holding: the copy.
        give_up: called after READ_SECONDS; true to stop waiting.

    Raises:
        StorageBusy: *give_up* returned true.
    """
    began = time.monotonic()
    try:
        while not holding.done():
            await asyncio.wait([holding], timeout=_POLL_SECONDS)
            if not holding.done() and time.monotonic() - began > READ_SECONDS and give_up():
                raise StorageBusy("the storage is busy with a change and unavailable meanwhile")
    except BaseException:
        holding.add_done_callback(_release)
        raise
    return holding.result()


def _release(holding: asyncio.Future[_Held | None]) -> None:
    if not holding.cancelled() and holding.exception() is None:
        held = holding.result()
        if held is not None:
            held.close()


async def _deliver(request: Request, path: Path, digest: str | None, *, by_path: bool) -> bool:
    try:
        descriptor = os.open(path, OPENING)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return False
        await _FileResponse(request, OpenFile(descriptor, status, digest), path if by_path else None).send()
    finally:
        os.close(descriptor)
    return True


class _FileResponse:
    """The response to one request for one open file (RFC 9110, sections 13 and 14)."""

    def __init__(self, request: Request, file: OpenFile, path: Path | None) -> None:
        self._request = request
        self._file = file
        self._path = path
        self._headers = _headers(file)

    async def send(self) -> None:
        """Send the file, or the part that the client lacks."""
        request, file = self._request, self._file
        if self._precondition_fails():
            await request.text(412, "The file is not the requested version", *self._headers[:2])
            return
        if self._unchanged():
            await request.respond(304, self._headers[:4])
            return
        wanted = request.header(b"range") if request.method == "GET" else None
        if not range_applies(request.header(b"if-range"), etag=file.etag, last_modified=file.last_modified):
            wanted = None
        try:
            part = range_of(wanted, file.size)
        except UnsatisfiableRangeError:
            await request.text(
                416,
                f"The file has {file.size} bytes, and the requested range is outside it",
                (b"content-range", b"bytes */%d" % file.size),
                *self._headers[4:5],
            )
            return
        if part is not None:
            await self._start(206, part.size, (b"content-range", part.content_range(file.size)))
            await self._body(part)
            return
        await self._start(200, file.size)
        offered = request.scope.get("extensions") or {}
        if "http.response.pathsend" in offered and self._path is not None and file.size and request.method == "GET":
            await request.send({"type": "http.response.pathsend", "path": str(self._path.absolute())})
        else:
            await self._body(ByteRange(0, file.size))

    def _precondition_fails(self) -> bool:
        """True if the client requires another version: by If-Match, else by If-Unmodified-Since."""
        named = self._request.header(b"if-match")
        if named is not None:
            return not entity_tags(named, (self._file.etag,), strong=True)
        since = self._request.header(b"if-unmodified-since")
        return since is not None and since != self._file.last_modified and _moment(since) < self._file.modified

    def _unchanged(self) -> bool:
        """True if the client has this version: by If-None-Match, else by If-Modified-Since."""
        named = self._request.header(b"if-none-match")
        if named is not None:
            return bool(entity_tags(named, (self._file.etag,)))
        return self._request.header(b"if-modified-since") == self._file.last_modified

    async def _start(self, status: int, length: int, *headers: tuple[bytes, bytes]) -> None:
        request = self._request
        request.status = status
        own = [(b"content-type", _TYPE), (b"content-length", str(length).encode())]
        await request.send(
            {"type": "http.response.start", "status": status, "headers": [*self._headers, *own, *headers]}
        )

    async def _body(self, part: ByteRange) -> None:
        """Send some bytes of the file. Stop if the user may no longer have it: the server closes the connection."""
        request = self._request
        if request.method == "HEAD" or not part.size:
            await request.send({"type": "http.response.body", "body": b""})
            return
        if part.size <= PIECE or request.still_allowed is None:
            await self._pieces(part)
            return
        sending = asyncio.ensure_future(self._pieces(part))
        try:
            while not (await asyncio.wait([sending], timeout=_ALLOWED_SECONDS))[0]:
                if not await request.still_allowed():
                    _logger.info("a download by %r was ended: this login is no longer valid", request.username)
                    return
            sending.result()
        finally:
            sending.cancel()

    async def _pieces(self, part: ByteRange) -> None:
        """Send some bytes of the file, and stop if the client disconnects: a server may drop them silently."""
        request, descriptor, position = self._request, self._file.descriptor, part.start
        gone = asyncio.ensure_future(client_gone(request.receive)) if part.size > PIECE else None
        try:
            while position < part.stop:
                length = min(PIECE, part.stop - position)
                content = read_at_once(descriptor, length, position)
                if content is None:
                    content = await asyncio.to_thread(os.pread, descriptor, length, position)
                if not content or (gone is not None and gone.done()):
                    return  # truncated meanwhile, or the client has stopped reading: the server closes the connection
                position += len(content)
                more = position < part.stop
                await request.send({"type": "http.response.body", "body": content, "more_body": more})
                del content  # the next piece gets the same memory, which is in the processor's cache
                if more and position // PIECE % _TURN == 0:
                    await asyncio.sleep(0)
        finally:
            if gone is not None:
                gone.cancel()


@lru_cache(4096)
def _http_date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)


def _moment(date: str) -> float:
    """An HTTP date in seconds since the epoch; anything else is ignored, like a date in the far future."""
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return math.inf


def _headers(file: OpenFile) -> Headers:
    """The headers of every response for a file."""
    return [
        (b"etag", file.etag.encode()),
        (b"last-modified", file.last_modified.encode()),
        (b"cache-control", FILE_CACHING),
        (b"vary", b"Authorization"),
        (b"accept-ranges", b"bytes"),
        (b"x-content-type-options", b"nosniff"),
    ]


def read_at_once(descriptor: int, length: int, offset: int) -> bytes | None:
    """The bytes if they are in the page cache; None if reading would wait for a disk or another machine.

    Only the last byte is tried, because kernels read ahead in order.
    """
    return os.pread(descriptor, length, offset) if in_memory(descriptor, offset + length - 1) else None


def in_memory(descriptor: int, offset: int) -> bool:
    """True if the byte at *offset* can be read without waiting; False if not, or if there is none."""
    if _NO_WAIT is None:
        return False
    try:
        return os.preadv(descriptor, _ONE_BYTE, offset, _NO_WAIT) == 1
    except OSError:  # EAGAIN: not in memory; EOPNOTSUPP: this file system cannot tell
        return False
