"""Sending files: whole or in parts, in big pieces, at the pace of the client."""

from __future__ import annotations

import asyncio
import math
import os
import secrets
import stat
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from email.utils import formatdate, parsedate_to_datetime
from functools import lru_cache
from pathlib import Path

from ops.index.errors import StorageBusy
from ops.index.http.ranges import Part, UnsatisfiableRangeError, parts_of, range_applies
from ops.index.http.representation import FILE_CACHING, Headers, Response, entity_tags
from ops.index.http.request import Request, client_gone
from ops.index.packages.file_info import LATEST
from ops.index.storage.storage import Storage
from ops.index.storage.waiting import READ_SECONDS

PIECE = 256 * 1024
"""Bytes that are read and handed over at a time. With 64 KiB three quarters of the speed are lost; a client that stops
reading holds two pieces in memory."""

_TYPE = b"application/octet-stream"
"""Of every file: what a browser would take for more than bytes is not worth the risk."""

_SMALL = 64 * 1024
"""Bytes of a file that is answered in one piece with its headers."""

_COPIES = 8
"""Copies of a shared storage's files that are made at once for downloads."""

_GLANCE = 0.25
"""Seconds after which one that waits for a copy looks whether it still may be made."""

_OPENING = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK

_NO_WAIT: int | None = getattr(os, "RWF_NOWAIT", None)


class OpenFile:
    """A file that is held open while it is sent.

    Parameters:
        descriptor: of the open file.
        status: what the file system says of it.
        digest: its SHA-256 in hexadecimal, if it is known.
    """

    __slots__ = ("descriptor", "etag", "last_modified", "modified", "size")

    def __init__(self, descriptor: int, status: os.stat_result, digest: str | None) -> None:
        self.descriptor = descriptor
        self.size = status.st_size
        # Without a digest the tag is what the file system knows: no big file is read to make one.
        self.etag = f'"{digest}"' if digest else f'"{status.st_size:x}-{status.st_mtime_ns:x}"'
        self.modified = min(max(status.st_mtime_ns // 10**9, 0), int(LATEST))
        self.last_modified = _http_date(self.modified)

    async def read(self, part: Part) -> bytes:
        """Some of the bytes of *part*, from its start: at once when they are in memory, else from another thread."""
        length = min(PIECE, len(part))
        piece = _read_at_once(self.descriptor, length, part.start)
        return piece if piece is not None else await asyncio.to_thread(os.pread, self.descriptor, length, part.start)


class Delivery:
    """Sends the files of one storage."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._directory = str(storage.directory)
        self._copying: ThreadPoolExecutor | None = None

    def at_once(self, path: str) -> Response | None:
        """The answer to a GET without conditions for a small file of this machine that is in memory; else None.

        Parameters:
            path: of the file, relative to the storage's directory.
        """
        try:
            descriptor = os.open(f"{self._directory}/{path}", _OPENING)
        except OSError:
            return None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or not 0 < status.st_size <= _SMALL:
                return None
            body = _read_at_once(descriptor, status.st_size, 0)
            if body is None or len(body) != status.st_size:
                return None
            file = OpenFile(descriptor, status, None)
        finally:
            os.close(descriptor)
        length = (b"content-length", str(file.size).encode())
        return Response(200, [*_headers(file), (b"content-type", _TYPE), length], body)

    async def deliver(self, request: Request, path: Path, *, digest: str | None = None) -> bool:
        """Response GET or HEAD for the file at *path* (RFC 9110, sections 13 and 14).

        Parameters:
            request: the request.
            path: of the file.
            digest: its SHA-256, which stands in its entity tag on a storage whose files are copied to be served.

        Returns:
            Whether there was such a file; when not, nothing has been sent.
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
        """A copy that is there, or else one that is made now, in a thread in which it may wait for the storage.

        Raises:
            FileNotFoundError: there is no such file.
            StorageBusy: a commit or reload does not end. The copy is made for whoever comes next.
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
    """A copy that nobody takes away until it is closed.

    Parameters:
        path: where it lies.
        uses: what holds it.
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
    """Wait for a copy; when nobody waits for it any more once it is there, it is let go.

    Parameters:
        holding: the copy.
        give_up: whether to wait no longer; asked after READ_SECONDS.

    Raises:
        StorageBusy: that was so.
    """
    began = time.monotonic()
    try:
        while not holding.done():
            await asyncio.wait([holding], timeout=_GLANCE)
            if not holding.done() and time.monotonic() - began > READ_SECONDS and give_up():
                raise StorageBusy("the storage is at work on a change and shows no files meanwhile")
    except BaseException:
        holding.add_done_callback(_let_go)
        raise
    return holding.result()


def _let_go(holding: asyncio.Future[_Held | None]) -> None:
    if not holding.cancelled() and holding.exception() is None:
        held = holding.result()
        if held is not None:
            held.close()


async def _deliver(request: Request, path: Path, digest: str | None, *, by_path: bool) -> bool:
    try:
        descriptor = os.open(path, _OPENING)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return False
        await _Answering(request, OpenFile(descriptor, status, digest), path if by_path else None).answer()
    finally:
        os.close(descriptor)
    return True


class _Answering:
    """The answer to one request for one open file."""

    def __init__(self, request: Request, file: OpenFile, path: Path | None) -> None:
        self._exchange = request
        self._file = file
        self._path = path
        self._headers = _headers(file)

    async def answer(self) -> None:
        """Send it."""
        request, file = self._exchange, self._file
        if self._another():
            await request.text(412, "The file is not the one that was asked for", *self._headers[:2])
            return
        if self._unchanged():
            await request.respond(304, self._headers[:4])
            return
        wanted = request.header(b"range") if request.method == "GET" else None
        if not range_applies(request.header(b"if-range"), etag=file.etag, last_modified=file.last_modified):
            wanted = None
        try:
            parts = parts_of(wanted, file.size)
        except UnsatisfiableRangeError:
            await request.text(
                416,
                f"The file has {file.size} bytes, and no requested range lies inside",
                (b"content-range", f"bytes */{file.size}".encode()),
                *self._headers[4:5],
            )
            return
        if parts is None:
            await self._whole()
        elif len(parts) == 1:
            content_range = (b"content-range", parts[0].content_range(file.size).encode())
            await self._start(206, len(parts[0]), (b"content-type", _TYPE), content_range)
            await self._body(parts)
        else:
            await self._multipart(parts)

    def _another(self) -> bool:
        """Whether the client wants a file that this one is not: If-Match, and only without it If-Unmodified-Since."""
        named = self._exchange.header(b"if-match")
        if named is not None:
            return not entity_tags(named, (self._file.etag,), strong=True)
        since = self._exchange.header(b"if-unmodified-since")
        return since is not None and since != self._file.last_modified and _moment(since) < self._file.modified

    def _unchanged(self) -> bool:
        """Whether the client has this file: If-None-Match, and only without it If-Modified-Since."""
        named = self._exchange.header(b"if-none-match")
        if named is not None:
            return bool(entity_tags(named, (self._file.etag,)))
        return self._exchange.header(b"if-modified-since") == self._file.last_modified

    async def _start(self, status: int, length: int, *headers: tuple[bytes, bytes]) -> None:
        request = self._exchange
        request.started = True
        every = [*self._headers, *headers, (b"content-length", str(length).encode())]
        await request.send({"type": "http.response.start", "status": status, "headers": every})

    async def _whole(self) -> None:
        request, size = self._exchange, self._file.size
        await self._start(200, size, (b"content-type", _TYPE))
        offered = request.scope.get("extensions") or {}
        if "http.response.pathsend" in offered and self._path is not None and size and request.method == "GET":
            await request.send({"type": "http.response.pathsend", "path": str(self._path.absolute())})
        else:
            await self._body((Part(0, size),))

    async def _multipart(self, parts: Sequence[Part]) -> None:
        boundary = secrets.token_hex(12).encode()
        size = self._file.size
        pieces: list[bytes | Part] = []
        for part in parts:
            pieces.append(
                b"\r\n--%b\r\nContent-Type: %b\r\nContent-Range: %b\r\n\r\n"
                % (boundary, _TYPE, part.content_range(size).encode())
            )
            pieces.append(part)
        pieces.append(b"\r\n--%b--\r\n" % boundary)
        length = sum(len(piece) for piece in pieces)
        await self._start(206, length, (b"content-type", b"multipart/byteranges; boundary=" + boundary))
        await self._body(pieces)

    async def _body(self, pieces: Sequence[bytes | Part]) -> None:
        """Send all pieces, and stop when the client is gone: a server may drop what is sent to nobody in silence."""
        request = self._exchange
        gone: asyncio.Task[None] | None = None
        try:
            for number, piece in enumerate(pieces if request.method != "HEAD" else (), start=1):
                if isinstance(piece, bytes):
                    await request.send({"type": "http.response.body", "body": piece, "more_body": number < len(pieces)})
                    continue
                if gone is None and len(piece) > PIECE:
                    gone = asyncio.ensure_future(client_gone(request.receive))
                left = piece
                while len(left):
                    content = await self._file.read(left)
                    if not content or (gone is not None and gone.done()):
                        return  # cut short under our hands, or nobody reads on: the server closes the connection
                    left = Part(left.start + len(content), left.stop)
                    more = number < len(pieces) or len(left) > 0
                    await request.send({"type": "http.response.body", "body": content, "more_body": more})
        finally:
            if gone is not None:
                gone.cancel()
        if request.method == "HEAD" or not self._file.size:
            await request.send({"type": "http.response.body", "body": b""})


@lru_cache(4096)
def _http_date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)


def _moment(date: str) -> float:
    """An HTTP date in seconds since the epoch; what is no date is ignored, as if it were in the far future."""
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return math.inf


def _headers(file: OpenFile) -> Headers:
    """What every answer says of a file."""
    return [
        (b"etag", file.etag.encode()),
        (b"last-modified", file.last_modified.encode()),
        (b"cache-control", FILE_CACHING),
        (b"vary", b"Authorization"),
        (b"accept-ranges", b"bytes"),
        (b"x-content-type-options", b"nosniff"),
    ]


def _read_at_once(descriptor: int, length: int, offset: int) -> bytes | None:
    """The bytes when they are in the page cache, or None when a disk or another machine would have to be waited for.

    Only the last byte is asked for: what a kernel reads ahead it reads in order.
    """
    if _NO_WAIT is None:
        return None
    try:
        os.preadv(descriptor, [bytearray(1)], offset + length - 1, _NO_WAIT)
    except OSError:  # EAGAIN: not in memory; EOPNOTSUPP: this file system cannot tell
        return None
    return os.pread(descriptor, length, offset)
