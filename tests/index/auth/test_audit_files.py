"""A journal's file only grows, is held open no longer than it may be, and comes back when somebody removes it."""

from __future__ import annotations

import errno
import gc
import os
from pathlib import Path

import pytest

from ops.index.auth.audit_files import AuditFiles
from ops.index.storage.storage import DirectoryStorage
from tests.index.credentials_volume import volumes

MONDAY, TUESDAY = "2026-11-23", "2026-11-24"


@pytest.fixture
def storage(tmp_path: Path) -> DirectoryStorage:
    (tmp_path / "volume").mkdir()
    return DirectoryStorage(tmp_path / "volume")


def held_open(folder: Path) -> list[str]:
    """The names of the files in *folder* that this process has open."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            path = entry.readlink()
        except OSError:
            continue
        if path.parent == folder:
            found.append(path.name.removesuffix(" (deleted)"))
    return sorted(found)


def test_lines_follow_each_other_in_one_file_a_day(storage: DirectoryStorage) -> None:
    journal = AuditFiles(storage, "log", "web")
    for day, line in ((MONDAY, b"one\n"), (MONDAY, b"two\n"), (TUESDAY, b"three\n")):
        journal.append(day, line)
    folder = storage.directory / "log"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        f"{MONDAY}.web.jsonl": b"one\ntwo\n",
        f"{TUESDAY}.web.jsonl": b"three\n",
    }


def test_a_file_of_yesterday_is_let_go_when_it_is_durable(storage: DirectoryStorage) -> None:
    journal, folder = AuditFiles(storage, "log", "web"), storage.directory / "log"
    journal.append(MONDAY, b"one\n")
    journal.append(TUESDAY, b"two\n")
    assert held_open(folder) == [f"{MONDAY}.web.jsonl", f"{TUESDAY}.web.jsonl"]
    journal.sync()
    assert held_open(folder) == [f"{TUESDAY}.web.jsonl"]
    journal.close()
    assert held_open(folder) == []
    journal.append(TUESDAY, b"three\n")
    assert (folder / f"{TUESDAY}.web.jsonl").read_bytes() == b"two\nthree\n"
    del journal
    gc.collect()
    assert held_open(folder) == []


def test_a_file_that_somebody_removes_is_begun_anew(storage: DirectoryStorage) -> None:
    journal, path = AuditFiles(storage, "log", "web"), storage.directory / "log" / f"{MONDAY}.web.jsonl"
    journal.append(MONDAY, b"one\n")
    path.unlink()
    journal.append(MONDAY, b"two\n")
    assert path.read_bytes() == b"two\n"
    path.unlink()
    path.parent.rmdir()
    journal.append(MONDAY, b"three\n")
    journal.sync()
    assert path.read_bytes() == b"three\n"
    assert held_open(path.parent) == [path.name]


def test_a_file_that_somebody_renames_is_left_to_them(storage: DirectoryStorage) -> None:
    journal, path = AuditFiles(storage, "log", "web"), storage.directory / "log" / f"{MONDAY}.web.jsonl"
    journal.append(MONDAY, b"one\n")
    path.rename(path.with_suffix(".old"))
    journal.append(MONDAY, b"two\n")
    journal.sync()
    assert path.read_bytes() == b"two\n"
    assert path.with_suffix(".old").read_bytes() == b"one\n"
    assert held_open(path.parent) == [path.name]


def test_a_line_that_comes_while_the_last_file_is_synced_is_synced_too(
    storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = AuditFiles(storage, "log", "web")
    journal.append(MONDAY, b"one\n")
    real, late = os.fsync, [(MONDAY, b"two\n"), (TUESDAY, b"three\n")]

    def meanwhile(descriptor: int) -> None:
        while late:
            journal.append(*late.pop(0))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", meanwhile)
    journal.sync()
    assert held_open(storage.directory / "log") == [f"{MONDAY}.web.jsonl", f"{TUESDAY}.web.jsonl"]
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(Path(f"/proc/self/fd/{number}").readlink().name))
    journal.sync()
    assert synced == [f"{MONDAY}.web.jsonl", f"{TUESDAY}.web.jsonl", "log"]
    assert held_open(storage.directory / "log") == [f"{TUESDAY}.web.jsonl"]


def test_what_could_not_be_synced_is_synced_the_next_time(
    storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = AuditFiles(storage, "log", "web")
    journal.append(MONDAY, b"one\n")

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        journal.sync()
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    journal.sync()
    assert len(synced) == 2, "the file, and the folder that is new"


def test_on_a_volume_no_file_stays_open_and_a_commit_makes_it_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = volumes(tmp_path, 2)
    journal = AuditFiles(ours, "log", "web")
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    journal.append(MONDAY, b"one\n")
    journal.sync()
    journal.close()
    assert synced == []
    assert held_open(ours.directory / "log") == []
    monkeypatch.undo()
    ours.commit()
    theirs.reload()
    assert (theirs.directory / "log" / f"{MONDAY}.web.jsonl").read_bytes() == b"one\n"
