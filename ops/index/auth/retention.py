"""Retention of audit files by age and size."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta

from ops.index.auth.audit_files import LogFile


def expired(files: Iterable[LogFile], *, today: str, days: int, limit: int) -> list[LogFile]:
    """The files that have been kept for long enough, the oldest first.

    Never one of today or yesterday: another server, whose clock is behind, may still be writing it.

    Parameters:
        files: of all servers, the oldest first.
        today: in UTC, such as ``2026-01-31``.
        days: for how many days before today files are kept; 0 for ever.
        limit: bytes that all files together may have; 0 for any number.
    """
    files = list(files)
    now = date.fromisoformat(today)
    yesterday, first = (now - timedelta(days=1)).isoformat(), ""
    if days:
        first = (now - timedelta(days=min(days, now.toordinal() - 1))).isoformat()
    size = sum(file.size for file in files)
    found = []
    for file in files:
        if file.day >= yesterday or not (file.day < first or (limit and size > limit)):
            break
        found.append(file)
        size -= file.size
    return found
