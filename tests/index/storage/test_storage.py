"""The rules of storage with several writers."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ops.index.errors import StorageBusy, StorageError
from ops.index.storage import directory
from ops.index.storage.directory import DirectoryStorage, SharedRun, StagingFolder
from ops.index.storage.file_cache import copy_bytes
from ops.index.storage.volume import GuardedStorage
from ops.index.storage.waiting import waiting_until, without_waiting
from tests.index.serving import eventually
from tests.index.volume import Remote, Volume


class Mount(GuardedStorage):
    """A fake storage whose commits and reloads the test controls."""

    def __init__(self, directory: Path, act: Callable[[], None] = lambda: None, **settings: Any) -> None:
        super().__init__(directory, **settings)
        self.act = act

    def _commit(self) -> None:
        self.act()

    def _reload(self) -> None:
        self.act()

    def has_waiting(self) -> bool:
        """True if a commit or reload waits for readers."""
        return self._guard._waiting > 0


def run_all(*actions: Callable[[], object]) -> list[BaseException | None]:
    """Run actions in separate threads, and return what each raised."""
    results: list[BaseException | None] = [None] * len(actions)

    def run(number: int, action: Callable[[], object]) -> None:
        try:
            action()
        except BaseException as error:  # noqa: BLE001 - reported to the test
            results[number] = error

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(actions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "it waits forever"
    return results


def test_callers_share_a_run_that_began_after_the_last_of_them_called() -> None:
    runs: list[tuple[float, float]] = []

    def act() -> None:
        began = time.monotonic()
        time.sleep(0.02)
        runs.append((began, time.monotonic()))

    shared = SharedRun(act)

    def call() -> None:
        for _ in range(5):
            called = time.monotonic()
            shared()
            answered = time.monotonic()
            assert any(called <= began and ended <= answered for began, ended in runs)

    assert run_all(*[call] * 8) == [None] * 8


@pytest.fixture
def followers(monkeypatch: pytest.MonkeyPatch) -> list[threading.Event]:
    """Has an entry for each caller waiting for another's run."""
    followers: list[threading.Event] = []

    class Noted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            followers.append(self)
            return super().wait(timeout)

    make = directory._Round
    monkeypatch.setattr(directory, "_Round", lambda: make(done=Noted()))
    return followers


@pytest.mark.parametrize("outcome", [None, ValueError("no")])
def test_callers_during_a_run_share_one_more_and_all_get_its_result(
    followers: list[threading.Event], outcome: Exception | None
) -> None:
    entered, leave = threading.Event(), threading.Event()
    runs: list[None] = []

    def act() -> None:
        runs.append(None)
        entered.set()
        leave.wait(60)
        if outcome is not None and len(runs) > 1:
            raise outcome

    def let_go() -> None:
        eventually(lambda: len(followers) == 7)  # and the eighth runs it
        leave.set()

    shared = SharedRun(act)
    first = threading.Thread(target=shared)
    first.start()
    assert entered.wait(60)
    assert run_all(*[shared] * 8, let_go) == [outcome] * 8 + [None]
    first.join()
    assert len(runs) == 2


def test_a_commit_is_not_starved_by_readers_that_keep_coming(tmp_path: Path) -> None:
    mount = Mount(tmp_path)
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            with mount.reading():
                time.sleep(0.002)

    def commit() -> None:
        time.sleep(0.02)
        for _ in range(20):
            mount.commit()
        done.set()

    assert run_all(*[read] * 4, commit) == [None] * 5


def test_readers_are_not_starved_by_commits_that_keep_coming(tmp_path: Path) -> None:
    mount = Mount(tmp_path, lambda: time.sleep(0.002))
    done = threading.Event()

    def commit() -> None:
        while not done.is_set():
            mount.commit()

    def reload() -> None:
        while not done.is_set():
            mount.reload()

    def read() -> None:
        time.sleep(0.02)
        for _ in range(50):
            with mount.reading():
                pass
        done.set()

    assert run_all(commit, commit, reload, read) == [None] * 4


def test_a_commit_waits_for_readers_and_blocks_new_ones(tmp_path: Path) -> None:
    inside = 0
    worst = 0
    lock = threading.Lock()

    def act() -> None:
        nonlocal worst
        worst = max(worst, inside)
        time.sleep(0.001)
        worst = max(worst, inside)

    mount = Mount(tmp_path, act)

    def read() -> None:
        nonlocal inside
        for _ in range(100):
            with mount.reading():
                with lock:
                    inside += 1
                time.sleep(0)
                with lock:
                    inside -= 1

    def commit() -> None:
        for _ in range(30):
            mount.commit()

    assert run_all(read, read, read, commit, commit) == [None] * 5
    assert worst == 0


def test_a_reading_thread_may_read_again_while_a_commit_waits(tmp_path: Path) -> None:
    mount = Mount(tmp_path)
    with mount.reading():
        waiting = threading.Thread(target=mount.commit)
        waiting.start()
        eventually(mount.has_waiting)
        with mount.reading():
            pass
        assert waiting.is_alive()
    waiting.join(60)
    assert not waiting.is_alive()


@pytest.mark.parametrize("action", ["commit", "reload"])
def test_a_reading_thread_cannot_commit_or_reload(tmp_path: Path, action: str) -> None:
    mount = Mount(tmp_path)
    with mount.reading(), pytest.raises(RuntimeError, match="would deadlock"):
        getattr(mount, action)()


@pytest.mark.parametrize("action", ["commit", "reload"])
def test_a_failure_is_a_storage_error_and_counts_as_a_generation(tmp_path: Path, action: str) -> None:
    def act() -> None:
        raise OSError("the network is down")

    mount = Mount(tmp_path, act)
    with pytest.raises(StorageError, match="the network is down"):
        getattr(mount, action)()
    assert mount.generation == 1
    mount.act = lambda: None
    getattr(mount, action)()
    assert mount.generation == 2


def test_a_detached_copy_may_stay_open_while_the_storage_commits(tmp_path: Path) -> None:
    path = tmp_path / "a.whl"
    path.write_bytes(b"bytes")
    mount = Mount(tmp_path)
    with mount.detached(path) as copy, copy.open("rb") as file:
        mount.commit()
        mount.reload()
        assert file.read() == b"bytes"
        assert copy != path


def test_concurrent_readers_of_a_file_share_one_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.whl"
    path.write_bytes(b"x" * 100_000)
    mount = Mount(tmp_path)
    made: list[Path] = []
    original = Mount._copy

    def slow(self: Mount, *arguments: Any) -> None:
        made.append(arguments[2])
        time.sleep(0.02)
        original(self, *arguments)

    monkeypatch.setattr(Mount, "_copy", slow)

    def ask() -> None:
        with mount.detached(path) as copy:
            assert copy.read_bytes() == path.read_bytes()

    assert run_all(*[ask] * 10) == [None] * 10
    ask()
    assert len(made) == 1


def test_copies_stay_within_their_size_limit(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "cache").mkdir()
    mount = Mount(tmp_path / "files", cache_directory=tmp_path / "cache", cache_bytes=2500)
    for number in range(6):
        (mount.directory / f"{number}").write_bytes(b"%d" % number * 1000)

    def kept() -> int:
        return sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file())

    with mount.detached(mount.directory / "0") as first:
        for number in range(1, 6):
            with mount.detached(mount.directory / f"{number}"):
                pass
        assert first.read_bytes() == b"0" * 1000, "a copy in use is not evicted"
        assert kept() <= 2500
    (mount.directory / "big").write_bytes(b"x" * 9000)
    with mount.detached(mount.directory / "big") as copy:
        assert copy.stat().st_size == 9000
    assert kept() <= 2500


def test_a_replaced_file_is_copied_again(tmp_path: Path) -> None:
    path = tmp_path / "a.whl"
    path.write_bytes(b"one")
    mount = Mount(tmp_path)
    with mount.detached(path) as copy:
        assert copy.read_bytes() == b"one"
    path.write_bytes(b"three")
    with mount.detached(path) as copy:
        assert copy.read_bytes() == b"three"


def test_a_file_replaced_while_it_is_copied_is_not_mixed_with_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, new = tmp_path / "a.whl", tmp_path / "new"
    path.write_bytes(b"a" * 3000)
    new.write_bytes(b"b" * 3001)
    mount = Mount(tmp_path)

    def copy_and_replace(source: int, target: int, count: int, offset: int) -> int:
        if new.exists():
            new.rename(path)
        return copy_bytes(source, target, count, offset)

    monkeypatch.setattr("ops.index.storage.volume.SLICE_BYTES", 1000)
    monkeypatch.setattr("ops.index.storage.volume.copy_bytes", copy_and_replace)
    with pytest.raises(FileNotFoundError, match="was replaced"), mount.detached(path):
        pass
    with mount.detached(path) as copy:
        assert copy.read_bytes() == b"b" * 3001


def test_a_failed_copy_leaves_nothing_and_the_next_may_succeed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").mkdir()
    path = tmp_path / "a.whl"
    path.write_bytes(b"bytes")
    mount = Mount(tmp_path, cache_directory=tmp_path / "cache")
    original = Mount._copy

    def fail(self: Mount, *arguments: Any) -> None:
        original(self, *arguments)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Mount, "_copy", fail)

    def ask() -> None:
        with mount.detached(path):
            pass

    assert all(isinstance(error, OSError) for error in run_all(*[ask] * 4))
    assert not [left for left in (tmp_path / "cache").rglob("*") if left.is_file()]
    monkeypatch.setattr(Mount, "_copy", original)
    ask()


def test_a_missing_file_cannot_be_detached(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), Mount(tmp_path).detached(tmp_path / "none"):
        pass


def test_a_long_copy_lets_commits_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.whl"
    path.write_bytes(os.urandom(8000))
    committing = threading.Event()
    mount = Mount(tmp_path, committing.set)
    commits: list[threading.Thread] = []
    committed: list[bool] = []

    def slice_by_slice(source: int, target: int, count: int, offset: int) -> int:
        committed.append(committing.is_set())
        committing.clear()
        commit = threading.Thread(target=mount.commit)
        commit.start()
        commits.append(commit)
        while not mount.has_waiting():
            time.sleep(0.001)
        return copy_bytes(source, target, count, offset)

    monkeypatch.setattr("ops.index.storage.volume.SLICE_BYTES", 1000)
    monkeypatch.setattr("ops.index.storage.volume.copy_bytes", slice_by_slice)
    with mount.detached(path) as detached:
        assert detached.read_bytes() == path.read_bytes()
    for commit in commits:
        commit.join(60)
    assert committed == [False] + [True] * 7, "commits get their turn between two slices"


def test_a_local_directory_needs_no_commits_reloads_or_copies(tmp_path: Path) -> None:
    storage = DirectoryStorage(tmp_path / "new" / "folder")
    assert storage.directory.is_dir()
    path = storage.directory / "a.whl"
    with storage.reading():
        path.write_bytes(b"bytes")
    generation = storage.generation
    storage.commit()
    storage.reload()
    assert storage.generation == generation
    with storage.detached(path) as same:
        assert same == path


# The fake Volume keeps Modal's rules


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Volume, Volume]:
    remote = Remote(tmp_path / "remote")
    return Volume(remote, tmp_path / "one"), Volume(remote, tmp_path / "two")


def test_a_durable_file_is_durable_with_its_name_and_those_of_new_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = StagingFolder(tmp_path, locked=True)
    staging.replace(f"{tmp_path}/first", b"")  # creates the staging folder
    synced = []
    sync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()).removeprefix(str(tmp_path)))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    staging.replace(f"{tmp_path}/a/b/file", b"text", durable=True)
    assert synced[1:] == ["", "/a", "/a/b"]
    staging.replace(f"{tmp_path}/a/b/file", b"more", durable=True)
    assert synced[5:] == ["/a/b"]
    staging.replace(f"{tmp_path}/c/file", b"text")
    assert len(synced) == 6


def test_others_see_a_file_after_its_commit_and_their_reload(pair: tuple[Volume, Volume]) -> None:
    one, two = pair
    (one.directory / "folder").mkdir()
    (one.directory / "folder" / "a").write_text("1")
    two.reload()
    assert not (two.directory / "folder" / "a").exists()
    one.commit()
    assert not (two.directory / "folder" / "a").exists()
    two.reload()
    assert (two.directory / "folder" / "a").read_text() == "1"


def test_a_commit_also_shows_others_commits(pair: tuple[Volume, Volume]) -> None:
    one, two = pair
    (one.directory / "a").write_text("1")
    one.commit()
    two.commit()
    assert (two.directory / "a").read_text() == "1"


def test_a_reload_keeps_uncommitted_changes_and_a_removal_is_committed(pair: tuple[Volume, Volume]) -> None:
    one, two = pair
    (one.directory / "a").write_text("1")
    one.commit()
    two.reload()
    (two.directory / "b").write_text("2")
    (two.directory / "a").unlink()
    two.reload()
    assert not (two.directory / "a").exists()
    assert (two.directory / "b").exists()
    two.commit()
    one.reload()
    assert {path.name for path in one.directory.iterdir()} == {"b"}


def test_the_last_commit_of_a_file_wins(pair: tuple[Volume, Volume]) -> None:
    one, two = pair
    (one.directory / "a").write_text("first")
    (two.directory / "a").write_text("second")
    two.commit()
    one.commit()
    two.reload()
    assert (two.directory / "a").read_text() == "first"


def test_the_directory_looks_empty_during_a_reload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def pause(_: float) -> None:
        begun.set()
        go_on.wait(60)

    monkeypatch.setattr("tests.index.volume.time", SimpleNamespace(sleep=pause))
    volume = Volume(Remote(tmp_path / "remote"), tmp_path / "view")
    (volume.directory / "a").write_text("1")
    reloading = threading.Thread(target=volume.reload)
    reloading.start()
    assert begun.wait(60)
    assert not (volume.directory / "a").exists()
    go_on.set()
    with volume.reading():
        assert (volume.directory / "a").exists()
    reloading.join()


def test_a_reload_is_refused_while_a_file_is_open(pair: tuple[Volume, Volume]) -> None:
    one, _ = pair
    with (one.directory / "a").open("w"), pytest.raises(StorageError, match="open files"):
        one.reload()


def test_a_failed_commit_may_have_happened(pair: tuple[Volume, Volume]) -> None:
    one, _ = pair
    (one.directory / "a").write_text("1")
    one.faults += ["not committed", "committed all the same"]
    with pytest.raises(StorageError):
        one.commit()
    assert not one.remote.names()
    with pytest.raises(StorageError):
        one.commit()
    assert one.remote.names() == {"a"}


# Bounded waits


@pytest.fixture
def hung(tmp_path: Path) -> Iterator[Mount]:
    """A storage with one file and a hanging commit."""
    begun, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        go_on.wait(60)

    (tmp_path / "files").mkdir()
    mount = Mount(tmp_path / "files", hang, cache_directory=tmp_path, commit_seconds=0.05, reload_seconds=0.05)
    (mount.directory / "a.whl").write_bytes(b"bytes")
    (mount.directory / "b.whl").write_bytes(b"bytes")
    with mount.detached(mount.directory / "a.whl"):
        pass
    with pytest.raises(StorageBusy):
        mount.commit()
    assert begun.wait(60)
    eventually(lambda: is_overdue(mount))  # counted from its beginning, which may come after the caller has given up
    yield mount
    go_on.set()


def is_overdue(mount: Mount) -> bool:
    try:
        mount.check()
    except StorageBusy:
        return True
    return False


def test_during_a_hanging_commit_changes_and_reads_are_refused(hung: Mount) -> None:
    assert hung.closed
    with pytest.raises(StorageBusy):
        hung.check()
    with pytest.raises(StorageBusy), hung.reading():
        pass
    with pytest.raises(StorageBusy), hung.detached(hung.directory / "b.whl"):
        pass


def test_a_copy_is_served_while_a_commit_hangs(hung: Mount) -> None:
    path = hung.directory / "a.whl"
    path.unlink()  # during a commit a Volume looks empty
    with hung.detached(path) as copy:
        assert copy.read_bytes() == b"bytes"
    assert hung.copied(hung.directory / "b.whl") is None


@pytest.mark.parametrize("action", ["commit", "reload"])
def test_a_stopping_server_waits_only_some_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    monkeypatch.setattr("ops.index.storage.volume.LAST_SECONDS", 0.05)
    go_on = threading.Event()

    def hang() -> None:
        go_on.wait(60)

    mount = Mount(tmp_path, hang, commit_seconds=600, reload_seconds=600)
    mount.end()
    with pytest.raises(StorageBusy):
        getattr(mount, action)()
    go_on.set()


def test_a_task_waits_no_longer_than_its_limit(tmp_path: Path) -> None:
    go_on = threading.Event()

    def hang() -> None:
        go_on.wait(60)

    mount = Mount(tmp_path, hang)
    committing = threading.Thread(target=mount.commit)
    committing.start()
    eventually(lambda: mount.closed)
    with waiting_until(time.monotonic() + 0.05), pytest.raises(StorageBusy), mount.reading():
        pass
    with without_waiting(), pytest.raises(StorageBusy), mount.reading():
        pass
    go_on.set()
    with mount.reading():  # without a short limit
        pass
    committing.join(60)
    with without_waiting(), mount.reading():
        pass


def test_an_upload_is_cached_without_being_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "files").mkdir()
    source, path = tmp_path / "staged", tmp_path / "files" / "a.whl"
    for file in (source, path):
        file.write_bytes(b"bytes")
    mount = Mount(tmp_path / "files", cache_directory=tmp_path)
    monkeypatch.setattr(Mount, "_copy", None)
    mount.adopt(path, str(source))
    source.unlink()
    with mount.detached(path) as copy:
        assert copy.read_bytes() == b"bytes"


def test_a_replaced_copy_stays_for_its_readers(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    path = tmp_path / "files" / "a.whl"
    path.write_bytes(b"one")
    mount = Mount(tmp_path / "files", cache_directory=tmp_path)
    with mount.detached(path) as before:
        path.write_bytes(b"three")
        with mount.detached(path) as after:
            assert (before.read_bytes(), after.read_bytes()) == (b"one", b"three")
    assert not before.exists()
