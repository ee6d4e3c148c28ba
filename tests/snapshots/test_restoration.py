"""Restorations: an exact result, no overwritten bytes, and the same end however often they are interrupted."""

from __future__ import annotations

import io
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ops.errors import RunbookError, SnapshotError, TargetError
from ops.settings import CREDENTIALS_VOLUME, PACKAGES_VOLUME
from ops.snapshots import Backup, Bucket, Retention
from ops.snapshots import restoration as module
from ops.snapshots.origin import DirectoryOrigin, SnapshotOrigin, find_origin
from ops.snapshots.restoration import Restoration
from tests.index.archives import wheel
from tests.snapshots.conftest import GROUPS, USERS, Counting, Index, Killed, make_index, sha256

CHANGING = ("upload_files", "delete_file", "create_volume")


@pytest.fixture
def origin(backup: Backup, bucket: Bucket) -> SnapshotOrigin:
    """The snapshot of the index."""
    return SnapshotOrigin(bucket, backup.take()[0])


def restore(target: object, origin: SnapshotOrigin | DirectoryOrigin) -> None:
    restoration = Restoration(target, origin)  # type: ignore[arg-type]  # perhaps a proxy
    restoration.carry_out(restoration.compare())


def test_an_empty_target_becomes_equal_byte_for_byte(index: Index, empty: Index, origin: SnapshotOrigin) -> None:
    restore(empty, origin)
    expected = {path: content for path, content in index.tree().items() if "/.index/staging/" not in path}
    assert empty.tree() == expected
    audit = ".index/audit/2026-01-01.1-abc.jsonl"
    assert (empty.volume_folder(PACKAGES_VOLUME) / audit).is_file()
    before = index.volume_folder(PACKAGES_VOLUME) / "spam-1.0.tar.gz"
    after = empty.volume_folder(PACKAGES_VOLUME) / "spam-1.0.tar.gz"
    assert int(after.stat().st_mtime) == int(before.stat().st_mtime)
    assert Restoration(empty, origin).compare().is_empty


def test_what_was_revoked_or_removed_after_the_snapshot_stays_so(
    index: Index, empty: Index, backup: Backup, bucket: Bucket
) -> None:
    night, _ = backup.take()
    index.write(f".index/revoked/{sha256(b'spam 2.0')}", b"{}")
    index.write(".index/removed/3f", b"1" * 64 + b" ham-1.tar.gz\n")
    for hours, place in ((1, "local"), (2, "another"), (3, "local")):
        later = Backup(index, bucket, place)
        later._clock = lambda: datetime.now(UTC) + timedelta(hours=hours)  # noqa: B023 - used at once
        later.take()
        index.write(f".index/yanked/{hours}", b"a change")
    newest = bucket.snapshots()[-1]
    Path(bucket.place, "snapshots", f"{newest}.json").write_bytes(b"damaged")
    restore(empty, SnapshotOrigin.of(bucket, night.name))
    tree = empty.tree()
    assert f"pypiserver-data/.index/revoked/{sha256(b'spam 2.0')}" in tree
    assert tree["pypiserver-data/.index/removed/3f"].splitlines() == [
        b"0" * 64 + b" eggs-1.tar.gz",
        b"1" * 64 + b" ham-1.tar.gz",
    ]
    assert "pypiserver-data/.index/yanked/1" not in tree


def test_an_existing_index_gets_missing_files_and_keeps_its_own(index: Index, origin: SnapshotOrigin) -> None:
    (index.volume_folder(PACKAGES_VOLUME) / "spam-1.0.tar.gz").unlink()
    index.write("own-1.tar.gz", b"own")
    index.write(".index/yanked/own-1.tar.gz", b"mine")
    index.write(".index/yanked/spam-2.0.tar.gz", b"since then")
    index.write(f".index/revoked/{sha256(b'spam 2.0')}", b"{}")
    index.write(".index/removed/3f", b"1" * 64 + b" ham-1.tar.gz\n")
    index.write(".htpasswd", b"mallory:x\n", CREDENTIALS_VOLUME)
    index.write(".tokens.json", b"{}", CREDENTIALS_VOLUME)
    found = Restoration(index, origin).compare()
    assert list(found.missing["packages"]) == ["spam-1.0.tar.gz"]
    assert found.extra == ["own-1.tar.gz"]
    restore(index, origin)
    tree = index.tree()
    assert tree["pypiserver-data/own-1.tar.gz"] == b"own"
    assert tree["pypiserver-data/.index/yanked/own-1.tar.gz"] == b"mine"
    assert "pypiserver-data/.index/yanked/spam-2.0.tar.gz" not in tree, "it was not yanked in the snapshot"
    assert f"pypiserver-data/.index/revoked/{sha256(b'spam 2.0')}" in tree, "but what was revoked stays revoked"
    graves = tree["pypiserver-data/.index/removed/3f"]
    assert graves == b"1" * 64 + b" ham-1.tar.gz\n" + b"0" * 64 + b" eggs-1.tar.gz\n", "no name can be reused"
    assert tree["pypiserver-credentials/.htpasswd"] == USERS
    assert tree["pypiserver-credentials/.htgroup"] == GROUPS
    assert "pypiserver-credentials/.tokens.json" not in tree, "a token made since then would stay valid"


def test_the_log_of_a_running_server_continues(index: Index, origin: SnapshotOrigin) -> None:
    longer = b'{"event": "upload"}\n{"event": "yank"}\n'
    log = index.write(".index/audit/2026-01-01.1-abc.jsonl", longer)
    restore(index, origin)
    assert log.read_bytes() == longer


@pytest.mark.parametrize(
    ("path", "content", "why"),
    [
        ("spam-1.0.tar.gz", b"SPAM 1.0", "different bytes"),
        ("spam-1.0.tar.gz", b"longer than before", "different bytes"),
        ("Spam-1.0.0.tar.gz", b"spam 1.0", "another spelling"),
    ],
)
def test_different_bytes_are_never_overwritten_and_nothing_else_is_changed(
    empty: Index, origin: SnapshotOrigin, path: str, content: bytes, why: str
) -> None:
    empty.create_volume(PACKAGES_VOLUME)
    empty.write(path, content)
    before = empty.tree()
    with pytest.raises(SnapshotError, match="1 of the files cannot be restored, and nothing was changed") as raised:
        restore(empty, origin)
    assert why in raised.value.why
    assert empty.tree() == before


def test_a_name_removed_with_different_bytes_is_not_reused(empty: Index, origin: SnapshotOrigin) -> None:
    empty.create_volume(PACKAGES_VOLUME)
    empty.write(".index/removed/aa", b"1" * 64 + b" spam-1.tar.gz\n")
    assert "was removed" in Restoration(empty, origin).compare().conflicts["spam-1.0.tar.gz"]


def test_a_restoration_killed_at_any_step_and_repeated_ends_the_same(
    index: Index, origin: SnapshotOrigin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_FILES", 1)

    def prepared(name: str) -> Index:
        target = make_index(tmp_path / name, filled=False)
        target.create_volume(CREDENTIALS_VOLUME)
        target.write(".tokens.json", b"{}", CREDENTIALS_VOLUME)
        return target

    whole = Counting(prepared("whole"), CHANGING)
    restore(whole, origin)
    assert whole.calls == 9
    for fatal in range(whole.calls):
        for after in (False, True):
            target = prepared(f"{fatal}-{after}")
            with pytest.raises(Killed):
                restore(Counting(target, CHANGING, fatal, after=after), origin)
            restore(target, origin)
            assert target.tree() == whole._real.tree(), f"killed {'after' if after else 'before'} step {fatal}"


def test_roles_are_written_before_users_and_yanks_before_files(empty: Index, origin: SnapshotOrigin) -> None:
    order: list[str] = []

    class Watched:
        def __getattr__(self, name: str) -> object:
            return getattr(empty, name)

        def upload_files(self, volume: str, sources: dict[str, Path]) -> None:
            order.extend(sources)
            empty.upload_files(volume, sources)

    restore(Watched(), origin)
    assert order.index(".index/yanked/spam-1.0.tar.gz") < order.index("spam-1.0.tar.gz")
    assert order.index(".htgroup") < order.index(".htpasswd")


def test_an_unwritable_volume_ends_it_with_a_sentence(
    empty: Index, origin: SnapshotOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, os.strerror(13), "/volume")

    monkeypatch.setattr("ops.targets.folders.draft_of", refuse)
    with pytest.raises(TargetError, match="could not copy") as raised:
        restore(empty, origin)
    assert "cannot be written by this user" in raised.value.why


def test_upload_times_are_restored(index: Index, bucket: Bucket, empty: Index) -> None:
    from ops.index.packages.file_info import FileInfoStore
    from ops.index.storage.directory import DirectoryStorage

    file = index.write("eggs-1.tar.gz", b"eggs")
    index.write(".index/facts/eggs-1.tar.gz", b'{"sha256": "%s", "upload_time": 12.5}\n' % sha256(b"eggs").encode())
    restore(empty, SnapshotOrigin(bucket, Backup(index, bucket, "local").take()[0]))
    assert file.exists()
    storage = DirectoryStorage(empty.volume_folder(PACKAGES_VOLUME))
    store = FileInfoStore(storage, storage.staging, scratch=None)
    assert store.of("eggs-1.tar.gz")[0].upload_time == 12.5
    assert store.of("spam-1.0.tar.gz")[0].upload_time > 1e9


def test_a_directory_of_stock_pypiserver_is_imported_unchanged(tmp_path: Path, empty: Index) -> None:
    folder = tmp_path / "stock"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "eggs-1.0.tar.gz").write_bytes(b"anything")
    (folder / "eggs-1.0.tar.gz.asc").write_bytes(b"signature")
    (folder / "README.txt").write_bytes(b"notes")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "x-1.0.tar.gz").write_bytes(b"x")
    origin = find_origin(str(folder))
    assert isinstance(origin, DirectoryOrigin)
    assert origin.skipped == ("README.txt",)
    restore(empty, origin)
    assert empty.tree() == {
        "pypiserver-data/sub/eggs-1.0.tar.gz": b"anything",
        "pypiserver-data/eggs-1.0.tar.gz.asc": b"signature",
    }
    assert Restoration(empty, origin).compare().is_empty


def test_a_directory_changes_neither_users_nor_annotations(tmp_path: Path, index: Index) -> None:
    before = index.tree()
    folder = tmp_path / "wheels"
    folder.mkdir()
    (folder / "eggs-1.0-py3-none-any.whl").write_bytes(wheel("eggs", "1.0"))
    restore(index, find_origin(str(folder)))  # type: ignore[arg-type]  # either kind
    after = index.tree()
    assert after.pop("pypiserver-data/eggs-1.0-py3-none-any.whl")
    assert after == before


def test_a_file_that_changes_meanwhile_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "eggs-1.0.tar.gz").write_bytes(b"before")
    origin = DirectoryOrigin.of(tmp_path)
    (tmp_path / "eggs-1.0.tar.gz").write_bytes(b"after")
    with pytest.raises(SnapshotError, match="was changed meanwhile"):
        origin.fetch_blob(sha256(b"before"), io.BytesIO())


@pytest.mark.parametrize("name", ["latest", "2026", ""])
def test_a_snapshot_is_found_by_the_beginning_of_its_name(bucket: Bucket, backup: Backup, name: str) -> None:
    snapshot, _ = backup.take()
    if name:
        assert find_origin(bucket.place, name).snapshot == snapshot
    with pytest.raises(SnapshotError, match="there is no snapshot"):
        find_origin(bucket.place, name and "1999")


def test_an_empty_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="there is nothing to restore"):
        find_origin(str(tmp_path))
    with pytest.raises(RunbookError, match="there are no snapshots"):
        find_origin(str(tmp_path / "absent"))


def test_the_seventeenth_of_thirty_snapshots_is_restored_bit_for_bit(
    index: Index, bucket: Bucket, tmp_path: Path
) -> None:
    first = datetime(2026, 1, 1, 2, 17, tzinfo=UTC)
    trees = []
    for night in range(30):
        index.write(f"nightly-{night}.0.tar.gz", f"night {night}".encode())
        index.write(".index/yanked/spam-2.0.tar.gz", f"because of night {night}".encode())
        index.write(".htpasswd", USERS + f"user{night}:x\n".encode(), CREDENTIALS_VOLUME)
        backup = Backup(index, bucket, "local", clock=lambda: first + timedelta(days=night))  # noqa: B023 - used at once
        backup.take()
        backup.prune(Retention(30, 0, 0))
        trees.append({path: content for path, content in index.tree().items() if "/staging/" not in path})
    assert len(bucket.snapshots()) == 30
    target = make_index(tmp_path / "restored", filled=False)
    origin = find_origin(bucket.place, "2026-01-17")
    restore(target, origin)  # type: ignore[arg-type]  # either kind
    assert target.tree() == trees[16]
