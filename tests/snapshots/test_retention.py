"""Retention: the last snapshot of each day, week and month is kept, and no blob that may be needed is deleted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ops.errors import ParameterError
from ops.snapshots.bucket import Blob
from ops.snapshots.retention import Retention, unneeded
from ops.snapshots.snapshot import name_of

START = datetime(2026, 1, 1, 2, 17, tzinfo=UTC)


def nights(count: int, *, hours: int = 24) -> list[str]:
    return [name_of(START + timedelta(hours=hours * night)) for night in range(count)]


def test_thirty_snapshots_are_kept_and_the_thirty_first_is_deleted() -> None:
    names = nights(31)
    assert Retention(30, 0, 0).expired(names) == names[:1]
    assert Retention(30, 0, 0).expired(names[1:]) == []


def test_the_last_of_several_on_a_day_is_kept() -> None:
    assert Retention(1, 0, 0).expired(nights(3, hours=5)) == nights(3, hours=5)[:2]


def test_weeks_and_months_keep_the_last_snapshot_of_each() -> None:
    names = nights(365)
    kept = set(names) - set(Retention(7, 4, 12).expired(names))
    assert {name[:10] for name in kept} >= {"2026-12-31", "2026-11-30", "2026-01-31", "2026-12-20", "2026-12-13"}
    assert len(kept) == 7 + 2 + 11  # the last two weeks and the last month are among the days


def test_the_newest_is_kept_whatever_the_numbers() -> None:
    assert Retention(0, 0, 1).expired(nights(1)) == []


@pytest.mark.parametrize("numbers", [(0, 0, 0), (-1, 1, 1), (1, -1, 1)])
def test_numbers_that_keep_nothing_are_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ParameterError, match="keep nothing"):
        Retention(*numbers)


def test_a_blob_is_deleted_once_it_is_unneeded_and_a_day_old() -> None:
    old, fresh = Blob(1, START), Blob(1, START + timedelta(days=1, hours=23))
    found = unneeded({"needed": old, "waste": old, "fresh": fresh}, {"needed"}, now=START + timedelta(days=2))
    assert set(found) == {"waste"}
