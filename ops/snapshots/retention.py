"""Retention: the snapshots to keep, and the blobs no longer needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

from ops.errors import ParameterError
from ops.snapshots.bucket import Blob
from ops.snapshots.snapshot import moment

GRACE = timedelta(days=1)
"""Minimum age of deleted blobs: another run may be writing a snapshot that needs a newer one."""


@dataclass(frozen=True)
class Retention:
    """Numbers of snapshots to keep.

    Parameters:
        daily: number of days whose last snapshot is kept.
        weekly: likewise for weeks (ISO 8601).
        monthly: likewise for months.

    Raises:
        ParameterError: a number is negative, or all are 0.
    """

    daily: int = 30
    weekly: int = 8
    monthly: int = 12

    def __post_init__(self) -> None:
        """Refuse numbers that would keep nothing."""
        if min(self.daily, self.weekly, self.monthly) < 0 or not self.daily + self.weekly + self.monthly:
            raise ParameterError(
                "these numbers of snapshots keep nothing",
                why=f"daily is {self.daily}, weekly {self.weekly} and monthly {self.monthly}",
                todo="use numbers of 0 or more, at least one of them above 0",
            )

    def expired(self, names: Iterable[str]) -> list[str]:
        """The snapshots that no rule keeps, oldest first. Never includes the newest one.

        Parameters:
            names: of all snapshots of one index.
        """
        newest_first = sorted(names, reverse=True)
        kept = set(newest_first[:1])
        for count, form in ((self.daily, "%Y-%m-%d"), (self.weekly, "%G-%V"), (self.monthly, "%Y-%m")):
            last_of: dict[str, str] = {}
            for name in newest_first:
                last_of.setdefault(moment(name).strftime(form), name)
            kept.update(islice(last_of.values(), count))
        return sorted(set(newest_first) - kept)


def unneeded(blobs: Mapping[str, Blob], needed: AbstractSet[str], *, now: datetime) -> dict[str, Blob]:
    """The blobs that are not *needed*, and are older than :data:`GRACE`."""
    return {sha256: blob for sha256, blob in blobs.items() if sha256 not in needed and now - blob.stored > GRACE}
