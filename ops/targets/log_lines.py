"""Lines of a server's log, and the last error among them."""

from __future__ import annotations

import re
from collections.abc import Iterable

LONGEST = 300
"""Characters of a line to quote in an error."""

_EXCEPTION = re.compile(r"([A-Za-z_]\w*\.)*[A-Za-z_]\w*(Error|Exception|Exit|Interrupt|Fault|NotFound|Timeout)(: .*)?")
_ERROR = re.compile(r"\b(error|critical|fatal|failed|killed|exit(ed)? (code|status)|out of memory)\b", re.IGNORECASE)
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


def as_lines(pieces: Iterable[str]) -> list[str]:
    """Split pieces of a log into lines, without terminal control codes. Each piece ends a line."""
    return [_CONTROL.sub("", line).rstrip() for piece in pieces for line in piece.splitlines()]


def last_error(lines: Iterable[str]) -> str:
    """Last line of the last exception, or the last line with an error, or an empty string."""
    newest_first = [line.strip() for line in lines if line.strip()][::-1]
    for found in (_EXCEPTION.fullmatch, _ERROR.search):
        for line in newest_first:
            if found(line):
                return line[:LONGEST]
    return ""
