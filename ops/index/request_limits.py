"""Limits on the framing of a request: head, trailers and Host (RFC 9112)."""

from __future__ import annotations

import re
from collections.abc import Sequence

Header = tuple[bytes, bytes]

HEAD_BYTES = 64 * 1024
"""The longest request line with headers, and the longest trailers. uvicorn has no limit of its own with this parser."""

SHORT_HEAD_BYTES = 4096
"""A head of at most this many bytes is not measured further."""

HEADERS = 100
"""Maximum number of header lines, and of trailer lines."""

FRAMING_RATIO = 16
"""Bytes of chunked framing per byte of body that do not count towards :data:`HEAD_BYTES`."""

_SEPARATORS = 4  # the colon, the space and the line end of a header line
_HOST = re.compile(
    rb"(?:\[(?:[0-9A-Fa-f:.]+|[vV][0-9A-Fa-f]+\.[A-Za-z0-9._~!$&'()*+,;=:-]+)\]"  # RFC 3986, IP-literal
    rb"|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+)"  # IPv4address or reg-name
    rb"(?::[0-9]{0,5})?"
)


class RefusedRequest(Exception):  # noqa: N818 - the fault is the client's
    """A request whose framing is invalid; it gets 400.

    Parameters:
        sentence: what is wrong and what to do, in ASCII.
    """

    def __init__(self, sentence: str) -> None:
        self.sentence = sentence
        super().__init__(sentence)


class Trailers(list[Header]):
    """Replaces the headers while a body arrives: trailers are counted and dropped.

    RFC 9110, section 6.5.1, lets a server ignore trailers. The parser would add them to the headers of a request
    that is being handled.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lines = 0
        self._bytes = 0

    def append(self, header: Header) -> None:
        """Count one trailer.

        Raises:
            RefusedRequest: there are too many, or they are too long.
        """
        self._lines += 1
        self._bytes += len(header[0]) + len(header[1]) + _SEPARATORS
        if self._lines > HEADERS or self._bytes > HEAD_BYTES:
            raise RefusedRequest(f"the trailers are longer than {HEAD_BYTES} bytes or {HEADERS} lines; send none")


def head_size(url: bytes, headers: Sequence[Header]) -> int:
    """The length of a request line with headers in bytes, separators included.

    Raises:
        RefusedRequest: it is too long.
    """
    size = len(url) + sum(len(name) + len(value) + _SEPARATORS for name, value in headers)
    if size > HEAD_BYTES:
        raise head_too_long()
    if len(headers) > HEADERS:
        raise RefusedRequest(f"the request has more than {HEADERS} header lines; send fewer")
    return size


def head_too_long() -> RefusedRequest:
    """The refusal of a request line and headers that are too long."""
    return RefusedRequest(f"the request line and the headers are longer than {HEAD_BYTES} bytes; send fewer headers")


def is_host(value: bytes) -> bool:
    """True for a valid Host header: a host with an optional port (RFC 9110, section 7.2)."""
    return len(value) <= 300 and _HOST.fullmatch(value) is not None


def has_body(headers: Sequence[Header]) -> bool:
    """True if the headers of a request announce a body (RFC 9112, section 6.3)."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0")) for name, value in headers
    )


def check_headers(headers: Sequence[Header], http_version: str) -> bool:
    """Require exactly one Host header (RFC 9112, section 3.2), and return whether the body is chunked.

    Raises:
        RefusedRequest: it is missing, repeated or not a host; or the body is encoded in
            another way (section 6.1).
    """
    host: bytes | None = None
    chunked = False
    for name, value in headers:
        if name == b"host":
            if host is not None:
                raise RefusedRequest("the request has more than one Host header; send one")
            host = value
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked":
                raise RefusedRequest("the body has a transfer coding other than chunked; send it without")
            chunked = True
    if host is None:
        if http_version != "1.0":
            raise RefusedRequest("the request has no Host header, which HTTP/1.1 requires; send the index's host name")
    elif not is_host(host):
        raise RefusedRequest("the Host header is not a host name with an optional port; send the index's host name")
    return chunked
