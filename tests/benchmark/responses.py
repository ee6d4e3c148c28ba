"""Responses: parsed as they arrive, and counted by status."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from ops.errors import IndexRequestError

_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:\s*chunked", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:\s*close", re.IGNORECASE)
_KEEP = re.compile(rb"\r\nconnection:\s*keep-alive", re.IGNORECASE)


@dataclass
class Tally:
    """Counted responses: *responses* by HTTP status, *broken* connections, and *seconds* until the last response."""

    responses: Counter[int] = field(default_factory=Counter)
    broken: int = 0
    seconds: float = 0.0
    client: str = "built-in loader"

    @property
    def good(self) -> int:
        """Responses with a status of 200 to 299."""
        return sum(count for status, count in self.responses.items() if 200 <= status < 300)

    def rate(self, what: str, *, status: int | None = None) -> float:
        """Good responses a second, or with *status* responses of that status.

        Raises:
            IndexRequestError: not all responses were good, so that the rate would not be of *what*.
        """
        good = self.good if status is None else self.responses[status]
        wanted = range(200, 300) if status is None else (status,)
        bad = {status: count for status, count in self.responses.items() if count and status not in wanted}
        if bad or self.broken or not good:
            seen = ", ".join(f"{count} x {status}" for status, count in sorted(bad.items())) or "none of them refused"
            raise IndexRequestError(
                f"{what}: not every request succeeded",
                status=min(bad, default=None),
                why=f"{good} good responses, {seen}, {self.broken} broken connections",
                todo="look into the server's log; a rate with failures in it means nothing",
            )
        return good / self.seconds


class ResponseParser:
    """One HTTP/1.1 response as its bytes arrive; only its status and its end matter."""

    def __init__(self) -> None:
        self.status = 0
        self.closes = False
        self._head = b""
        self._left: int | None = None
        self._tail = b""
        self._chunked = False

    def feed(self, data: bytes) -> bool:
        """Parse the next bytes; True when the response is complete."""
        if not self.status:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return False
            data = self._head[end + 4 :]
            self._read(self._head[:end])
        if self._left is not None:
            self._left -= len(data)
            return self._left <= 0
        if self._chunked:
            # The last chunk ends like this; nothing follows, as the next request has not been sent.
            self._tail = (self._tail + data)[-7:]
            return self._tail.endswith(b"\r\n0\r\n\r\n") or self._tail == b"0\r\n\r\n"
        return False

    def feed_end(self) -> bool:
        """Handle the end of the connection; True if that completes the response."""
        return bool(self.status) and self._left is None and not self._chunked

    def _read(self, head: bytes) -> None:
        self.status = int(head[9:12])
        length = _LENGTH.search(head)
        self._chunked = bool(_CHUNKED.search(head))
        if self.status in {204, 304}:
            self._left = 0
        elif length and not self._chunked:
            self._left = int(length[1])
        self.closes = bool(_CLOSE.search(head)) or (head.startswith(b"HTTP/1.0") and not _KEEP.search(head))
