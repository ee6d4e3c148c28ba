"""Representations: a body with its headers in each encoding, and ranges of it (RFC 9110, sections 8, 13 and 14)."""

from __future__ import annotations

import gzip
import hashlib
import re
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from ops.index.http.blocks import RenderedPage
from ops.index.http.security_headers import NOSNIFF, security_headers

Headers: TypeAlias = list[tuple[bytes, bytes]]
"""Names in lower case, as in ASGI."""

PAGE_CACHING = b"private, no-cache"
"""Cache-Control of pages: only in the user's own cache, and revalidated each time, so that an upload shows at once."""


def page_caching(max_age: int) -> bytes:
    """The Cache-Control of a page that may be reused for *max_age* seconds without asking."""
    return b"private, max-age=%d" % max_age if max_age else PAGE_CACHING


FILE_CACHING = b"private, max-age=31536000, immutable"
"""Cache-Control of files, which never change. ``private``, because reading them requires a login."""

TAG_LENGTH = 32
"""Characters of an entity tag, in hexadecimal and without its quotes."""

_SMALLEST_GZIP = 512
"""Bytes; compressing a shorter body saves no packet."""

_ENTITY_TAG = re.compile(r'(W/)?("[^"]*")')


class Response:
    """A status, headers and a body, ready to be sent.

    Parameters:
        status: such as 200.
        headers: all but Date and Connection.
        body: empty for 304.
        reason: for a refusal, for the status line.
    """

    __slots__ = ("_head", "body", "headers", "reason", "status")

    def __init__(self, status: int, headers: Headers, body: bytes, reason: str = "") -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self.body = body
        self._head: bytes | None = None

    @property
    def head(self) -> bytes:
        """The bytes between the status line and the body: headers and an empty line."""
        if self._head is None:
            self._head = b"".join([*[b"%b: %b\r\n" % header for header in self.headers], b"\r\n"])
        return self._head


class Representation:
    """One body, plain and gzipped, each with a strong entity tag.

    Parameters:
        body: the bytes.
        content_type: with its charset.
        caching: the value of Cache-Control.
        vary: the request headers that the response depends on, besides Accept-Encoding.
        policy: the Content-Security-Policy of a page for browsers; None for tools.
        page: that this is the body of, if it may be rebuilt from its blocks.
    """

    __slots__ = ("_bare", "_gzipped", "_plain", "_unchanged", "body", "page", "tag")

    def __init__(
        self,
        body: bytes,
        *,
        content_type: str,
        caching: bytes = PAGE_CACHING,
        vary: str = "Authorization",
        policy: bytes | None = None,
        page: RenderedPage | None = None,
    ) -> None:
        self.body = body
        self.page = page
        self.tag = (page.tag if page else "") or _entity_tag(content_type, (page.digest if page else b"") or body)
        self._bare = _bare_headers(content_type, caching, vary, policy)
        self._plain: Response = self._response(body, f'"{self.tag}"')
        self._gzipped: Response | None = None
        self._unchanged: dict[str, Response] = {}

    @property
    def size(self) -> int:
        """Approximate size in memory, in bytes."""
        packed = self.page.packed if self.page is not None else None
        return len(self.body) + len(packed or self.packed) + 2000

    @property
    def packed(self) -> bytes:
        """The body with gzip, if a client has asked for it and it is shorter; else empty."""
        return b"" if self._gzipped is None or self._gzipped is self._plain else self._gzipped.body

    def plain(self) -> Response:
        """The response without gzip."""
        return self._plain

    def gzipped(self) -> Response:
        """The response with gzip; the plain one if gzip does not shrink it."""
        if self._gzipped is None:
            packed = self._packed()
            if len(packed) < len(self.body):
                self._gzipped = self._response(packed, f'"{self.tag}-gzip"', (b"content-encoding", b"gzip"))
            else:
                self._gzipped = self._plain
        return self._gzipped

    def not_modified(self, if_none_match: str) -> Response | None:
        """304 with the tag that the client sent; None if that is another one."""
        response = self._unchanged.get(if_none_match)
        if response is None:
            for matched in entity_tags(if_none_match, (f'"{self.tag}"', f'"{self.tag}-gzip"')):
                response = Response(304, [(b"etag", matched.encode()), *self._bare[1:3]], b"")
                if matched == if_none_match:  # as sent by nearly all clients
                    self._unchanged[matched] = response
                break
        return response

    def _packed(self) -> bytes:
        if self.page is not None and self.page.packed is not None:
            return self.page.packed
        return gzip.compress(self.body, 6, mtime=0) if len(self.body) >= _SMALLEST_GZIP else self.body

    def _response(self, body: bytes, etag: str, *more: tuple[bytes, bytes]) -> Response:
        length = (b"content-length", str(len(body)).encode())
        return Response(200, [*self._bare, (b"etag", etag.encode()), length, *more], body)


def _entity_tag(content_type: str, content: bytes) -> str:
    return hashlib.sha256(content_type.encode() + b"\0" + content).hexdigest()[:TAG_LENGTH]


@lru_cache(16)
def _bare_headers(content_type: str, caching: bytes, vary: str, policy: bytes | None) -> Headers:
    """The headers that every representation of a kind has, in one list that nobody changes."""
    return [
        (b"content-type", content_type.encode()),
        (b"cache-control", caching),
        (b"vary", f"{vary}, Accept-Encoding".encode()),
        *([NOSNIFF] if policy is None else security_headers(policy)),
    ]


def entity_tags(named_by: str, current: tuple[str, ...], *, strong: bool = False) -> list[str]:
    """The *current* entity tags named in a header; the first for ``*``.

    Parameters:
        named_by: the value of If-None-Match or If-Match.
        current: strong entity tags.
        strong: true if a weak tag matches none, as for If-Match (RFC 9110, section 8.8.3.2).
    """
    if named_by.strip() == "*":
        return list(current[:1])
    named = {tag for weak, tag in _ENTITY_TAG.findall(named_by[:8192]) if not (weak and strong)}
    return [tag for tag in current if tag in named]


_RANGE = re.compile(r"[ \t]*bytes[ \t]*=[ \t,]*(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))[ \t,]*", re.IGNORECASE)


class ByteRange(NamedTuple):
    """The bytes of a file from *start* up to but not including *stop*."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.stop - self.start

    def content_range(self, size: int) -> bytes:
        """The value of Content-Range for this range of a file of *size* bytes."""
        return b"bytes %d-%d/%d" % (self.start, self.stop - 1, size)


class UnsatisfiableRangeError(ValueError):
    """The range is outside the file (416)."""


def range_of(header: str | None, size: int) -> ByteRange | None:
    """The range in a Range header; None to send the whole file.

    Parameters:
        header: the value of Range, or None. Other units, invalid syntax and multiple ranges count as none.
        size: of the file, in bytes.

    Raises:
        UnsatisfiableRangeError: the range is well-formed but outside the file.
    """
    matched = None if header is None else _RANGE.fullmatch(header)
    if matched is None:
        return None
    first, last, suffix = matched.groups()
    if suffix is not None:
        found = ByteRange(max(0, size - int(suffix)), size)
    elif last and int(last) < int(first):
        return None
    else:
        found = ByteRange(int(first), min(int(last) + 1, size) if last else size)
    if found.start >= found.stop:
        raise UnsatisfiableRangeError(header)
    return found


def range_applies(if_range: str | None, *, etag: str, last_modified: str) -> bool:
    """True if the client's copy is of this version of the file, so that it can use a range (RFC 9110, section 13.1.5).

    Parameters:
        if_range: the If-Range header, a strong entity tag or a date; None if missing.
        etag: the file's, in quotes.
        last_modified: the file's, as an HTTP date. Other dates never match, not even later ones.
    """
    return if_range is None or if_range.strip() in {etag, last_modified}
