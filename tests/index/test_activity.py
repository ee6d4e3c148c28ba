"""Downloads are counted by hour, file, user, address and client, and written once a minute."""

from __future__ import annotations

import errno
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ops.index import activity
from ops.index.activity import FOLDER, Activity, client_family
from ops.index.auth.audit_files import AuditFiles
from ops.index.config import Options
from ops.index.errors import StorageError
from ops.index.storage.directory import DirectoryStorage
from ops.targets.index_files import Downloads, download_counts
from tests.index.conftest import FakeClock
from tests.index.volume import Remote, Volume

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
PIP = b'pip/26.3 {"ci":null}'


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOON.timestamp())


@pytest.fixture
def storage(tmp_path: Path) -> DirectoryStorage:
    (tmp_path / "packages").mkdir()
    return DirectoryStorage(tmp_path / "packages")


def written(directory: Path) -> list[Downloads]:
    """All counts in the files of all servers."""
    return [row for path in sorted((directory / FOLDER).glob("*.jsonl")) for row in download_counts(path.read_bytes())]


def test_equal_downloads_of_one_hour_are_one_line(storage: DirectoryStorage, clock: FakeClock) -> None:
    counts = Activity(storage, Options(), clock=clock)
    for address in ("192.0.2.1", "192.0.2.1", "192.0.2.2"):
        counts.count("spam-1.0.tar.gz", user="alice", address=address, agent=PIP)
    clock.now += 60
    counts.write()
    assert written(storage.directory) == [
        Downloads(NOON, "spam-1.0.tar.gz", "alice", "192.0.2.1", "pip", 2),
        Downloads(NOON, "spam-1.0.tar.gz", "alice", "192.0.2.2", "pip", 1),
    ]
    assert counts.downloads == {"pip": 3}


def test_nothing_is_written_before_a_minute_has_passed(storage: DirectoryStorage, clock: FakeClock) -> None:
    counts = Activity(storage, Options(), clock=clock)
    counts.count("spam-1.0.tar.gz", user="alice", address="192.0.2.1", agent=PIP)
    clock.now += 59
    counts.write()
    assert written(storage.directory) == []
    counts.close()
    assert [row.downloads for row in written(storage.directory)] == [1]


def test_a_user_without_downloads_is_recorded_once_an_hour(storage: DirectoryStorage, clock: FakeClock) -> None:
    counts = Activity(storage, Options(), active_users=lambda: {"bob"}, clock=clock)
    for _ in range(3):
        clock.now += 60
        counts.write()
    clock.now += 3600
    counts.write()
    assert [(row.hour.hour, row.user, row.file) for row in written(storage.directory)] == [
        (12, "bob", ""),
        (13, "bob", ""),
    ]


def test_counts_are_kept_while_they_cannot_be_written(
    storage: DirectoryStorage, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = Activity(storage, Options(), clock=clock)
    counts.count("spam-1.0.tar.gz", user="alice", address="192.0.2.1", agent=PIP)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(AuditFiles, "append", full)
        clock.now += 60
        with pytest.raises(StorageError):
            counts.write()
    counts.count("spam-1.0.tar.gz", user="alice", address="192.0.2.1", agent=PIP)
    clock.now += 60
    counts.write()
    assert [row.downloads for row in written(storage.directory)] == [2]


def test_many_addresses_and_names_take_bounded_memory_and_lose_no_download(
    storage: DirectoryStorage, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activity, "_MOST_ROWS", 10)
    counts = Activity(storage, Options(), clock=clock)
    for number in range(100):
        counts.count(f"{number}.whl", user="alice", address=f"192.0.2.{number}", agent=PIP)
    counts.close()
    rows = written(storage.directory)
    assert len(rows) == 21
    assert sum(row.downloads for row in rows) == 100


def test_a_volume_is_committed_at_most_once_an_hour(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = Volume(Remote(tmp_path / "remote"), tmp_path / "view")
    commits = []
    commit = volume.commit

    def counted() -> None:
        commits.append(clock.now)
        commit()

    monkeypatch.setattr(volume, "commit", counted)
    counts = Activity(volume, Options(), clock=clock)
    for _ in range(125):
        clock.now += 60
        counts.count("spam-1.0.tar.gz", user="alice", address="192.0.2.1", agent=PIP)
        counts.write()
    assert len(commits) == 2


def test_files_expire_with_those_of_the_audit_log(storage: DirectoryStorage, clock: FakeClock) -> None:
    counts = Activity(storage, Options(audit_days=7), clock=clock)
    for _ in range(10):
        counts.count("spam-1.0.tar.gz", user="alice", address="192.0.2.1", agent=PIP)
        clock.now += 24 * 3600
        counts.write()
    assert len(list((storage.directory / FOLDER).iterdir())) == 8


def test_hostile_names_stay_on_their_line_and_are_truncated(storage: DirectoryStorage, clock: FakeClock) -> None:
    counts = Activity(storage, Options(), clock=clock)
    counts.count("a\n{}\udcff" + "b" * 9000, user="eve\r\n", address="", agent=b"\xff\n")
    counts.close()
    (line,) = next((storage.directory / FOLDER).iterdir()).read_bytes().splitlines()
    assert len(line) < 700
    assert json.loads(line)["user"] == "eve\r\n"
    assert [row.client for row in download_counts(line)] == ["other"]


def test_damaged_lines_are_skipped() -> None:
    good = b'{"hour": "2026-01-31T12", "file": "a.whl", "count": 2}'
    bad = [b"", b"[]", b"{", b'{"hour": 3}', b'{"hour": "2026-01-31T12", "count": "x"}', b"\xff", b"[" * 100_000]
    assert [row.downloads for row in download_counts(b"\n".join([*bad, good]))] == [2]


@pytest.mark.parametrize(
    ("agent", "family"),
    [
        ('pip/26.3 {"python":"3.12"}', "pip"),
        ("uv/0.13.9", "uv"),
        ("poetry/2.1.0 CPython", "poetry"),
        ("Mozilla/5.0 (X11; Linux x86_64)", "browser"),
        ("evil/1.0", "other"),
        ("", "other"),
    ],
)
def test_a_client_is_identified_by_the_first_word_of_its_user_agent(agent: str, family: str) -> None:
    assert client_family(agent) == family
