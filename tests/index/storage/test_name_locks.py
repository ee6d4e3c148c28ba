"""A name has one holder at a time, among threads and processes, dead ones included."""

from __future__ import annotations

import errno
import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ops.index.storage import name_locks as module
from ops.index.storage.name_locks import FileNameLocks, NameLocks
from tests.index.volume import MemoryNameLocks

HOLDER = """
import sys
from pathlib import Path
from ops.index.storage import name_locks as module
from ops.index.storage.name_locks import FileNameLocks
locks = FileNameLocks(Path(sys.argv[1]))
print(locks.acquire(sys.argv[2]), flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=["memory", "files"])
def name_locks(request: pytest.FixtureRequest, tmp_path: Path) -> NameLocks:
    return MemoryNameLocks() if request.param == "memory" else FileNameLocks(tmp_path / "claims")


def hold(directory: Path, name: str) -> subprocess.Popen[str]:
    """A process that holds a lock until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(directory), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "True"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_name_is_locked_once_until_it_is_released(name_locks: NameLocks) -> None:
    assert name_locks.acquire("a.whl")
    assert not name_locks.acquire("a.whl")
    assert name_locks.acquire("b.whl")
    assert name_locks.held() == {"a.whl", "b.whl"}
    name_locks.release("a.whl")
    assert name_locks.held() == {"b.whl"}
    assert name_locks.acquire("a.whl")


def test_releasing_a_lock_that_is_not_held_does_nothing(name_locks: NameLocks) -> None:
    name_locks.release("a.whl")
    assert not name_locks.held()


def test_one_of_many_threads_gets_the_lock(name_locks: NameLocks) -> None:
    for number in range(20):
        barrier = threading.Barrier(6)
        won: list[bool] = []

        def take(name: str, barrier: threading.Barrier = barrier, won: list[bool] = won) -> None:
            barrier.wait()
            won.append(name_locks.acquire(name))

        threads = [threading.Thread(target=take, args=(f"{number}.whl",)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert won.count(True) == 1


def test_two_objects_on_one_directory_exclude_each_other(tmp_path: Path) -> None:
    one, two = FileNameLocks(tmp_path / "claims"), FileNameLocks(tmp_path / "claims")
    assert one.acquire("a.whl")
    assert not two.acquire("a.whl")
    assert two.held() == {"a.whl"}
    one.release("a.whl")
    assert not two.held()
    assert two.acquire("a.whl")


def test_another_process_holds_its_lock_until_it_is_killed(tmp_path: Path) -> None:
    name_locks = FileNameLocks(tmp_path)
    process = hold(tmp_path, "a.whl")
    try:
        assert not name_locks.acquire("a.whl")
        assert name_locks.held() == {"a.whl"}
    finally:
        end(process)
    assert not name_locks.held()
    assert name_locks.acquire("a.whl")


def test_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    end(hold(tmp_path, "a.whl"))
    assert list(tmp_path.iterdir())
    assert not FileNameLocks(tmp_path).held()
    assert not list(tmp_path.iterdir())


def test_one_of_two_processes_that_find_a_dead_holder_gets_the_lock(tmp_path: Path) -> None:
    for number in range(15):
        name = f"{number}.whl"
        end(hold(tmp_path, name))
        barrier = threading.Barrier(4)
        won: list[bool] = []

        kept = [FileNameLocks(tmp_path) for _ in range(4)]

        def take(
            own: FileNameLocks, name: str = name, barrier: threading.Barrier = barrier, won: list[bool] = won
        ) -> None:
            barrier.wait()
            won.append(own.acquire(name))

        threads = [threading.Thread(target=take, args=(own,)) for own in kept]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert won.count(True) <= 1
        assert any(own.acquire(name) for own in kept) or won.count(True) == 1


def test_emptying_the_directory_does_no_harm(tmp_path: Path) -> None:
    name_locks = FileNameLocks(tmp_path / "claims")
    assert name_locks.acquire("a.whl")
    for path in (tmp_path / "claims").iterdir():
        path.unlink()
    (tmp_path / "claims").rmdir()
    assert name_locks.acquire("b.whl")
    assert FileNameLocks(tmp_path / "claims").held() == {"b.whl"}
    name_locks.release("a.whl")
    name_locks.release("b.whl")
    assert not name_locks.held()


def test_without_hard_links_each_lock_has_its_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: str) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    one, two = FileNameLocks(tmp_path), FileNameLocks(tmp_path)
    monkeypatch.setattr(os, "link", refuse)
    assert one.acquire("a.whl")
    assert not two.acquire("a.whl")
    assert two.held() == {"a.whl"}
    monkeypatch.undo()
    assert not FileNameLocks(tmp_path).acquire("a.whl"), "even for one that could link"
    one.release("a.whl")
    assert two.acquire("a.whl")


def test_an_error_of_the_system_is_raised_and_nothing_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    name_locks = FileNameLocks(tmp_path)
    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OSError, match="No space"):
        name_locks.acquire("a.whl")
    monkeypatch.undo()
    assert not name_locks.held()
    assert name_locks.acquire("a.whl")


def test_released_locks_leave_nothing_behind(tmp_path: Path) -> None:
    name_locks = FileNameLocks(tmp_path)
    name_locks.acquire("a.whl")
    del name_locks
    gc.collect()
    another = FileNameLocks(tmp_path)
    assert another.acquire("a.whl")
    assert len(list(tmp_path.iterdir())) == 2  # the link, and its holder's locked file


def test_listing_locks_never_breaks_one(tmp_path: Path) -> None:
    done = threading.Event()
    holders = 0

    def look() -> None:
        other = FileNameLocks(tmp_path)
        while not done.is_set():
            other.held()

    lock = threading.Lock()
    worst = 0

    def work() -> None:
        nonlocal holders, worst
        own = FileNameLocks(tmp_path)
        taken = 0
        while taken < 150:
            if own.acquire("a.whl"):
                taken += 1
                with lock:
                    holders += 1
                    worst = max(worst, holders)
                with lock:
                    holders -= 1
                own.release("a.whl")

    lookers = [threading.Thread(target=look) for _ in range(2)]
    workers = [threading.Thread(target=work) for _ in range(3)]
    for thread in lookers + workers:
        thread.start()
    for thread in workers:
        thread.join()
    done.set()
    for thread in lookers:
        thread.join()
    assert worst == 1


def test_a_lock_on_a_file_removed_meanwhile_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening and locking the file, its holder releases it and another one locks a new file."""
    before, after, ours = FileNameLocks(tmp_path), FileNameLocks(tmp_path), FileNameLocks(tmp_path)
    before.acquire("a.whl")
    lock = module.lock_open_file
    waiting = [True]

    def lock_later(descriptor: int) -> bool:
        if waiting:
            waiting.clear()
            before.release("a.whl")
            assert after.acquire("a.whl")
        return lock(descriptor)

    monkeypatch.setattr(module, "lock_open_file", lock_later)
    assert not ours.acquire("a.whl")
    assert after.held() == {"a.whl"}


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES])
def test_a_lock_that_cannot_be_checked_counts_as_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Otherwise an unconfirmed file would be listed, or two would write it."""
    holder, other = FileNameLocks(tmp_path), FileNameLocks(tmp_path)
    assert other.acquire("b.whl")
    assert holder.acquire("a.whl")
    real = os.open

    def fail(path: str, *arguments: int) -> int:
        if path.startswith(str(tmp_path)):
            raise OSError(number, os.strerror(number))
        return real(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        assert other.held() == {"a.whl", "b.whl"}
        with pytest.raises(OSError, match=os.strerror(number)):
            other.acquire("a.whl")
    assert other.held() == {"a.whl", "b.whl"}
    holder.release("a.whl")
    assert other.acquire("a.whl")


def test_locks_that_cannot_be_listed_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name_locks = FileNameLocks(tmp_path)

    def fail(_path: str) -> list[str]:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "listdir", fail)
    with pytest.raises(OSError, match="Too many"):
        name_locks.held()


def test_a_directory_that_does_not_exist_has_no_locks(tmp_path: Path) -> None:
    assert not FileNameLocks(tmp_path / "none").held()
    assert not (tmp_path / "none").exists()


@settings(max_examples=60, deadline=None)
@example(names={"."})
@example(names={"..", "%2E"})
@given(names=st.sets(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20), max_size=5))
def test_any_name_can_be_locked_inside_the_directory(tmp_path_factory: pytest.TempPathFactory, names: set[str]) -> None:
    parent = tmp_path_factory.mktemp("claims")
    name_locks = FileNameLocks(parent / "claims")
    for name in names:
        assert name_locks.acquire(name)
    assert name_locks.held() == names
    assert FileNameLocks(parent / "claims").held() == names
    assert {path.name for path in parent.iterdir()} <= {"claims"}
    for name in names:
        name_locks.release(name)
    assert not name_locks.held()
