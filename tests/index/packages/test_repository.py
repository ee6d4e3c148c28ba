"""The repository reads no file twice, and notices every change of its directory."""

from __future__ import annotations

import errno
import gc
import hashlib
import io
import json
import os
import shutil
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ops.index.config import Options
from ops.index.errors import StorageBusy
from ops.index.packages import directory as module
from ops.index.packages.directory import COARSE_TICK_NS, PackageDirectory
from ops.index.packages.file_info import FileInfoStore
from ops.index.packages.filenames import Name, parse
from ops.index.packages.listing import Listing
from ops.index.packages.models import Project
from ops.index.packages.repository import Repository
from ops.index.storage.directory import DirectoryStorage
from tests.index.archives import core_metadata, sdist, wheel, wheel_name
from tests.index.conftest import Node, Person
from tests.index.volume import MemoryNameLocks

Count = Callable[[object, str], list[tuple[Any, ...]]]


@pytest.fixture(autouse=True)
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let refreshes follow each other at once, however slow the machine is."""
    monkeypatch.setattr("ops.index.packages.directory.FREE_SECONDS", 1e6)


@pytest.fixture
def directory(node: Node) -> Path:
    return node.directory


def put(directory: Path, name: str, version: str, *, folder: str = "", payload: bytes = b"") -> Path:
    """Put a wheel into a directory behind the server's back."""
    path = directory / folder / wheel_name(name, version)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(wheel(name, version, lines="Requires-Python: >=3.8\n", payload=payload))
    return path


def name_of(path: Path) -> Name:
    name = parse(path.name)
    assert name is not None
    return name


def project(node: Node, name: str) -> Project:
    found = node.repository.project(name)
    assert found is not None
    return found


def reopened(node: Node, **options: Any) -> Repository:
    """The repository of another server, started later."""
    return Repository(DirectoryStorage(node.directory), node.name_locks, replace(node.options, **options))


def test_a_file_s_info_matches_the_disk(node: Node, directory: Path) -> None:
    path = put(directory, "Foo.Bar", "1.0.0")
    content = path.read_bytes()
    os.utime(path, ns=(1_600_000_000_123_456_789, 1_600_000_000_123_456_789))
    (file,) = project(node, "foo-bar").files
    assert file.filename == file.path == path.name
    assert (file.project, file.version, file.size) == ("foo-bar", "1.0.0", len(content))
    assert file.sha256 == hashlib.sha256(content).hexdigest()
    assert file.upload_time == datetime.fromtimestamp(1_600_000_000.123456789, UTC)
    assert file.requires_python == ">=3.8"
    metadata = node.repository.metadata(path.name)
    assert metadata is not None
    assert hashlib.sha256(metadata).hexdigest() == file.metadata_sha256
    assert metadata.startswith(b"Metadata-Version: 2.4\nName: Foo.Bar\n")
    assert file.yanked is None


def test_files_are_sorted_by_version_then_name(node: Node, directory: Path) -> None:
    for version in ("1.10", "1.9", "1.9rc1"):
        put(directory, "foo", version)
    (directory / "foo-1.9.tar.gz").write_bytes(sdist("foo", "1.9"))
    found = project(node, "foo")
    assert [file.filename for file in found.files] == [
        "foo-1.9rc1-py3-none-any.whl",
        "foo-1.9-py3-none-any.whl",
        "foo-1.9.tar.gz",
        "foo-1.10-py3-none-any.whl",
    ]
    assert found.versions == ("1.9rc1", "1.9", "1.10")


def test_other_files_are_not_listed_and_cannot_be_downloaded(node: Node, directory: Path) -> None:
    path = put(directory, "foo", "1.0")
    others = ["README.txt", ".hidden-1.0.tar.gz", "foo-1.0 (1).tar.gz", ".index/facts/foo-1.0.zip", ".dot/foo-2.0.zip"]
    for other in others:
        (directory / other).parent.mkdir(parents=True, exist_ok=True)
        (directory / other).write_text("x")
    (directory / "foo-3.0.tar.gz").mkdir()
    assert node.listed() == {path.name}
    for other in [
        *others,
        "foo-3.0.tar.gz",
        "",
        ".",
        "..",
        "/etc/passwd",
        f"./{path.name}",
        f"../packages/{path.name}",
    ]:
        assert node.repository.locate(other) is None
        assert node.repository.metadata(other) is None
    assert node.repository.locate(path.name) == (path, path.stat().st_size)
    assert node.repository.project("nothing") is None


@pytest.mark.parametrize("path", ["a\0b", "foo-1.0-py3-none-any.whl\0", "x" * 5000, "\udcff", "foo-1.0.tar.gz/"])
def test_no_path_raises_an_error(node: Node, path: str) -> None:
    assert node.repository.locate(path) is None
    assert node.repository.metadata(path) is None
    assert node.repository.project(path) is None


def test_a_signature_is_not_listed_and_can_be_downloaded(node: Node, directory: Path) -> None:
    path = put(directory, "foo", "1.0")
    signature = path.with_name(path.name + ".asc")
    signature.write_text("-----BEGIN PGP SIGNATURE-----\n")
    (directory / "other-1.0.tar.gz.asc").write_text("x")
    assert node.listed() == {path.name}
    assert node.repository.locate(signature.name) == (signature, signature.stat().st_size)
    assert node.repository.locate("other-1.0.tar.gz.asc") is None, "the file that it signs is missing"


def test_folders_are_listed_as_by_stock_pypiserver(node: Node, directory: Path) -> None:
    put(directory, "foo", "1.0", folder="a/b")
    put(directory, "foo", "2.0", folder=".a")
    put(directory, "foo", "3.0", folder="a/.b")
    elsewhere = directory.with_name("elsewhere")
    target = put(elsewhere, "foo", "4.0")
    (directory / "linked").symlink_to(elsewhere)
    (directory / target.name).symlink_to(target)
    (directory / "foo-5.0.tar.gz").symlink_to(directory / "missing")
    assert {file.path for file in project(node, "foo").files} == {"a/b/foo-1.0-py3-none-any.whl", target.name}
    found = node.repository.locate("a/b/foo-1.0-py3-none-any.whl")
    assert found is not None
    assert found[0].read_bytes()[:2] == b"PK"
    assert node.repository.metadata("a/b/foo-1.0-py3-none-any.whl") is not None


def test_the_same_file_name_in_two_folders_is_two_files(node: Node, directory: Path) -> None:
    put(directory, "foo", "1.0", folder="a", payload=b"1")
    put(directory, "foo", "1.0", folder="b", payload=b"2")
    files = project(node, "foo").files
    assert [file.path[0] for file in files] == ["a", "b"]
    assert files[0].sha256 != files[1].sha256


def test_a_change_behind_the_servers_back_is_noticed_at_once(node: Node, directory: Path) -> None:
    """Even one so soon that the folder's time does not change."""
    for number in range(30):
        stamp = node.repository.stamp()
        path = put(directory, "foo", f"1.{number}", folder="" if number % 3 else "sub")
        assert _soon(partial(_lists, node, path.name)), number
        assert node.repository.stamp() != stamp
        if number % 2:
            path.unlink()
            assert _soon(partial(_lists_not, node, path.name)), number


def _lists_not(node: Node, filename: str) -> bool:
    return filename not in node.listed()


def _lists(node: Node, filename: str) -> bool:
    return filename in node.listed()


def _soon(condition: Callable[[], bool], seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
    return condition()


def test_two_changes_within_one_tick_of_the_clock_are_both_noticed(
    node: Node, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder's time is reset, as if the clock had not moved."""
    put(directory, "foo", "1.0")
    node.listed()  # creates its own folder next to it
    before = now = directory.stat().st_mtime_ns
    monkeypatch.setattr(
        "ops.index.packages.directory.time", SimpleNamespace(monotonic=time.monotonic, time_ns=lambda: now)
    )
    assert len(node.listed()) == 1
    put(directory, "foo", "2.0")
    os.utime(directory, ns=(before, before))
    now += 2 * COARSE_TICK_NS
    assert len(node.listed()) == 2


def test_a_quiet_directory_is_not_read_again(node: Node, directory: Path, count_calls: Count) -> None:
    put(directory, "foo", "1.0")
    node.listed()
    time.sleep(0.05)
    node.repository.stamp()
    reads = count_calls(module, "_read")
    for _ in range(200):
        node.repository.stamp()
    assert not reads


def test_added_and_removed_folders_are_noticed(node: Node, directory: Path) -> None:
    put(directory, "foo", "1.0", folder="a/b/c")
    assert _soon(lambda: len(node.listed()) == 1)
    (directory / "a").rename(directory / "z")
    assert _soon(lambda: {file.path for file in project(node, "foo").files} == {"z/b/c/foo-1.0-py3-none-any.whl"})
    shutil.rmtree(directory / "z" / "b")
    assert _soon(lambda: not node.listed())
    assert not node.repository.projects()


def test_our_uploads_do_not_hide_files_that_others_add_at_the_same_moment(
    node: Node, directory: Path, alice: Person
) -> None:
    stop = threading.Event()
    outside: set[str] = set()

    def others() -> None:
        number = 0
        while not stop.is_set() and number < 500:
            outside.add(put(directory, "outside", f"1.{number}").name)
            number += 1
            time.sleep(0.003)

    thread = threading.Thread(target=others)
    thread.start()
    ours = set()
    try:
        for number in range(60):
            name = wheel_name("inside", f"1.{number}")
            node.publish(name, io.BytesIO(wheel("inside", f"1.{number}")), identity=alice)
            ours.add(name)
            assert name in {file.filename for file in project(node, "inside").files}
    finally:
        stop.set()
        thread.join()
    assert _soon(lambda: node.listed() == ours | outside)


def test_a_file_added_right_before_our_own_change_is_seen_right_after_it(
    node: Node, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the second scan that comes a little later anyway."""
    monkeypatch.setattr("ops.index.packages.directory.TICK_NS", 10**12)
    monkeypatch.setattr("ops.index.packages.directory.OVERDUE_SECONDS", 10**6)
    put(directory, "first", "1.0")
    node.listed()
    time.sleep(0.03)
    outside = put(directory, "outside", "1.0")
    time.sleep(0.03)
    with node.repository.package_directory.changing():
        inside = put(directory, "inside", "1.0")
    node.repository.package_directory.add(inside.name, name_of(inside))
    assert {inside.name, outside.name} <= node.listed()


def test_names_added_at_the_same_moment_are_all_found(
    node: Node, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = parse(wheel_name("foo", "1.0")), parse(wheel_name("foo", "2.0"))
    assert first is not None
    assert second is not None
    put(directory, "foo", "0.1")
    assert node.repository.find(first) is None
    add = PackageDirectory.add

    def add_both(self: PackageDirectory, path: str, name: Name) -> None:
        add(self, second.filename, second)
        add(self, path, name)

    monkeypatch.setattr(PackageDirectory, "add", add_both)
    with node.repository.package_directory.changing():
        put(directory, "foo", "1.0")
        put(directory, "foo", "2.0")
    node.repository.package_directory.add(first.filename, first)
    assert node.repository.find(first) == first.filename
    assert node.repository.find(second) == second.filename


def test_an_upload_to_one_project_does_not_change_the_stamp_of_another(
    node: Node, directory: Path, alice: Person
) -> None:
    put(directory, "foo", "1.0")
    put(directory, "bar", "1.0")
    node.listed()
    time.sleep(0.05)
    foo, bar, everything = (
        node.repository.project_stamp("foo"),
        node.repository.project_stamp("bar"),
        node.repository.stamp(),
    )
    node.publish(wheel_name("bar", "2.0"), io.BytesIO(wheel("bar", "2.0")), identity=alice)
    assert node.repository.project_stamp("foo") == foo
    assert node.repository.project_stamp("bar") != bar
    assert node.repository.stamp() != everything
    put(directory, "bar", "3.0")
    assert _soon(lambda: len(project(node, "bar").files) == 3)
    assert node.repository.project_stamp("foo") == foo
    assert node.repository.project_stamp("unknown") == node.repository.project_stamp("unknown")


# File info


def test_an_unchanged_file_is_never_hashed_twice(
    node: Node, directory: Path, count_calls: Count, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(directory, "foo", "1.0")
    compute = FileInfoStore._compute

    def slow(*arguments: Any) -> Any:
        time.sleep(0.05)
        return compute(*arguments)

    monkeypatch.setattr(FileInfoStore, "_compute", slow)
    hashed = count_calls(FileInfoStore, "_compute")
    threads = [threading.Thread(target=node.repository.project, args=("foo",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first = project(node, "foo")
    assert len(hashed) == 1
    assert reopened(node).project("foo") == first
    assert reopened(node, cached_files=0).metadata(path.name) is not None
    assert len(hashed) == 1


def test_an_upload_is_never_read_again(node: Node, alice: Person, count_calls: Count) -> None:
    hashed = count_calls(FileInfoStore, "_compute")
    content = wheel("foo", "1.0")
    node.publish(wheel_name("foo", "1.0"), io.BytesIO(content), identity=alice)
    (file,) = project(node, "foo").files
    assert file.sha256 == hashlib.sha256(content).hexdigest()
    other = reopened(node).project("foo")
    assert other is not None
    assert other.files == (file,)
    assert not hashed


def test_a_replaced_file_is_noticed_even_by_the_next_server(node: Node, directory: Path) -> None:
    path = put(directory, "foo", "1.0", payload=b"1")
    first = project(node, "foo").files[0].sha256
    put(directory, "foo", "1.0", payload=b"22")
    assert hashlib.sha256(path.read_bytes()).hexdigest() != first
    assert _soon(lambda: project(node, "foo").files[0].sha256 == hashlib.sha256(path.read_bytes()).hexdigest())
    put(directory, "foo", "1.0", payload=b"333")
    other = reopened(node).project("foo")
    assert other is not None
    assert other.files[0].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "damage",
    [
        lambda line, _: b"",
        lambda line, _: b"\x00" * 50,
        lambda line, _: line[:40],
        lambda line, rest: line + b"\n" + rest[:-1],
        lambda line, rest: line + b"\n" + rest.replace(b"foo", b"bar"),
        lambda line, rest: b"[]\n" + rest,
        lambda line, rest: b"{}\n" + rest,
        lambda line, rest: line.replace(b'"format": 1', b'"format": 2') + b"\n" + rest,
        lambda line, rest: json.dumps({**json.loads(line), "surprise": 1}).encode() + b"\n" + rest,
        lambda line, rest: json.dumps({**json.loads(line), "size": "9"}).encode() + b"\n" + rest,
        lambda line, rest: json.dumps({**json.loads(line), "sha256": None}).encode() + b"\n" + rest,
    ],
)
def test_a_damaged_sidecar_is_computed_again(
    node: Node, directory: Path, damage: Callable[[bytes, bytes], bytes]
) -> None:
    path = put(directory, "foo", "1.0")
    first = project(node, "foo")
    metadata = node.repository.metadata(path.name)
    sidecar = directory / ".index" / "facts" / path.name
    line, _, rest = sidecar.read_bytes().partition(b"\n")
    sidecar.write_bytes(damage(line, rest))
    other = reopened(node)
    assert other.metadata(path.name) == metadata
    assert other.project("foo") == first


@pytest.mark.timeout(120)  # enough for any machine: whoever opens the pipe waits forever
@pytest.mark.parametrize("forge", [os.mkfifo, lambda path: path.write_bytes(b" " * 10 * 1024**2)])
def test_what_cannot_be_a_sidecar_is_not_read(
    node: Node, directory: Path, forge: Callable[[Path], object], count_calls: Count
) -> None:
    """In a folder that somebody handed over. An event loop would wait for the other end of a pipe."""
    path = put(directory, "foo", "1.0")
    sidecar = directory / ".index" / "facts" / path.name
    sidecar.parent.mkdir(parents=True)
    forge(sidecar)
    read = count_calls(os, "read")
    assert node.repository.project_at_once("foo") is None
    assert not read
    assert project(node, "foo").files
    assert sidecar.is_file()


def test_metadata_that_installers_cannot_rely_on_is_shown_only_to_people(
    node: Node, directory: Path, alice: Person, count_calls: Count
) -> None:
    dropped, uploaded = (sdist("foo", version, lines="Dynamic: Requires-Dist\n") for version in ("1.0", "2.0"))
    (directory / "foo-1.0.tar.gz").write_bytes(dropped)
    node.publish("foo-2.0.tar.gz", io.BytesIO(uploaded), identity=alice)
    files = project(node, "foo").files
    assert [file.version for file in files] == ["1.0", "2.0"]
    computed = count_calls(FileInfoStore, "_compute")
    for repository in (node.repository, reopened(node)):
        assert repository.project("foo") == project(node, "foo")
        for file in files:
            assert file.metadata_sha256 is None
            assert repository.metadata(file.path) is None
            assert repository.file_info._sidecars.metadata(file.path) is None
            kept = core_metadata("foo", file.version, lines="Dynamic: Requires-Dist\n")
            assert repository.metadata(file.path, unserved=True) == kept
    assert not computed
    sidecar = directory / ".index" / "facts" / "foo-2.0.tar.gz"
    sidecar.write_bytes(sidecar.read_bytes()[:-1])
    assert node.repository.metadata("foo-2.0.tar.gz") is None
    assert not computed
    assert node.repository.metadata("foo-2.0.tar.gz", unserved=True) == kept
    assert len(computed) == 1


def test_a_sidecar_from_before_such_metadata_was_stored_is_still_read(
    node: Node, directory: Path, count_calls: Count
) -> None:
    (directory / "foo-1.0.tar.gz").write_bytes(sdist("foo", "1.0", metadata_version="2.1"))
    first = project(node, "foo")
    sidecar = directory / ".index" / "facts" / "foo-1.0.tar.gz"
    fields = json.loads(sidecar.read_bytes().partition(b"\n")[0])
    assert fields["metadata_size"] > 0
    sidecar.write_bytes(json.dumps({**fields, "metadata_size": 0}).encode() + b"\n")
    computed = count_calls(FileInfoStore, "_compute")
    other = reopened(node)
    assert other.project("foo") == first
    assert other.metadata("foo-1.0.tar.gz", unserved=True) is None
    assert not computed


def test_everything_but_the_uploader_can_be_recomputed_from_the_files(
    node: Node, directory: Path, alice: Person
) -> None:
    for version in ("1.0", "2.0"):
        node.publish(wheel_name("foo", version), io.BytesIO(wheel("foo", version)), identity=alice)
    before = project(node, "foo")
    shutil.rmtree(directory / ".index")
    after = reopened(node).project("foo")
    assert after is not None
    for old, new in zip(before.files, after.files, strict=True):
        assert replace(old, upload_time=new.upload_time, uploader=new.uploader) == new
        assert abs((old.upload_time - new.upload_time).total_seconds()) < 60, "the file's own time is nearly the same"


def test_a_read_only_directory_is_served_and_hashed_once(
    node: Node, directory: Path, count_calls: Count, tmp_path: Path
) -> None:
    path = put(directory, "foo", "1.0", folder="sub")
    (directory / ".index").write_text("here no folder can be made")
    hashed = count_calls(FileInfoStore, "_compute")
    repository = Repository(
        node.storage, node.name_locks, replace(node.options, scratch_directory=tmp_path, cached_files=0)
    )
    found = repository.project("foo")
    assert found is not None
    assert repository.metadata(f"sub/{path.name}") is not None
    repository._cache.put(replace_version(repository))
    assert repository.project("foo") == found
    assert len(hashed) == 1
    assert (directory / ".index").is_file()


def test_if_nothing_can_be_written_files_are_served_and_that_is_logged_once(
    node: Node, directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for version in ("1.0", "2.0", "3.0"):
        put(directory, "foo", version)
    (directory / ".index").write_text("here no folder can be made")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    options = replace(node.options, scratch_directory=scratch)
    scratch.rmdir()
    found = Repository(node.storage, node.name_locks, options).project("foo")
    assert found is not None
    assert found.versions == ("1.0", "2.0", "3.0")
    assert caplog.text.count("cannot be stored") == 1


def replace_version(repository: Repository) -> Any:
    """The cached project, marked stale."""
    cached = repository._cache.get("foo")
    assert cached is not None
    return replace(cached, version=-1)


def test_an_unreadable_file_affects_only_itself(node: Node, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(directory, "foo", "1.0")
    put(directory, "foo", "2.0")
    original = FileInfoStore._compute

    def fail(self: FileInfoStore, path: str, *arguments: Any) -> Any:
        if "1.0" in path:
            raise OSError(5, "Input/output error")
        return original(self, path, *arguments)

    monkeypatch.setattr(FileInfoStore, "_compute", fail)
    assert project(node, "foo").versions == ("2.0",)


def test_a_file_that_is_not_an_archive_is_listed_without_metadata(node: Node, directory: Path) -> None:
    (directory / "foo-1.0-py3-none-any.whl").write_bytes(b"text")
    (directory / "foo-1.0.tar.gz").write_bytes(b"")
    (directory / "foo-1.0.win32-py2.7.exe").write_bytes(b"MZ")
    files = project(node, "foo").files
    assert len(files) == 3
    assert all(file.metadata_sha256 is None for file in files)
    assert node.repository.metadata("foo-1.0.tar.gz") is None


def test_missing_file_info_is_computed_in_the_background_while_pages_are_served(node: Node, directory: Path) -> None:
    for number in range(40):
        put(directory, f"p{number % 4}", f"1.{number}")
    node.repository.start()
    node.repository.start()
    assert len(project(node, "p1").files) == 10
    sidecars = directory / ".index" / "facts"
    assert _soon(lambda: len(list(sidecars.iterdir())) == 40)
    node.repository.close()


# Annotations


def test_annotations_set_by_another_server_are_noticed(node: Node, directory: Path, alice: Person) -> None:
    put(directory, "foo", "1.0")
    other = Node(DirectoryStorage(directory), node.name_locks, node.options)
    assert project(node, "foo").files[0].yanked is None
    other.releases.yank("foo", version="1.0", reason="broken", identity=alice)
    assert _soon(lambda: project(node, "foo").files[0].yanked == "broken")
    other.releases.yank("foo", version="1.0", reason="worse!", identity=alice)
    assert _soon(lambda: project(node, "foo").files[0].yanked == "worse!")
    other.releases.set_status("foo", "deprecated", reason="use bar", identity=alice)
    assert _soon(lambda: project(node, "foo").status == "deprecated")
    assert project(node, "foo").status_reason == "use bar"
    other.releases.unyank("foo", version="1.0", identity=alice)
    assert _soon(lambda: project(node, "foo").files[0].yanked is None)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"status": "open"}', '{"status": 1}', '"archived"', "\x00"])
def test_an_unreadable_status_closes_the_project(node: Node, directory: Path, content: str) -> None:
    put(directory, "foo", "1.0")
    folder = directory / ".index" / "status"
    folder.mkdir(parents=True)
    (folder / "foo").write_text(content)
    assert project(node, "foo").status == "archived"


def test_temporarily_unreadable_annotations_stay_in_force(
    node: Node, directory: Path, adam: Person, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put(directory, "foo", "1.0")
    node.releases.set_status("foo", "quarantined", identity=adam)

    def fail(_: str) -> list[os.DirEntry[str]]:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("ops.index.packages.annotations._files", fail)
    os.utime(directory / ".index" / "status")
    for _ in range(5):
        time.sleep(0.03)
        assert node.repository.status("foo")[0] == "quarantined"
    assert sum("cannot be read" in record.getMessage() for record in caplog.records) == 1
    monkeypatch.undo()
    assert _soon(lambda: node.repository.status("foo")[0] == "quarantined")
    node.releases.set_status("foo", "active", identity=adam)
    assert _soon(lambda: node.repository.status("foo")[0] == "active")


@pytest.mark.parametrize("kind", ["revoked", "status", "yanked"])
def test_nothing_is_offered_until_the_annotations_were_read_once(
    node: Node, directory: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = put(directory, "foo", "1.0").name
    folder, scandir = str(directory / ".index" / kind), os.scandir

    def fail(listed: Any) -> Any:
        if listed == folder:
            raise OSError(errno.EIO, "Input/output error")
        return scandir(listed)

    monkeypatch.setattr(os, "scandir", fail)
    for ask in (node.repository.locate, node.repository.offers, node.repository.revocation, node.repository.has):
        with pytest.raises(StorageBusy, match=f"the annotations in {folder} cannot be read: Input/output error"):
            ask(path)
    monkeypatch.undo()
    assert node.repository.offers(path)


# Many files


@pytest.fixture
def hundred_thousand(monkeypatch: pytest.MonkeyPatch) -> int:
    """A directory that claims to have a hundred thousand files."""

    def read(path: str, folders: list[str], *, hurry: bool) -> Iterator[list[str]]:
        for start in range(0, 100_000, 100):
            numbers = range(start, start + 100)
            yield [f"project_{n % 10_000}-1.{n // 10_000}.{n % 7}-py3-none-any.whl" for n in numbers]

    monkeypatch.setattr(module, "_read", read)
    return 100_000


def test_a_hundred_thousand_names_take_little_memory(tmp_path: Path, hundred_thousand: int) -> None:
    gc.collect()
    tracemalloc.start()
    try:
        names = PackageDirectory(tmp_path, MemoryNameLocks(), Listing())
        names.look()
        gc.collect()
        current, peak = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        names.look(thoroughly=True)
        again = tracemalloc.get_traced_memory()[1] - current
    finally:
        tracemalloc.stop()
    assert len(names.listing) == hundred_thousand
    assert len(names.listing.projects()) == 10_000
    assert current < 15 * 1024**2
    assert peak < 20 * 1024**2
    assert again < 1024**2


def test_the_cache_of_projects_is_bounded(node: Node, directory: Path) -> None:
    for number in range(30):
        put(directory, f"p{number}", "1.0")
    repository = reopened(node, cached_files=10)
    for number in range(30):
        assert repository.project(f"p{number}") is not None
    assert len(repository._cache._projects) <= 10


def test_a_file_written_in_place_is_noticed_after_its_project_has_left_the_cache(node: Node, directory: Path) -> None:
    """Its page may still be in the cache of pages, which asks for the project's stamp only."""
    path = put(directory, "foo", "1.0")
    put(directory, "bar", "1.0")
    repository = reopened(node, cached_files=1, refresh_seconds=0.02)
    for name in ("foo", "bar"):
        assert repository.project(name) is not None
    stamp = repository.project_stamp("foo")
    for _ in range(5):
        time.sleep(0.025)
        assert repository.project_stamp("foo") == stamp
    with path.open("r+b") as file:
        file.write(wheel("foo", "1.0", payload=b"longer" * 50))
    assert _soon(lambda: repository.project_stamp("foo") != stamp)
    changed = repository.project("foo")
    assert changed is not None
    assert changed.files[0].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert repository.project("bar") is not None
    stamp = repository.project_stamp("foo")
    time.sleep(0.025)
    assert repository.project_stamp("foo") == stamp


def test_a_project_that_has_left_the_cache_is_not_built_again_for_a_revoked_file(node: Node, directory: Path) -> None:
    path = put(directory, "foo", "1.0")
    put(directory, "foo", "2.0")
    put(directory, "bar", "1.0")
    repository = reopened(node, cached_files=1, refresh_seconds=0.02)
    repository.annotations.revoke(hashlib.sha256(path.read_bytes()).hexdigest(), [path.name], "bad")
    for name in ("foo", "bar"):
        assert repository.project(name) is not None
    stamp = repository.project_stamp("foo")
    time.sleep(0.025)
    assert repository.project_stamp("foo") == stamp


def test_locked_names_are_hidden_until_they_are_released(tmp_path: Path) -> None:
    name_locks = MemoryNameLocks()
    node = Node(DirectoryStorage(tmp_path / "packages"), name_locks, Options())
    name_locks.acquire("foo-1-py3-none-any.whl")
    path = put(node.directory, "foo", "1.0")
    assert not node.listed()
    assert node.repository.locate(path.name) is None
    put(node.directory, "foo", "2.0")
    assert _soon(lambda: node.listed() == {wheel_name("foo", "2.0")})
    name_locks.release("foo-1-py3-none-any.whl")
    assert _soon(lambda: len(node.listed()) == 2)


def test_a_locked_name_that_vanishes_is_never_listed(tmp_path: Path) -> None:
    name_locks = MemoryNameLocks()
    node = Node(DirectoryStorage(tmp_path / "packages"), name_locks, Options())
    name_locks.acquire("foo-1-py3-none-any.whl")
    path = put(node.directory, "foo", "1.0")
    assert not node.listed()
    path.unlink()
    name_locks.release("foo-1-py3-none-any.whl")
    for _ in range(20):
        assert not node.listed()
        time.sleep(0.01)
