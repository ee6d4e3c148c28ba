"""Range requests: the headers Range and If-Range (RFC 9110, section 14)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

MOST_RANGES = 32
"""More in one request is not a download but an attack: the header is ignored, which the RFC allows."""

_RANGE = re.compile(r"[ \t]*(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))[ \t]*")


@dataclass(frozen=True, slots=True)
class Part:
    """The bytes from *start* up to and without *stop*."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def content_range(self, size: int) -> str:
        """The value of Content-Range for this part of a file of *size* bytes."""
        return f"bytes {self.start}-{self.stop - 1}/{size}"


class UnsatisfiableRangeError(ValueError):
    """None of the ranges lies inside the file (416)."""


def parts_of(header: str | None, size: int) -> tuple[Part, ...] | None:
    """The parts that the header Range names, in its order.

    Ranges that overlap are joined, so that no request makes the server send more than the file has.

    Parameters:
        header: the value of Range, or None.
        size: of the file, in bytes.

    Returns:
        None when the whole file is to be sent: no header, another unit, bad syntax or too many ranges.

    Raises:
        UnsatisfiableRangeError: the header is well-formed, and nothing in it lies inside the file.
    """
    if header is None:
        return None
    unit, separator, ranges = header.partition("=")
    if not separator or unit.strip().lower() != "bytes":
        return None
    # A list may have empty elements (RFC 9110, section 5.6.1).
    named = [_part(text, size) for text in ranges.split(",", MOST_RANGES) if text.strip()]
    if not named or len(named) > MOST_RANGES or None in named:
        return None
    parts = [part for part in named if part is not None and part.start < part.stop]
    if not parts:
        raise UnsatisfiableRangeError(header)
    return _joined(parts)


def _part(specification: str, size: int) -> Part | None:
    """The part that one element of the header names, which may lie outside the file; None for bad syntax."""
    matched = _RANGE.fullmatch(specification)
    if matched is None:
        return None
    first, last, suffix = matched.groups()
    if suffix is not None:
        return Part(max(0, size - int(suffix)), size)
    if last and int(last) < int(first):
        return None
    return Part(int(first), min(int(last) + 1, size) if last else size)


def _joined(parts: list[Part]) -> tuple[Part, ...]:
    ordered = sorted(parts, key=lambda part: part.start)
    if all(before.stop <= after.start for before, after in pairwise(ordered)):
        return tuple(parts)
    joined = [ordered[0]]
    for part in ordered[1:]:
        if part.start <= joined[-1].stop:
            joined[-1] = Part(joined[-1].start, max(joined[-1].stop, part.stop))
        else:
            joined.append(part)
    return tuple(joined)


def range_applies(if_range: str | None, *, etag: str, last_modified: str) -> bool:
    """Whether the client's copy is still of this file, so that a part fits to it (RFC 9110, section 13.1.5).

    Parameters:
        if_range: the header If-Range: a strong entity tag or a date; None when there is none.
        etag: the file's, in quotes.
        last_modified: the file's, as an HTTP date. A date counts only when it is exactly this one.
    """
    return if_range is None or if_range.strip() in {etag, last_modified}
