"""Lines of a server's log, and the one that says why it does not run."""

from __future__ import annotations

import re
from collections.abc import Iterable

LONGEST = 300
"""Characters of a line that are quoted in an error."""

_EXCEPTION = re.compile(r"([A-Za-z_]\w*\.)*[A-Za-z_]\w*(Error|Exception|Exit|Interrupt|Fault|NotFound|Timeout)(: .*)?")
_ERROR = re.compile(r"\b(error|critical|fatal|failed|killed|exit(ed)? (code|status)|out of memory)\b", re.IGNORECASE)
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


def as_lines(pieces: Iterable[str]) -> list[str]:
    """The lines of a log that comes in pieces, without terminal control; a piece ends a line even without a newline."""
    return [_CONTROL.sub("", line).rstrip() for piece in pieces for line in piece.splitlines()]


def last_error(lines: Iterable[str]) -> str:
    """The last line of the last exception, else the last line that speaks of an error, else an empty string."""
    newest_first = [line.strip() for line in lines if line.strip()][::-1]
    for found in (_EXCEPTION.fullmatch, _ERROR.search):
        for line in newest_first:
            if found(line):
                return line[:LONGEST]
    return ""
