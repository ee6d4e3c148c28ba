"""A directory's listing follows the disk, and large folders block no one."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ops.index.packages import directory as module
from ops.index.packages.directory import PackageDirectory
from ops.index.packages.filenames import parse
from ops.index.packages.listing import Listing
from tests.index.archives import wheel_name
from tests.index.serving import eventually
from tests.index.volume import MemoryNameLocks

Read = Callable[..., Iterator[list[str]]]


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackageDirectory:
    """A directory of five files, enough to count as large; refreshes may follow each other at once."""
    monkeypatch.setattr(module, "FREE_SECONDS", 1e6)
    monkeypatch.setattr(module, "LARGE", 3)
    monkeypatch.setattr(module, "VERIFY_REST", 0)
    for number in range(5):
        put(tmp_path, f"1.{number}")
    found = PackageDirectory(tmp_path, MemoryNameLocks(), Listing())
    found.look()
    assert len(found.listing) == 5
    return found


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """The threads that read a folder."""
    threads: list[threading.Thread] = []
    original: Read = module._read

    def read(path: str, folders: list[str], *, hurry: bool) -> Iterator[list[str]]:
        threads.append(threading.current_thread())
        return original(path, folders, hurry=hurry)

    monkeypatch.setattr(module, "_read", read)
    return threads


def put(folder: Path, version: str, project: str = "foo") -> str:
    name = wheel_name(project, version)
    (folder / name).write_bytes(b"")
    return name


def add(directory: PackageDirectory, filename: str) -> None:
    name = parse(filename)
    assert name is not None
    directory.add(filename, name)


def test_a_large_folder_changed_by_others_is_read_in_the_background(
    directory: PackageDirectory, tmp_path: Path, readers: list[threading.Thread]
) -> None:
    name = put(tmp_path, "2.0")

    def listed() -> bool:
        directory.look()
        return name in directory.listing

    eventually(listed)
    assert threading.current_thread() not in readers


def test_a_second_file_of_a_project_does_not_burden_the_garbage_collector(tmp_path: Path) -> None:
    for number in range(5):
        put(tmp_path, "1.0", f"project-{number}")
    directory = PackageDirectory(tmp_path, MemoryNameLocks(), Listing())
    directory.look()
    known = {id(thing) for thing in gc.get_objects()}  # which gc.freeze would exclude
    add(directory, put(tmp_path, "2.0", "project-3"))
    assert [
        thing for thing in gc.get_objects() if isinstance(thing, dict) and len(thing) == 5 and id(thing) not in known
    ] == []


def test_a_large_folder_is_verified_in_the_background_after_an_upload(
    directory: PackageDirectory, tmp_path: Path, readers: list[threading.Thread], monkeypatch: pytest.MonkeyPatch
) -> None:
    eventually(lambda: _settled(directory))
    readers.clear()
    monkeypatch.setattr(module, "OVERDUE_SECONDS", 0.0)
    with directory.changing():
        name = put(tmp_path, "2.0")
    add(directory, name)

    def verified() -> bool:
        directory.look()
        directory.look(wait=True)
        return bool(readers)

    eventually(verified)
    assert threading.current_thread() not in readers
    assert name in directory.listing


def test_an_upload_sees_files_that_others_added_to_a_large_folder(
    directory: PackageDirectory, tmp_path: Path, readers: list[threading.Thread]
) -> None:
    name = put(tmp_path, "2.0")
    directory.look(wait=True)
    assert name in directory.listing
    assert threading.current_thread() in readers


def test_a_scan_neither_delays_nor_undoes_our_own_changes(
    directory: PackageDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FEW", 0)  # with more names, not each is checked again
    old = wheel_name("foo", "1.0")
    original: Read = module._read
    began, proceed = threading.Event(), threading.Event()

    def slow(path: str, folders: list[str], *, hurry: bool) -> Iterator[list[str]]:
        found = list(original(path, folders, hurry=hurry))
        began.set()
        assert proceed.wait(60)
        return iter(found)

    passing = put(tmp_path, "3.0", "passing")
    with monkeypatch.context() as patch:
        patch.setattr(module, "_read", slow)
        thread = threading.Thread(target=directory.look, kwargs={"thoroughly": True})
        thread.start()
        assert began.wait(60)
        with directory.changing():
            new = put(tmp_path, "2.0", "new")
        add(directory, new)
        for gone in (old, passing):
            with directory.changing():
                (tmp_path / gone).unlink()
            directory.remove(gone)
        directory.look()
        proceed.set()
        thread.join()
    expected = {new, *(wheel_name("foo", f"1.{number}") for number in range(1, 5))}
    assert set(directory.listing) == expected
    assert directory.listing.projects() == ["foo", "new"]
    directory.look(thoroughly=True)
    assert set(directory.listing) == expected


def test_a_refresh_does_not_wait_for_our_own_change_that_began_meanwhile(
    directory: PackageDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGE", 1000)
    original: Read = module._read
    began, finish = threading.Event(), threading.Event()

    def change() -> None:
        with directory.changing():
            began.set()
            finish.wait(60)

    def read(path: str, folders: list[str], *, hurry: bool) -> Iterator[list[str]]:
        found = list(original(path, folders, hurry=hurry))
        monkeypatch.setattr(module, "_read", original)
        changer.start()
        assert began.wait(60)
        return iter(found)

    changer = threading.Thread(target=change)
    monkeypatch.setattr(module, "_read", read)
    put(tmp_path, "2.0")
    looking = threading.Thread(target=directory.look)
    looking.start()
    looking.join(30)
    waits = looking.is_alive()
    finish.set()
    changer.join()
    looking.join()
    assert not waits
    assert len(directory.listing) == 6


def _settled(directory: PackageDirectory) -> bool:
    directory.look()
    return directory._folders[""].settled
