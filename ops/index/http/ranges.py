"""Range requests: the headers Range and If-Range (RFC 9110, section 14).

A request for several ranges gets the whole file, which section 14.2 allows: no installer sends one.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_RANGE = re.compile(r"[ \t]*bytes[ \t]*=[ \t,]*(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))[ \t,]*", re.IGNORECASE)


class ByteRange(NamedTuple):
    """The bytes of a file from *start* up to and without *stop*."""

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
    """The range does not lie inside the file (416)."""


def range_of(header: str | None, size: int) -> ByteRange | None:
    """The range that the header Range names; None when the whole file is to be sent.

    Parameters:
        header: the value of Range, or None. Another unit, bad syntax and several ranges count as none.
        size: of the file, in bytes.

    Raises:
        UnsatisfiableRangeError: the header is well-formed, and does not lie inside the file.
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
    """True if the client's copy is still of this file, so that a range of it is of use (RFC 9110, section 13.1.5).

    Parameters:
        if_range: the header If-Range: a strong entity tag or a date; None when there is none.
        etag: the file's, in quotes.
        last_modified: the file's, as an HTTP date. Another date never matches, be it later.
    """
    return if_range is None or if_range.strip() in {etag, last_modified}
