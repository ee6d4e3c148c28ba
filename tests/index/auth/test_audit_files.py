"""Files of the audit log are append-only, are closed when no longer needed, and are removed when they expire."""

from __future__ import annotations

import errno
import gc
import os
from pathlib import Path

import pytest

from ops.index.auth.audit_files import AuditFiles, LogFile, expired
from ops.index.storage.directory import DirectoryStorage
from tests.index.credentials_volume import volumes

MONDAY, TUESDAY = "2026-11-23", "2026-11-24"
TODAY = MONDAY


@pytest.fixture
def storage(tmp_path: Path) -> DirectoryStorage:
    (tmp_path / "volume").mkdir()
    return DirectoryStorage(tmp_path / "volume")


def held_open(folder: Path) -> list[str]:
    """Names of the files in *folder* that this process has open."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            path = entry.readlink()
        except OSError:
            continue
        if path.parent == folder:
            found.append(path.name.removesuffix(" (deleted)"))
    return sorted(found)


def test_each_day_has_one_file_that_lines_are_appended_to(storage: DirectoryStorage) -> None:
    files = AuditFiles(storage, "log", "web")
    for day, line in ((MONDAY, b"one\n"), (MONDAY, b"two\n"), (TUESDAY, b"three\n")):
        files.append(day, line)
    folder = storage.directory / "log"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        f"{MONDAY}.web.jsonl": b"one\ntwo\n",
        f"{TUESDAY}.web.jsonl": b"three\n",
    }


def test_yesterdays_file_is_closed_once_it_is_durable(storage: DirectoryStorage) -> None:
    files, folder = AuditFiles(storage, "log", "web"), storage.directory / "log"
    files.append(MONDAY, b"one\n")
    files.append(TUESDAY, b"two\n")
    assert held_open(folder) == [f"{MONDAY}.web.jsonl", f"{TUESDAY}.web.jsonl"]
    files.sync()
    assert held_open(folder) == [f"{TUESDAY}.web.jsonl"]
    files.close()
    assert held_open(folder) == []
    files.append(TUESDAY, b"three\n")
    assert (folder / f"{TUESDAY}.web.jsonl").read_bytes() == b"two\nthree\n"
    del files
    gc.collect()
    assert held_open(folder) == []


def test_a_removed_file_is_created_again(storage: DirectoryStorage) -> None:
    files, path = AuditFiles(storage, "log", "web"), storage.directory / "log" / f"{MONDAY}.web.jsonl"
    files.append(MONDAY, b"one\n")
    path.unlink()
    files.append(MONDAY, b"two\n")
    assert path.read_bytes() == b"two\n"
    path.unlink()
    path.parent.rmdir()
    files.append(MONDAY, b"three\n")
    files.sync()
    assert path.read_bytes() == b"three\n"
    assert held_open(path.parent) == [path.name]


def test_a_renamed_file_gets_no_more_lines(storage: DirectoryStorage) -> None:
    files, path = AuditFiles(storage, "log", "web"), storage.directory / "log" / f"{MONDAY}.web.jsonl"
    files.append(MONDAY, b"one\n")
    path.rename(path.with_suffix(".old"))
    files.append(MONDAY, b"two\n")
    files.sync()
    assert path.read_bytes() == b"two\n"
    assert path.with_suffix(".old").read_bytes() == b"one\n"
    assert held_open(path.parent) == [path.name]


def test_a_line_appended_during_a_sync_is_synced_by_the_next_one(
    storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = AuditFiles(storage, "log", "web")
    files.append(MONDAY, b"one\n")
    real, late = os.fsync, [(MONDAY, b"two\n"), (TUESDAY, b"three\n")]

    def meanwhile(descriptor: int) -> None:
        while late:
            files.append(*late.pop(0))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", meanwhile)
    files.sync()
    assert held_open(storage.directory / "log") == [f"{MONDAY}.web.jsonl", f"{TUESDAY}.web.jsonl"]
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(Path(f"/proc/self/fd/{number}").readlink().name))
    files.sync()
    assert synced == [f"{MONDAY}.web.jsonl", f"{TUESDAY}.web.jsonl", "log"]
    assert held_open(storage.directory / "log") == [f"{TUESDAY}.web.jsonl"]


def test_after_a_failed_sync_the_next_one_syncs_everything(
    storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = AuditFiles(storage, "log", "web")
    files.append(MONDAY, b"one\n")

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        files.sync()
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    files.sync()
    assert len(synced) == 2, "the file, and the folder, which is new"


def test_on_a_volume_no_file_stays_open_and_a_commit_makes_lines_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = volumes(tmp_path, 2)
    files = AuditFiles(ours, "log", "web")
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    files.append(MONDAY, b"one\n")
    files.sync()
    files.close()
    assert synced == []
    assert held_open(ours.directory / "log") == []
    monkeypatch.undo()
    ours.commit()
    theirs.reload()
    assert (theirs.directory / "log" / f"{MONDAY}.web.jsonl").read_bytes() == b"one\n"


# --- retention --------------------------------------------------------------------------------------------------


def log_files(*days: str, size: int = 100) -> list[LogFile]:
    return [LogFile(f"{day}.web.jsonl", size) for day in days]


def days_of(files: list[LogFile]) -> list[str]:
    return [file.day for file in files]


def test_files_older_than_the_retention_period_expire() -> None:
    files = log_files("2024-02-29", "2026-11-12", "2026-11-13", "2026-11-22", TODAY)
    assert days_of(expired(files, today=TODAY, days=10, limit=0)) == ["2024-02-29", "2026-11-12"]
    assert expired(files, today=TODAY, days=0, limit=0) == []
    assert expired(files, today=TODAY, days=999_999, limit=0) == []


def test_the_oldest_files_expire_when_the_total_size_is_too_large() -> None:
    files = log_files("2026-11-12", "2026-11-13", "2026-11-14", "2026-11-22", TODAY)
    assert days_of(expired(files, today=TODAY, days=0, limit=300)) == ["2026-11-12", "2026-11-13"]
    assert expired(files, today=TODAY, days=0, limit=500) == []


def test_files_of_today_and_yesterday_never_expire() -> None:
    files = log_files("2026-11-21", "2026-11-22", TODAY, "2026-11-24")
    assert days_of(expired(files, today=TODAY, days=1, limit=1)) == ["2026-11-21"]
