"""Backups: only new bytes are copied, a snapshot shows one moment, and a killed run does no harm."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ops.errors import BucketError, RunbookError, SnapshotError
from ops.settings import CREDENTIALS_VOLUME, PACKAGES_VOLUME
from ops.snapshots import Backup, Bucket, Retention
from ops.workspace import PROJECT_ROOT
from tests.index import full_disk
from tests.snapshots.conftest import Counting, Index, Killed, sha256

pytest_plugins = ["tests.object_store"]

MUTATING = ("put_blob", "put_snapshot", "delete_blob", "delete_snapshot")


def tomorrow() -> datetime:
    return datetime.now(UTC) + timedelta(days=1)


def test_a_snapshot_has_every_file_annotation_tombstone_user_and_role(backup: Backup, bucket: Bucket) -> None:
    snapshot, new = backup.take()
    assert new
    assert set(snapshot.packages) == {
        "spam-1.0.tar.gz",
        "spam-2.0.tar.gz",
        ".index/yanked/spam-1.0.tar.gz",
        ".index/status/spam",
        ".index/removed/3f",
        ".index/audit/2026-01-01.1-abc.jsonl",
    }
    assert set(snapshot.credentials) == {".htpasswd", ".htgroup"}
    assert snapshot.packages["spam-1.0.tar.gz"].sha256 == sha256(b"spam 1.0")
    assert set(bucket.blobs()) == {item.sha256 for _, item in snapshot.blobs()}
    assert backup.check(snapshot) == (3, 3)


def test_a_second_run_on_the_same_day_changes_nothing(backup: Backup, index: Index) -> None:
    first, _ = backup.take()
    assert backup.is_complete(backup.pending())
    assert backup.take() == (first, False)
    index.write(".index/audit/2026-01-01.1-abc.jsonl", b'{"event": "login.refused"}\n')
    index.write(".index/activity/2026-01-01.1-abc.jsonl", b'{"hour": "2026-01-01T12", "user": "alice"}\n')
    assert backup.is_complete(backup.pending()), "a longer log is not a change of the index"
    assert not backup.take()[1]
    index.write("spam-3.0.tar.gz", b"spam 3.0")
    pending = backup.pending()
    assert (pending.new, pending.new_size, pending.gone) == (1, 8, 0)


def test_the_next_night_without_changes_copies_no_blob(index: Index, bucket: Bucket, backup: Backup) -> None:
    first, _ = backup.take()
    counting = Counting(bucket, ("put_blob",))
    reader = Counting(index, ("download",))
    later = Backup(reader, counting, "local", clock=tomorrow)  # type: ignore[arg-type]  # proxies
    second, new = later.take()
    assert new
    assert second.same_content(first)
    assert counting.calls == 0
    assert reader.calls == 5, "only the small files are read"
    assert later.check(second, first) == (3, 0)


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index.write(".index/yanked/spam-1.0.tar.gz", b"too bad"),
        lambda index: index.delete_file(PACKAGES_VOLUME, "spam-1.0.tar.gz"),
        lambda index: index.write(".htpasswd", b"carol:x\n", CREDENTIALS_VOLUME),
        lambda index: index.write(".tokens.json", b"{}", CREDENTIALS_VOLUME),
    ],
)
def test_every_change_causes_another_snapshot_on_the_same_day(
    backup: Backup, index: Index, change: Callable[[Index], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = backup.take()
    monkeypatch.setattr(backup, "_clock", lambda: first.taken + timedelta(seconds=1))
    change(index)
    assert not backup.is_complete(backup.pending())
    second, new = backup.take()
    assert new
    assert not second.same_content(first)


def test_the_upload_time_shown_by_the_index_is_kept(backup: Backup, index: Index) -> None:
    fact = {"sha256": sha256(b"spam 1.0"), "upload_time": 12.5}
    index.write(".index/facts/spam-1.0.tar.gz", json.dumps(fact).encode() + b"\nName: spam")
    index.write(".index/facts/spam-2.0.tar.gz", json.dumps({**fact, "sha256": "0"}).encode())
    snapshot, _ = backup.take()
    assert snapshot.packages["spam-1.0.tar.gz"].uploaded == 12.5
    assert snapshot.packages["spam-2.0.tar.gz"].uploaded is None


@pytest.mark.parametrize("read", [True, False])
def test_files_added_and_removed_meanwhile_do_no_harm(index: Index, bucket: Bucket, read: bool) -> None:
    class Busy:
        """An index with an upload before each read of a file, and a removal before or after it."""

        count = 0

        def __getattr__(self, name: str) -> object:
            return getattr(index, name)

        def download(self, volume: str, path: str, destination: Path) -> None:
            self.count += 1
            index.write(f"eggs-{self.count}.tar.gz", b"eggs")
            if path == "spam-1.0.tar.gz":
                if read:
                    index.download(volume, path, destination)
                index.delete_file(volume, path)
                index.write(".index/removed/aa", f"{sha256(b'spam 1.0')} spam-1.tar.gz\n".encode())
                if read:
                    return
            index.download(volume, path, destination)

    backup = Backup(Busy(), bucket, "local")  # type: ignore[arg-type]  # a proxy
    snapshot, _ = backup.take()
    assert "spam-1.0.tar.gz" not in snapshot.packages
    assert ".index/removed/aa" in snapshot.packages, "the removed file is recorded as removed"
    assert "spam-2.0.tar.gz" in snapshot.packages
    backup.check(snapshot)


def test_users_and_roles_are_consistent(index: Index, bucket: Bucket) -> None:
    class Changing:
        """An index whose users change once, between the reads of their two files."""

        changed = False

        def __getattr__(self, name: str) -> object:
            return getattr(index, name)

        def download(self, volume: str, path: str, destination: Path) -> None:
            index.download(volume, path, destination)
            if path == ".htgroup" and not self.changed:
                self.changed = True
                index.write(".htgroup", b"admin: bob\n", CREDENTIALS_VOLUME)
                index.write(".htpasswd", b"bob:other\n", CREDENTIALS_VOLUME)

    snapshot, _ = Backup(Changing(), bucket, "local").take()  # type: ignore[arg-type]  # a proxy
    assert snapshot.credentials[".htgroup"].content == b"admin: bob\n"
    assert snapshot.credentials[".htpasswd"].content == b"bob:other\n"


def run(index: Index, bucket: object, clock: Callable[[], datetime] = tomorrow) -> None:
    backup = Backup(index, bucket, "local", clock=clock)  # type: ignore[arg-type]  # a proxy
    before = backup.last()
    snapshot, new = backup.take()
    if new:
        backup.check(snapshot, before)
    backup.prune(Retention(1, 0, 0))


def test_a_run_killed_at_any_step_and_repeated_ends_the_same(index: Index, tmp_path: Path) -> None:
    def prepared(name: str) -> Bucket:
        bucket = Bucket.open(str(tmp_path / name), create=True)
        index.delete_file(PACKAGES_VOLUME, "new-1.tar.gz")
        old = index.write("old-1.tar.gz", b"old")
        Backup(index, bucket, "local", clock=lambda: datetime(2026, 1, 1, tzinfo=UTC)).take()
        old.unlink()
        for blob in (tmp_path / name / "blobs").iterdir():
            os.utime(blob, (0, 0))
        index.write("new-1.tar.gz", b"new")
        return bucket

    def ended(bucket: Bucket) -> tuple[set[str], int]:
        (name,) = bucket.snapshots()
        return set(bucket.blobs()), name.count("T")

    whole = Counting(prepared("whole"), MUTATING)
    run(index, whole)
    assert whole.calls == 4, "a blob, a snapshot, the old snapshot and its blob"
    expected = ended(whole._real)
    for fatal in range(whole.calls):
        for after in (False, True):
            bucket = prepared(f"{fatal}-{after}")
            with pytest.raises(Killed):
                run(index, Counting(bucket, MUTATING, fatal, after=after))
            for name in bucket.snapshots():
                Backup(index, bucket, "local").check(Backup(index, bucket, "local").last() or pytest.fail(name))
            run(index, bucket)
            assert ended(bucket) == expected, f"killed {'after' if after else 'before'} step {fatal}"


def test_what_a_killed_run_had_begun_to_write_is_deleted_after_a_day(index: Index, tmp_path: Path) -> None:
    bucket = Bucket.open(str(tmp_path / "bucket"), create=True)
    run(index, bucket)
    begun, running = (tmp_path / "bucket" / "blobs" / f"{'0' * 64}#{number}" for number in (1, 2))
    for path in (begun, running):
        path.write_bytes(b"half of it")
    os.utime(begun, (0, 0))
    run(index, bucket, lambda: datetime.now(UTC))
    assert not begun.exists()
    assert running.exists(), "another run may be writing it"


def test_a_blob_of_another_snapshot_survives_retention(index: Index, bucket: Bucket, tmp_path: Path) -> None:
    january = datetime(2026, 1, 1, tzinfo=UTC)
    Backup(index, bucket, "local", clock=lambda: january).take()
    index.delete_file(PACKAGES_VOLUME, "spam-1.0.tar.gz")
    other = Backup(index, bucket, "modal.main", clock=lambda: january + timedelta(days=1))
    other.take()
    for blob in (tmp_path / "snapshots" / "blobs").iterdir():
        os.utime(blob, (0, 0))
    backup = Backup(index, bucket, "local", clock=lambda: january + timedelta(days=2))
    backup.take()
    expired, deleted = backup.prune(Retention(1, 0, 0))
    assert (expired, deleted) == (["2026-01-01T00-00-00Z"], 1)
    assert sha256(b"spam 1.0") not in bucket.blobs()
    assert bucket.snapshots() == ["2026-01-02T00-00-00Z", "2026-01-03T00-00-00Z"], (
        "other indexes are counted separately"
    )
    other.check(other.last() or pytest.fail("gone"))


def test_with_an_unreadable_snapshot_no_blob_is_deleted(backup: Backup, bucket: Bucket, tmp_path: Path) -> None:
    backup.take()
    (tmp_path / "snapshots" / "snapshots" / "2026-01-01T00-00-00Z.json").write_text("{")
    waste = tmp_path / "snapshots" / "blobs" / ("0" * 64)
    waste.write_bytes(b"")
    os.utime(waste, (0, 0))
    with pytest.raises(SnapshotError, match="is damaged"):
        backup.prune(Retention())
    assert waste.exists()


def test_a_missing_index_is_not_mistaken_for_an_empty_one(empty: Index, bucket: Bucket) -> None:
    with pytest.raises(RunbookError, match="there is no volume"):
        Backup(empty, bucket, "local").take()
    assert bucket.snapshots() == []


def test_an_unreadable_file_ends_the_run_without_a_snapshot(
    backup: Backup, index: Index, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RunbookError("could not copy", why="Input/output error")

    monkeypatch.setattr(index, "download", refuse)
    with pytest.raises(RunbookError, match="could not copy"):
        backup.take()
    assert bucket.snapshots() == []


def test_a_bucket_gets_the_same_snapshot(index: Index, s3: Callable[[str], str]) -> None:
    bucket = Bucket.open(s3("backup"))
    backup = Backup(index, bucket, "local")
    snapshot, _ = backup.take()
    assert backup.check(snapshot, thorough=True) == (3, 3)
    assert backup.take() == (snapshot, False)


def test_a_full_disk_ends_the_run_with_a_sentence_and_the_next_one_continues(index: Index, tmp_path: Path) -> None:
    large = index.write("large-1.0.tar.gz", os.urandom(300_000))
    with full_disk.mounted(tmp_path / "small", "1m") as disk:
        disk.chmod(0o700)
        give_back = full_disk.fill(disk, leave=200_000)
        bucket = Bucket.open(str(disk))
        with pytest.raises(BucketError, match="could not write to") as raised:
            Backup(index, bucket, "local").take()
        assert "No space left on device" in raised.value.why
        assert raised.value.todo.startswith("free some space there")
        assert bucket.snapshots() == []
        give_back()
        snapshot, new = Backup(index, bucket, "local").take()
        assert new
        assert Backup(index, bucket, "local").check(snapshot)
        assert snapshot.packages["large-1.0.tar.gz"].sha256 == sha256(large.read_bytes())


def test_a_run_ended_by_a_signal_does_not_affect_the_next_one(index: Index, bucket: Bucket, tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from ops.snapshots import Backup, Bucket\n"
        "from tests.snapshots.conftest import make_index\n"
        "from pathlib import Path\n"
        "put = Bucket.put_blob\n"
        "def put_and_die(*arguments):\n"
        "    put(*arguments)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "Bucket.put_blob = put_and_die\n"
        f"Backup(make_index(Path({str(tmp_path / 'index')!r})), Bucket.open({bucket.place!r}), 'local').take()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT_ROOT, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert bucket.snapshots() == []
    backup = Backup(index, bucket, "local")
    snapshot, _ = backup.take()
    assert backup.check(snapshot, thorough=True) == (3, 3)
    assert set(bucket.blobs()) == {item.sha256 for _, item in snapshot.blobs()}
