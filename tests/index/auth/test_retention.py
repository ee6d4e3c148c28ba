"""Old files of the audit log go, and none that somebody may still write."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ops.index.auth.audit import ADMIN_FOLDER, SERVER_FOLDER, Audit
from ops.index.auth.audit_files import LogFile
from ops.index.auth.retention import expired
from ops.index.config import Options
from ops.index.storage.storage import DirectoryStorage
from tests.index.credentials_volume import volumes
from tests.index.full_disk import fill

TODAY = "2026-11-23"


def log_files(*days: str, size: int = 100) -> list[LogFile]:
    return [LogFile(f"{day}.web.jsonl", size) for day in days]


def days_of(files: list[LogFile]) -> list[str]:
    return [file.day for file in files]


def test_files_of_before_the_days_that_are_kept_have_expired() -> None:
    files = log_files("2024-02-29", "2026-11-12", "2026-11-13", "2026-11-22", TODAY)
    assert days_of(expired(files, today=TODAY, days=10, limit=0)) == ["2024-02-29", "2026-11-12"]
    assert expired(files, today=TODAY, days=0, limit=0) == []
    assert expired(files, today=TODAY, days=999_999, limit=0) == []


def test_the_oldest_go_when_all_together_are_too_large() -> None:
    files = log_files("2026-11-12", "2026-11-13", "2026-11-14", "2026-11-22", TODAY)
    assert days_of(expired(files, today=TODAY, days=0, limit=300)) == ["2026-11-12", "2026-11-13"]
    assert expired(files, today=TODAY, days=0, limit=500) == []


def test_neither_today_nor_yesterday_ever_expires() -> None:
    files = log_files("2026-11-21", "2026-11-22", TODAY, "2026-11-24")
    assert days_of(expired(files, today=TODAY, days=1, limit=1)) == ["2026-11-21"]


class FakeTime:
    def __init__(self) -> None:
        self.now = datetime(2026, 11, 23, 12, tzinfo=UTC)

    def __call__(self) -> float:
        return self.now.timestamp()


def lines(storage: DirectoryStorage, folder: str) -> list[dict[str, object]]:
    files = sorted((storage.directory / folder).glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


@pytest.mark.parametrize("folder", [SERVER_FOLDER, ADMIN_FOLDER])
def test_the_first_line_of_a_day_removes_what_has_expired_and_says_so(tmp_path: Path, folder: str) -> None:
    storage, clock = DirectoryStorage(tmp_path), FakeTime()
    audit = Audit(storage, folder, options=Options(audit_days=2, instance="web"), clock=clock)
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "2026-11-20.other.jsonl").write_text("{}\n")
    (tmp_path / folder / "notes.txt").write_text("an operator's own")
    audit.record("upload", user="alice", address="")
    names = sorted(path.name for path in (tmp_path / folder).iterdir())
    assert "2026-11-20.other.jsonl" not in names
    assert "notes.txt" in names
    assert [line["event"] for line in lines(storage, folder)] == ["upload", "audit.expired"]
    assert lines(storage, folder)[1]["files"] == ["2026-11-20.other.jsonl"]
    for _ in range(5):
        clock.now += timedelta(days=1)
        audit.record("yank", user="alice", address="")
    assert sorted({str(line["time"])[:10] for line in lines(storage, folder)}) == [
        "2026-11-26",
        "2026-11-27",
        "2026-11-28",
    ]


def test_a_file_that_cannot_be_removed_does_not_stand_in_a_requests_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = Audit(DirectoryStorage(tmp_path), options=Options(audit_days=1), clock=FakeTime())
    old = tmp_path / SERVER_FOLDER / "2026-11-01.web.jsonl"
    old.mkdir(parents=True)  # which unlink refuses
    audit.record("upload", user="alice", address="")
    assert old.exists()
    assert "upload" in [line["event"] for line in lines_of_files(tmp_path / SERVER_FOLDER)]


def lines_of_files(folder: Path) -> list[dict[str, object]]:
    files = [path for path in folder.glob("*.jsonl") if path.is_file()]
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_on_a_volume_a_removal_goes_out_with_the_next_commit(tmp_path: Path) -> None:
    ours, theirs = volumes(tmp_path, 2)
    clock = FakeTime()
    Audit(theirs, ADMIN_FOLDER, options=Options(audit_days=2), clock=clock).record("upload", user="alice", address="")
    theirs.commit()
    clock.now += timedelta(days=10)
    ours.reload()
    assert len(list((ours.directory / ADMIN_FOLDER).glob("2026-11-23.*"))) == 1
    Audit(ours, ADMIN_FOLDER, options=Options(audit_days=2), clock=clock).record("yank", user="alice", address="")
    ours.commit()
    theirs.reload()
    assert not list((theirs.directory / ADMIN_FOLDER).glob("2026-11-23.*"))


def test_a_full_disk_loses_no_line_about_a_change(small_disk: Path) -> None:
    storage = DirectoryStorage(small_disk)
    audit = Audit(storage, clock=FakeTime())
    audit.hold_back()
    audit.record("first", user="alice", address="")
    fill(small_disk)
    for number in range(100):
        audit.record("yank", user="alice", address="", number=number)
    assert [line.get("number") for line in lines(storage, SERVER_FOLDER)] == [None, *range(100)]


def test_refused_logins_do_not_use_up_what_was_held_back_for_changes(small_disk: Path) -> None:
    storage = DirectoryStorage(small_disk)
    audit = Audit(storage, clock=FakeTime())
    audit.hold_back()
    audit.record("first", user="alice", address="")
    fill(small_disk)
    for number in range(60):
        audit.record("login.refused", user=f"user-{number}", address="192.0.2.1", why="x" * 400)
    audit.flush()
    assert [line["event"] for line in lines(storage, SERVER_FOLDER)] == ["first"]
    audit.record("remove", user="adam", address="")
    assert [line["event"] for line in lines(storage, SERVER_FOLDER)] == ["first", "remove"]


def test_lines_for_which_there_is_no_room_at_all_are_written_as_soon_as_there_is(small_disk: Path) -> None:
    storage = DirectoryStorage(small_disk)
    audit = Audit(storage, clock=FakeTime())
    give_back = fill(small_disk)
    for number in range(3):
        audit.record("yank", user="alice", address="", number=number)
    assert lines(storage, SERVER_FOLDER) == []
    give_back()
    audit.sync()
    assert [line["number"] for line in lines(storage, SERVER_FOLDER)] == [0, 1, 2]
    audit.record("yank", user="alice", address="", number=3)
    assert [line["number"] for line in lines(storage, SERVER_FOLDER)] == [0, 1, 2, 3]
