"""A folder or bucket that fails, or holds something false: one sentence, and nothing is lost."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
import pytest

from ops.errors import BucketError, RunbookError, SnapshotError, TargetError
from ops.snapshots import Backup, Bucket, Retention, Snapshot
from ops.snapshots import bucket as module
from ops.snapshots.backup import read_snapshot
from ops.snapshots.origin import SnapshotOrigin, find_origin
from ops.snapshots.restoration import Restoration
from tests.index import full_disk
from tests.snapshots.conftest import Index, make_index, sha256

if TYPE_CHECKING:
    from tests.object_store import ObjectStore  # a plugin here, which is not to be imported twice

pytest_plugins = ["tests.object_store"]

DAMAGED = f"blobs/{sha256(b'spam 2.0')}"


@pytest.fixture
def s3_bucket(s3: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An empty bucket, whose requests are not repeated."""
    monkeypatch.setattr(module, "RETRIES", 0)
    return Bucket.open(s3(f"faults-{uuid.uuid4().hex}"))


@pytest.fixture(params=["folder", "s3"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Bucket:
    """An empty one of each kind."""
    if request.param == "folder":
        return Bucket.open(str(tmp_path / "snapshots"), create=True)
    found: Bucket = request.getfixturevalue("s3_bucket")
    return found


def replace_object(bucket: Bucket, path: str, content: bytes | None) -> None:
    """Replace or delete an object behind the back of the back-up."""
    if content is None:
        obstore.delete(bucket._store, path)
    else:
        obstore.put(bucket._store, path, content)


def restore(target: Index, bucket: Bucket, snapshot: Snapshot) -> None:
    restoration = Restoration(target, SnapshotOrigin(bucket, snapshot))
    restoration.carry_out(restoration.compare())


def sentences(error: RunbookError) -> str:
    """The text of an error: what, why and what to do, a line each."""
    assert [line.partition(":")[0] for line in str(error).splitlines()[1:]] == ["Why", "What to do"]
    return str(error)


def failing(store: ObjectStore, after: int, run: Callable[[], object]) -> BucketError | None:
    """The error of *run* if all requests after some fail; None if it needs no more."""
    store.fail(after=after)
    try:
        run()
    except BucketError as error:
        return error
    finally:
        store.failure = 0
    return None


@pytest.mark.parametrize(
    ("content", "what"),
    [(b"spam", "is incomplete"), (None, "is incomplete"), (b"SPAM 2.0", "is damaged")],
    ids=["truncated", "missing", "altered"],
)
def test_false_bytes_are_found_never_restored_and_stored_again_by_the_next_backup(
    content: bytes | None, what: str, index: Index, empty: Index, bucket: Bucket
) -> None:
    backup = Backup(index, bucket, "local")
    snapshot, _ = backup.take()
    replace_object(bucket, DAMAGED, content)
    with pytest.raises(SnapshotError, match=what) as found:
        backup.check(snapshot, snapshot, thorough=True)
    with pytest.raises(SnapshotError, match="is missing" if content is None else "is damaged") as refused:
        restore(empty, bucket, snapshot)
    assert DAMAGED.removeprefix("blobs/") in sentences(found.value)
    assert DAMAGED.removeprefix("blobs/") in sentences(refused.value)
    assert "pypiserver-data/spam-2.0.tar.gz" not in empty.tree()
    if content == b"SPAM 2.0":  # its size is right: the next back-up does not read it
        assert "delete it there" in refused.value.todo
        replace_object(bucket, DAMAGED, None)
    Backup(index, bucket, "local").take()
    backup.check(snapshot, thorough=True)
    restore(empty, bucket, snapshot)
    assert empty.tree()["pypiserver-data/spam-2.0.tar.gz"] == b"spam 2.0"


@pytest.mark.parametrize(
    ("lie", "why"),
    [({"size": 4}, "gives spam-2.0.tar.gz 4 bytes"), ({"sha256": "0" * 64}, "never arrived"), (None, "cut short")],
    ids=["size", "hash", "truncated"],
)
def test_a_snapshot_that_lies_restores_nothing_false_and_stops_no_backup(
    lie: dict[str, object] | None, why: str, index: Index, empty: Index, bucket: Bucket
) -> None:
    snapshot, _ = Backup(index, bucket, "local").take()
    false = snapshot
    if lie:
        item = replace(snapshot.packages["spam-2.0.tar.gz"], **lie)  # type: ignore[arg-type]  # of any kind
        false = replace(snapshot, packages={**snapshot.packages, "spam-2.0.tar.gz": item})
    replace_object(bucket, f"snapshots/{snapshot.name}.json", false.to_bytes()[: None if lie else -50])
    with pytest.raises(SnapshotError) as raised:
        restore(empty, bucket, read_snapshot(bucket, snapshot.name))
    assert why in sentences(raised.value)
    assert "pypiserver-data/spam-2.0.tar.gz" not in empty.tree()
    tomorrow = Backup(index, bucket, "local", clock=lambda: datetime.now(UTC) + timedelta(days=1))
    taken, new = tomorrow.take()
    assert new
    tomorrow.check(taken, thorough=True)
    restore(empty, bucket, taken)
    assert empty.tree()["pypiserver-data/spam-2.0.tar.gz"] == b"spam 2.0"


def test_a_bucket_that_fails_at_any_request_of_a_backup_loses_nothing(
    index: Index, s3_bucket: Bucket, object_store: ObjectStore
) -> None:
    def run() -> None:
        backup = Backup(index, s3_bucket, "local", clock=lambda: now + timedelta(days=2))
        before = backup.last()
        snapshot, _ = backup.take()
        backup.check(snapshot, before)
        backup.prune(Retention(2, 0, 0))

    now = datetime.now(UTC)
    old = index.write("old-1.tar.gz", b"old")
    Backup(index, s3_bucket, "local", clock=lambda: now - timedelta(days=1)).take()
    old.unlink()
    kept, _ = Backup(index, s3_bucket, "local", clock=lambda: now).take()
    index.write("new-1.tar.gz", b"new")
    failures = 0
    while error := failing(object_store, failures, run):
        assert s3_bucket.place in sentences(error)
        Backup(index, s3_bucket, "local").check(read_snapshot(s3_bucket, kept.name), thorough=True)
        failures += 1
    assert failures >= 10
    assert len(s3_bucket.snapshots()) == 2
    assert sha256(b"old") not in s3_bucket.blobs()
    assert sha256(b"new") in s3_bucket.blobs()


def test_a_bucket_that_fails_at_any_request_of_a_restoration_leaves_only_whole_files(
    index: Index, empty: Index, s3_bucket: Bucket, object_store: ObjectStore
) -> None:
    def run() -> None:
        restoration = Restoration(empty, find_origin(s3_bucket.place))
        restoration.carry_out(restoration.compare())

    Backup(index, s3_bucket, "local").take()
    whole = {path: content for path, content in index.tree().items() if "/.index/staging/" not in path}
    failures = 0
    while error := failing(object_store, failures, run):
        assert s3_bucket.place in sentences(error)
        assert empty.tree().items() <= whole.items()
        failures += 1
    assert failures >= 5
    assert empty.tree() == whole


@pytest.mark.parametrize("place", ["temporary files", "volume"])
def test_a_full_disk_ends_a_restoration_with_a_sentence_and_the_next_run_continues(
    place: str, index: Index, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = index.write("large-1.0.tar.gz", os.urandom(300_000))
    snapshot, _ = Backup(index, bucket, "local").take()
    with full_disk.mounted(tmp_path / "small", "1m") as disk:
        (disk / "folder").mkdir()
        give_back = full_disk.fill(disk, leave=200_000)
        target = make_index((disk if place == "volume" else tmp_path) / "folder", filled=False)
        if place != "volume":
            monkeypatch.setattr(tempfile, "tempdir", str(disk / "folder"))
        with pytest.raises(RunbookError) as raised:
            restore(target, bucket, snapshot)
        assert f"No space left on device: {disk / 'folder'}" in sentences(raised.value)
        assert isinstance(raised.value, TargetError) is (place == "volume")
        give_back()
        restore(target, bucket, snapshot)
        assert target.tree()["pypiserver-data/large-1.0.tar.gz"] == large.read_bytes()


def test_a_full_temporary_folder_ends_a_backup_with_a_sentence_and_the_next_run_continues(
    index: Index, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.write("large-1.0.tar.gz", os.urandom(300_000))
    backup = Backup(index, bucket, "local")
    with full_disk.mounted(tmp_path / "small", "1m") as disk:
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        give_back = full_disk.fill(disk, leave=200_000)
        with pytest.raises(TargetError, match="could not copy") as raised:
            backup.take()
        assert f"No space left on device: {disk}" in sentences(raised.value)
        assert bucket.snapshots() == []
        give_back()
        snapshot, new = backup.take()
    assert new
    backup.check(snapshot, thorough=True)
