"""The audit log records events, never contains a secret, and never makes a request fail."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ops.index.auth.audit import ADMIN_FOLDER, SERVER_FOLDER, Audit, masked_name
from ops.index.auth.users import Users
from ops.index.config import Options
from ops.index.errors import StorageError
from ops.index.storage.directory import DirectoryStorage
from tests.index.conftest import FakeClock
from tests.index.credentials_volume import Volume, volumes
from tests.index.full_disk import fill
from tests.index.serving import eventually

EVENING = datetime(2026, 11, 23, 23, 59, 30, tzinfo=UTC).timestamp()


@pytest.fixture
def storage(tmp_path: Path) -> DirectoryStorage:
    return DirectoryStorage(tmp_path / "packages")


def entries(storage: DirectoryStorage | Volume, folder: str = SERVER_FOLDER) -> list[dict[str, Any]]:
    files = sorted(path for path in (storage.directory / folder).glob("*.jsonl") if path.is_file())
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_a_line_has_time_event_user_address_and_details(storage: DirectoryStorage) -> None:
    audit = Audit(storage, clock=FakeClock(EVENING))
    audit.record(
        "upload", user="alice", address="192.0.2.1", project="spam", filename="spam-1.tar.gz", size=5, tags={"a"}
    )
    assert entries(storage) == [
        {
            "time": "2026-11-23T23:59:30.000Z",
            "event": "upload",
            "user": "alice",
            "address": "192.0.2.1",
            "project": "spam",
            "filename": "spam-1.tar.gz",
            "size": 5,
            "tags": ["a"],
        }
    ]


def test_each_day_and_server_has_one_append_only_file(storage: DirectoryStorage) -> None:
    clock = FakeClock(EVENING)
    one, two = (Audit(storage, options=Options(instance="web/1"), clock=clock) for _ in range(2))
    one.record("upload", user="a", address="")
    before = {path.name: path.read_bytes() for path in (storage.directory / SERVER_FOLDER).iterdir()}
    two.record("upload", user="b", address="")
    clock.now += 60
    one.record("upload", user="c", address="")
    names = sorted(path.name for path in (storage.directory / SERVER_FOLDER).iterdir())
    assert [name.split(".")[0] for name in names] == ["2026-11-23", "2026-11-23", "2026-11-24"]
    assert all(".web-1-" in name for name in names)
    for name, content in before.items():
        assert (storage.directory / SERVER_FOLDER / name).read_bytes() == content


def test_a_change_is_synced_at_once_and_a_refusal_is_not(
    storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    audit = Audit(storage)
    audit.record("upload", user="a", address="")
    audit.record("upload", user="b", address="")
    assert len(synced) == 3  # the file, the folder that now has it, and the file again
    synced.clear()
    audit.record("login.refused", user="a", address="")
    audit.flush()
    assert not synced
    audit.close()
    assert len(synced) == 1
    assert [entry["event"] for entry in entries(storage)] == ["upload", "upload", "login.refused"]


def test_a_line_recorded_without_sync_is_synced_with_the_next_commit(
    storage: DirectoryStorage, count_calls: Callable[[object, str], list[tuple[Any, ...]]]
) -> None:
    audit = Audit(storage, clock=FakeClock(EVENING))
    audit.note("upload", user="alice", address="192.0.2.1")
    synced = count_calls(os, "fsync")
    storage.commit()
    log = next((storage.directory / ".index" / "audit").iterdir())
    assert len(synced) == 3, "the log, its folder, which is new, and the directory"
    audit.note("upload", user="alice", address="192.0.2.1")
    storage.commit()
    assert len(log.read_text().splitlines()) == 2
    assert len(synced) == 5


@pytest.mark.parametrize("shared", [False, True])
def test_a_line_that_could_not_be_written_is_part_of_the_next_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    """A removal on a full disk frees the space for its own line."""
    storage = volumes(tmp_path, 1)[0] if shared else DirectoryStorage(tmp_path)
    audit = Audit(storage, ADMIN_FOLDER, clock=FakeClock(EVENING))

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        audit.record("remove", user="adam", address="")
    assert entries(storage, ADMIN_FOLDER) == []
    storage.commit()
    assert [line["event"] for line in entries(storage, ADMIN_FOLDER)] == ["remove"]


def test_a_flood_of_refusals_is_summarized_in_a_few_lines(storage: DirectoryStorage) -> None:
    clock = FakeClock(EVENING)
    audit = Audit(storage, clock=clock)
    for number in range(5000):
        audit.record("login.refused", user=f"u{number % 500}", address="192.0.2.1")
        clock.now += 0.005
    clock.now += 60
    audit.close()
    lines = entries(storage)
    assert len(lines) < 200
    counted = sum(1 + entry.get("more", 0) - ("more" in entry) for entry in lines if "others" not in entry)
    assert counted + sum(entry.get("others", 0) for entry in lines) == 5000


def test_refusals_of_one_user_for_different_reasons_are_not_counted_together(storage: DirectoryStorage) -> None:
    audit = Audit(storage, clock=FakeClock(EVENING))
    for why in ({}, {"why": "an empty password"}, {}, {"why": "an empty password"}):
        audit.record("login.refused", user="alice", address="192.0.2.1", **why)
    audit.close()
    assert [(entry.get("why"), entry.get("more")) for entry in entries(storage)] == [
        (None, None),
        ("an empty password", None),
        (None, 1),
        ("an empty password", 1),
    ]


def test_a_refusal_is_written_soon_even_without_further_events(storage: DirectoryStorage) -> None:
    audit = Audit(storage)
    audit.record("login.refused", user="alice", address="192.0.2.1")
    eventually(lambda: entries(storage) != [])  # closing would write it anyway
    audit.close()
    assert [entry["user"] for entry in entries(storage)] == ["alice"]


def test_concurrent_refusals_start_one_writer(storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []

    class SlowThread(threading.Thread):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            started.append(str(named.get("name")))
            time.sleep(0.05)
            super().__init__(*arguments, **named)

    audit = Audit(storage)
    barrier = threading.Barrier(8)

    def refuse(number: int) -> None:
        barrier.wait()
        audit.record("login.refused", user=f"u{number}", address="")

    threads = [threading.Thread(target=refuse, args=(number,)) for number in range(8)]
    monkeypatch.setattr(threading, "Thread", SlowThread)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    audit.close()
    assert started == ["audit"]
    assert len(entries(storage)) == 8


def test_recording_a_refusal_does_not_fail_the_request_if_no_thread_can_be_started(
    storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    audit = Audit(storage)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        audit.record("login.refused", user="a", address="")
    audit.close()
    assert [entry["user"] for entry in entries(storage)] == ["a"]


def test_a_refusal_after_close_is_still_written_soon(storage: DirectoryStorage) -> None:
    audit = Audit(storage)
    audit.record("login.refused", user="a", address="")
    audit.close()
    audit.record("login.refused", user="b", address="")
    eventually(lambda: [entry["user"] for entry in entries(storage)] == ["a", "b"])
    audit.close()


def test_a_secret_passed_by_mistake_is_masked(storage: DirectoryStorage) -> None:
    audit = Audit(storage)
    audit.record(
        "user.changed", user="a", address="", password="canary", auth_token="canary", Authorization="canary",
        password_hash="canary", password_changed=True,
    )  # fmt: skip
    (entry,) = entries(storage)
    assert "canary" not in str(entry)
    assert entry["password_changed"] is True


def test_an_unknown_name_is_masked_because_it_may_be_a_password() -> None:
    assert masked_name("correct horse battery") == "co… (unknown, 21 characters)"
    assert masked_name("") == ""


def test_a_full_disk_is_logged_once_and_fails_no_request(
    storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    audit = Audit(storage)
    audit.record("upload", user="first", address="")

    def full(_descriptor: int, _content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    for _ in range(3):
        audit.record("upload", user="late", address="")
    assert [entry["user"] for entry in entries(storage)] == ["first"]
    monkeypatch.undo()
    audit.record("upload", user="after", address="")
    assert [entry["user"] for entry in entries(storage)] == ["first", "late", "late", "late", "after"]
    assert sum("cannot be written" in record.getMessage() for record in caplog.records) == 1


def test_the_number_of_lines_waiting_in_memory_is_bounded(
    storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int, _content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ops.index.auth.audit._MAX_UNWRITTEN", 3)
    audit = Audit(storage)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        for number in range(5):
            audit.record("upload", user=f"u{number}", address="")
    audit.record("upload", user="after", address="")
    assert [entry["user"] for entry in entries(storage)] == ["u0", "u1", "u2", "after"]


def test_a_line_that_does_not_fit_leaves_no_partial_line(
    storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = Audit(storage)
    audit.record("upload", user="first", address="")
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: real(descriptor, content[:10]))
    audit.record("upload", user="torn", address="")
    assert [entry["user"] for entry in entries(storage)] == ["first"]
    monkeypatch.undo()
    audit.record("upload", user="after", address="")
    assert [entry["user"] for entry in entries(storage)] == ["first", "torn", "after"]


def test_a_folder_that_cannot_be_created_fails_no_request(storage: DirectoryStorage) -> None:
    (storage.directory / ".index").write_text("in the way")
    Audit(storage).record("upload", user="a", address="")


def test_lines_of_several_threads_stay_whole(storage: DirectoryStorage) -> None:
    audit = Audit(storage)

    def record(number: int) -> None:
        for _ in range(50):
            audit.record("upload", user=f"u{number}", address="", filename="x" * 300)

    threads = [threading.Thread(target=record, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(entries(storage)) == 300


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.text(),
    st.text(),
    st.dictionaries(st.text(), st.one_of(st.text(), st.floats(), st.none(), st.binary(), st.lists(st.text()))),
)
def test_any_values_become_one_line_of_json(
    storage: DirectoryStorage, user: str, address: str, details: dict[str, Any]
) -> None:
    for key in ("event", "user", "address", "self"):
        details.pop(key, None)
    before = len(entries(storage)) if (storage.directory / SERVER_FOLDER).exists() else 0
    Audit(storage).record("upload", user=user, address=address, **details)
    assert len(entries(storage)) == before + 1


def test_a_user_change_is_committed_with_its_line_and_a_failed_one_is_recorded(tmp_path: Path) -> None:
    ours, theirs = volumes(tmp_path, 2)
    users = Users(ours, Options(bcrypt_rounds=4), audit=Audit(ours, ADMIN_FOLDER))
    users.register("alice", password="correct horse battery", actor="admin token", address="192.0.2.9")
    ours.failures.append(RuntimeError("the volume is away"))
    with pytest.raises(StorageError, match="away"):
        users.remove("alice", actor="admin token")
    users.remove("alice", actor="admin token")
    users.remove("alice", actor="admin token")
    theirs.reload()
    seen = [(entry["event"], entry["user"], entry["actor"]) for entry in entries(theirs, ADMIN_FOLDER)]
    assert seen == [
        ("user.created", "alice", "admin token"),
        ("user.removed", "alice", "admin token"),
        ("user.change_failed", "alice", "admin token"),
        ("user.removed", "alice", "admin token"),
    ]
    assert "correct horse" not in str(entries(theirs, ADMIN_FOLDER))


def test_the_line_of_a_user_change_is_written_before_the_change(
    storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a killed server would leave a change without a line."""
    users = Users(storage, Options(bcrypt_rounds=4), audit=Audit(storage, ADMIN_FOLDER))
    seen: list[list[str]] = []
    replace = Path.replace

    def look_and_replace(path: Path, target: Path) -> Path:
        seen.append([entry["event"] for entry in entries(storage, ADMIN_FOLDER)])
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", look_and_replace)
    users.register("alice", password="correct horse battery")
    users.remove("alice")
    assert seen == [["user.created"]] * 2 + [["user.created", "user.removed"]] * 2


def test_nothing_is_written_while_a_volume_reloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line would be lost, or make the reload fail."""
    (ours,) = volumes(tmp_path, 1)
    audit = Audit(ours, ADMIN_FOLDER)
    writer = threading.Thread(target=lambda: audit.record("upload", user="a", address=""))
    found: list[bool] = []

    def slow_pull() -> None:
        writer.start()
        writer.join(0.1)
        found.append((ours.directory / ADMIN_FOLDER).exists())

    monkeypatch.setattr(ours, "pull", slow_pull)
    ours.reload()
    writer.join()
    assert found == [False]
    assert [entry["user"] for entry in entries(ours, ADMIN_FOLDER)] == ["a"]


# --- retention and full disks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [SERVER_FOLDER, ADMIN_FOLDER])
def test_the_first_line_of_a_day_removes_expired_files_and_records_that(tmp_path: Path, folder: str) -> None:
    storage, clock = DirectoryStorage(tmp_path), FakeClock(EVENING)
    audit = Audit(storage, folder, options=Options(audit_days=2, instance="web"), clock=clock)
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "2026-11-20.other.jsonl").write_text("{}\n")
    (tmp_path / folder / "notes.txt").write_text("an operator's own")
    audit.record("upload", user="alice", address="")
    names = sorted(path.name for path in (tmp_path / folder).iterdir())
    assert "2026-11-20.other.jsonl" not in names
    assert "notes.txt" in names
    assert [line["event"] for line in entries(storage, folder)] == ["upload", "audit.expired"]
    assert entries(storage, folder)[1]["files"] == ["2026-11-20.other.jsonl"]
    for _ in range(5):
        clock.now += 86400
        audit.record("yank", user="alice", address="")
    assert sorted({str(line["time"])[:10] for line in entries(storage, folder)}) == [
        "2026-11-26",
        "2026-11-27",
        "2026-11-28",
    ]


def test_an_expired_file_that_cannot_be_removed_fails_no_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = Audit(DirectoryStorage(tmp_path), options=Options(audit_days=1), clock=FakeClock(EVENING))
    old = tmp_path / SERVER_FOLDER / "2026-11-01.web.jsonl"
    old.mkdir(parents=True)  # unlink fails on a folder
    audit.record("upload", user="alice", address="")
    assert old.exists()
    assert "upload" in [line["event"] for line in entries(DirectoryStorage(tmp_path))]


def test_on_a_volume_expired_files_are_gone_for_others_after_the_next_commit(tmp_path: Path) -> None:
    ours, theirs = volumes(tmp_path, 2)
    clock = FakeClock(EVENING)
    Audit(theirs, ADMIN_FOLDER, options=Options(audit_days=2), clock=clock).record("upload", user="alice", address="")
    theirs.commit()
    clock.now += 10 * 86400
    ours.reload()
    assert len(list((ours.directory / ADMIN_FOLDER).glob("2026-11-23.*"))) == 1
    Audit(ours, ADMIN_FOLDER, options=Options(audit_days=2), clock=clock).record("yank", user="alice", address="")
    ours.commit()
    theirs.reload()
    assert not list((theirs.directory / ADMIN_FOLDER).glob("2026-11-23.*"))


def on_a_full_disk(disk: Path) -> tuple[DirectoryStorage, Audit]:
    """A log with one line, and with reserved space only."""
    storage = DirectoryStorage(disk)
    audit = Audit(storage, clock=FakeClock(EVENING))
    audit.hold_back()
    audit.record("first", user="alice", address="")
    fill(disk)
    return storage, audit


def test_a_full_disk_loses_no_line_about_a_change(small_disk: Path) -> None:
    storage, audit = on_a_full_disk(small_disk)
    for number in range(100):
        audit.record("yank", user="alice", address="", number=number)
    assert [line.get("number") for line in entries(storage)] == [None, *range(100)]


def test_refused_logins_do_not_use_the_reserved_space(small_disk: Path) -> None:
    storage, audit = on_a_full_disk(small_disk)
    for number in range(60):
        audit.record("login.refused", user=f"user-{number}", address="192.0.2.1", why="x" * 400)
    audit.flush()
    assert [line["event"] for line in entries(storage)] == ["first"]
    audit.record("remove", user="adam", address="")
    assert [line["event"] for line in entries(storage)] == ["first", "remove"]


def test_lines_without_any_space_are_written_once_there_is_some(small_disk: Path) -> None:
    storage = DirectoryStorage(small_disk)
    audit = Audit(storage, clock=FakeClock(EVENING))
    give_back = fill(small_disk)
    for number in range(3):
        audit.record("yank", user="alice", address="", number=number)
    assert entries(storage) == []
    give_back()
    audit.sync()
    assert [line["number"] for line in entries(storage)] == [0, 1, 2]
    audit.record("yank", user="alice", address="", number=3)
    assert [line["number"] for line in entries(storage)] == [0, 1, 2, 3]
