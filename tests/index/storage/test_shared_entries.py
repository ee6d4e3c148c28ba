"""All servers see small values at once, and exactly one caller adds a key."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path
from unittest.mock import Mock

import pytest

from ops.index.storage.shared_entries import FolderEntries

LATER = time.time() + 3600


def test_exactly_one_of_many_callers_adds_a_key(tmp_path: Path) -> None:
    servers = [FolderEntries(tmp_path / "entries") for _ in range(8)]
    won: list[bool] = []
    start = threading.Barrier(8)

    def add(server: FolderEntries) -> None:
        start.wait()
        won.append(server.add("jti/../x", "value", until=LATER))

    threads = [threading.Thread(target=add, args=(server,)) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 7 + [True]
    assert servers[0].get("jti/../x") == "value"
    assert [path.parent for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "entries"]


def test_an_added_entry_is_durable_with_its_name_and_that_of_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else an ID token could be spent again after a crash."""
    synced = []
    sync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    assert FolderEntries(tmp_path / "new" / "entries").add("a", "value", until=LATER)
    folders = [tmp_path, tmp_path / "new", tmp_path / "new" / "entries" / "a", tmp_path / "new" / "entries"]
    assert synced == folders


def test_an_entry_that_could_not_be_stored_can_be_added_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = FolderEntries(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", Mock(side_effect=OSError(errno.ENOSPC, "full")))
        with pytest.raises(OSError, match="full"):
            entries.add("a", "value", until=LATER)
    assert entries.get("a") is None
    assert entries.add("a", "value", until=LATER)


def test_an_expired_entry_is_not_returned_and_its_file_is_removed(tmp_path: Path) -> None:
    now = LATER
    entries = FolderEntries(tmp_path, clock=lambda: now)
    entries.put("a", "first", until=LATER + 5)
    entries.put("a", "second\nline", until=LATER + 10)
    assert entries.get("a") == "second\nline"
    now = LATER + 10
    assert entries.get("a") is None
    now = LATER + 100
    entries.put("b", "", until=LATER + 200)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_removed_entry_is_gone_and_removing_it_again_does_nothing(tmp_path: Path) -> None:
    entries = FolderEntries(tmp_path / "entries", clock=lambda: LATER)
    assert entries.get("a") is None
    assert not entries.remove("a")
    entries.add("a", "value", until=LATER + 1)
    assert entries.remove("a")
    assert entries.get("a") is None
    assert entries.add("a", "value", until=LATER + 1)
