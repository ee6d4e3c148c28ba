"""Uploads are checked, made durable, only then visible, and never changed."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ops.index.auth.audit import Audit
from ops.index.config import Options
from ops.index.errors import (
    BadRequest,
    Busy,
    DigestMismatch,
    FieldMismatch,
    FileTaken,
    Forbidden,
    InvalidArchive,
    InvalidFilename,
    InvalidUpload,
    NotFound,
    PackageIndexError,
    ProjectClosed,
    StorageError,
    StorageFull,
    StorageReadOnly,
    TooLarge,
)
from ops.index.packages import staged, uploads
from ops.index.packages.uploads import Publisher, UploadResult
from ops.index.storage import directory, transaction
from ops.index.storage.directory import DirectoryStorage
from ops.index.storage.name_locks import FileNameLocks
from tests.index.archives import sdist, wheel, wheel_name
from tests.index.conftest import Node, Person
from tests.index.serving import eventually

NAME = "foo_bar-1.0-py3-none-any.whl"
CONTENT = wheel("foo-bar", "1.0", payload=b"first")
OTHER = wheel("foo-bar", "1.0", payload=b"other")
SIGNATURE = b"-----BEGIN PGP SIGNATURE-----\n\n=abcd\n-----END PGP SIGNATURE-----\n"


def publish(node: Node, filename: str = NAME, content: bytes = CONTENT, **more: Any) -> UploadResult:
    more.setdefault("identity", Person())
    return node.publish(filename, io.BytesIO(content), **more)


def left_over(node: Node) -> list[str]:
    """Leftovers of an upload: scratch files, locks, and info of files that do not exist."""
    index = node.directory / ".index"
    found = [str(path) for path in (index / "staging").glob("*") if not path.name.endswith("-lock")]
    found += [str(path) for path in (index / "claims").glob("[!.]*")]
    found += [str(path) for path in (index / "facts").glob("*") if not (node.directory / path.name).exists()]
    return found


def path_of(descriptor: int) -> Path:
    return Path(f"/proc/self/fd/{descriptor}").readlink()


def assert_nothing_came(node: Node, filename: str = NAME) -> None:
    assert not (node.directory / filename).exists()
    assert filename not in node.listed()
    assert not left_over(node)


def test_an_upload_is_complete_listed_and_logged(node: Node) -> None:
    form = {"name": "foo-bar", "version": "1.0", "sha256_digest": hashlib.sha256(CONTENT).hexdigest()}
    assert publish(node, form=form, address="192.0.2.1") is UploadResult.CREATED
    assert (node.directory / NAME).read_bytes() == CONTENT
    assert node.listed() == {NAME}
    assert node.audit.events == [
        {
            "event": "upload",
            "user": "alice",
            "address": "192.0.2.1",
            "filename": NAME,
            "project": "foo-bar",
            "version": "1.0",
            "sha256": hashlib.sha256(CONTENT).hexdigest(),
            "size": len(CONTENT),
        }
    ]
    assert not left_over(node)


def test_a_file_is_synced_before_it_is_named_and_its_folder_before_it_is_listed(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []

    def noted(step: str | None, action: Callable[..., None]) -> Callable[..., None]:
        def act(*arguments: Any) -> None:
            steps.append(step or f"sync {'folder' if path_of(arguments[0]) == node.directory else 'file'}")
            action(*arguments)

        return act

    monkeypatch.setattr(os, "fsync", noted(None, os.fsync))
    monkeypatch.setattr(uploads, "place", noted("place", directory.place))
    monkeypatch.setattr(node.repository.package_directory, "add", noted("show", node.repository.package_directory.add))
    publish(node)
    assert steps == ["sync file", "place", "sync folder", "show"]


def test_the_audit_line_of_an_upload_is_synced_in_parallel_with_its_file(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = Audit(node.storage)
    node.transactions.audit = audit
    both = threading.Barrier(2, timeout=60)
    sync = os.fsync

    def meeting(descriptor: int) -> None:
        if path_of(descriptor).suffix == ".jsonl" or path_of(descriptor).parent.name == "staging":
            both.wait()
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", meeting)
    publish(node)
    (log,) = (node.directory / ".index" / "audit").iterdir()
    assert '"upload"' in log.read_text()


def test_the_audit_line_of_an_upload_is_synced_in_parallel_with_another_s_name(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.transactions.audit = Audit(node.storage)
    naming, line, go_on = threading.Event(), threading.Event(), threading.Event()
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        if path_of(descriptor) == node.directory:
            naming.set()
            assert go_on.wait(60)
        elif path_of(descriptor).suffix == ".jsonl" and naming.is_set():
            line.set()
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with ThreadPoolExecutor(2) as pool:
        try:
            one = pool.submit(publish, node)
            assert naming.wait(60)
            other = pool.submit(publish, node, "spam-1.0-py3-none-any.whl", wheel("spam", "1.0"))
            assert line.wait(60)
        finally:
            go_on.set()
    assert one.result() is other.result() is UploadResult.CREATED


def test_an_upload_has_its_turn_except_while_it_waits(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(node.storage, DirectoryStorage)
    turn, key = node.storage._turns._lock, "foo_bar-1-py3-none-any.whl"
    steps: list[tuple[str, bool]] = []

    def noted(step: str, action: Callable[..., None]) -> Callable[..., None]:
        def act(*arguments: Any) -> None:
            steps.append((step, turn.locked()))
            action(*arguments)

        return act

    monkeypatch.setattr(os, "fsync", noted("sync", os.fsync))
    monkeypatch.setattr(uploads, "place", noted("place", directory.place))
    monkeypatch.setattr(node.repository.package_directory, "add", noted("show", node.repository.package_directory.add))
    monkeypatch.setattr(time, "sleep", noted("wait for the name", lambda _: node.name_locks.release(key)))
    node.name_locks.acquire(key)
    with node.publisher.turn():
        publish(node)
    assert steps == [("wait for the name", False), ("sync", False), ("place", True), ("sync", False), ("show", True)]
    assert not turn.locked()


def test_identical_bytes_again_succeed_and_change_nothing(node: Node) -> None:
    publish(node)
    before = (node.directory / NAME).stat()
    stamp = node.repository.project_stamp("foo-bar")
    assert publish(node) is UploadResult.SAME
    assert (node.directory / NAME).stat().st_mtime_ns == before.st_mtime_ns
    assert node.repository.project_stamp("foo-bar") == stamp
    assert len(node.audit.events) == 1


def test_different_bytes_under_an_existing_name_are_refused(node: Node) -> None:
    publish(node)
    with pytest.raises(FileTaken, match="never changes") as refused:
        publish(node, content=OTHER)
    assert refused.value.status == 409
    assert refused.value.status_for("twine/7.0.0 CPython/3.12") == 400
    assert refused.value.status_for("uv/0.13") == 409
    assert (node.directory / NAME).read_bytes() == CONTENT
    assert not left_over(node)


@pytest.mark.parametrize("spelling", ["Foo_Bar-1.0-py3-none-any.whl", "foo.bar-1.0.0-py3-none-any.whl"])
def test_another_spelling_of_a_name_is_refused_even_with_the_same_bytes(node: Node, spelling: str) -> None:
    publish(node)
    with pytest.raises(FileTaken, match=r"another spelling of 'foo_bar-1\.0-py3-none-any\.whl'"):
        publish(node, spelling)
    assert node.listed() == {NAME}


def test_a_file_left_by_stock_pypiserver_is_not_overwritten(node: Node) -> None:
    (node.directory / "sub").mkdir()
    (node.directory / "sub" / NAME).write_bytes(OTHER)
    with pytest.raises(FileTaken):
        publish(node)
    assert publish(node, content=OTHER) is UploadResult.SAME
    assert node.listed() == {NAME}
    assert not (node.directory / NAME).exists()


def test_a_file_that_appears_at_the_last_moment_is_not_overwritten(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(scratch: str, path: str) -> None:
        Path(path).write_bytes(OTHER)
        directory.place(scratch, path)

    monkeypatch.setattr(uploads, "place", late)
    with pytest.raises(FileTaken):
        publish(node)
    assert (node.directory / NAME).read_bytes() == OTHER


def meanwhile(node: Node, monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Run an action between the first checks of an upload and its transaction."""
    begin = node.transactions.begin

    def late(*arguments: Any, **named: Any) -> Any:
        monkeypatch.undo()
        act()
        return begin(*arguments, **named)

    monkeypatch.setattr(node.transactions, "begin", late)


def test_identical_bytes_that_appear_meanwhile_are_made_durable_before_success(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their writer may have been killed before that."""
    commits: list[None] = []

    def act() -> None:
        (node.directory / NAME).write_bytes(CONTENT)
        monkeypatch.setattr(node.storage, "commit", lambda: commits.append(None))

    meanwhile(node, monkeypatch, act)
    assert publish(node) is UploadResult.SAME
    assert len(commits) == 1
    assert not node.audit.events


def test_a_project_closed_meanwhile_accepts_no_upload(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(node)
    other = Node(node.storage, node.name_locks, node.options)
    meanwhile(node, monkeypatch, lambda: other.releases.set_status("foo-bar", "archived", identity=Person()))
    with pytest.raises(ProjectClosed):
        publish(node, wheel_name("foo-bar", "2.0"), wheel("foo-bar", "2.0"))
    assert node.listed() == {NAME}


def test_without_hard_links_a_file_is_still_not_overwritten(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_link)
    assert publish(node) is UploadResult.CREATED
    assert (node.directory / NAME).read_bytes() == CONTENT
    with pytest.raises(FileExistsError):
        directory.place(str(node.directory / NAME), str(node.directory / NAME))
    assert not left_over(node)


# What is checked


@pytest.mark.parametrize("algorithm", ["md5", "sha256", "blake2_256"])
def test_a_wrong_digest_is_refused_and_a_correct_one_is_not(node: Node, algorithm: str) -> None:
    right = staged.ALGORITHMS[algorithm]()
    right.update(CONTENT)
    for wrong in ("0" * 64, "ß", right.hexdigest()[:-1]):
        with pytest.raises(DigestMismatch, match=algorithm):
            publish(node, form={f"{algorithm}_digest": wrong})
        assert_nothing_came(node)
    assert publish(node, form={f"{algorithm}_digest": right.hexdigest().upper()}) is UploadResult.CREATED


def test_a_blake2_256_digest_of_128_digits_is_compared_as_one_of_512_bits(node: Node) -> None:
    """As sent by setuptools."""
    right = hashlib.blake2b(CONTENT).hexdigest()
    for wrong in (hashlib.blake2b(OTHER).hexdigest(), right[:64], right[:-1], right + "0"):
        with pytest.raises(DigestMismatch, match="blake2_"):
            publish(node, form={"blake2_256_digest": wrong})
        assert_nothing_came(node)
    with pytest.raises(DigestMismatch, match=r"'ab', which is not a digest of 64 hexadecimal digits; send it again"):
        publish(node, form={"blake2_256_digest": "ab"})
    assert publish(node, form={"blake2_256_digest": right.upper()}) is UploadResult.CREATED


@pytest.mark.parametrize(
    ("filename", "content", "form", "error"),
    [
        (NAME, b"text", {}, InvalidArchive),
        (NAME, CONTENT[:-30], {}, InvalidArchive),
        (NAME, sdist("foo-bar", "1.0"), {}, InvalidArchive),
        ("foo_bar-1.0.tar.gz", CONTENT, {}, InvalidArchive),
        (NAME, CONTENT, {"name": "other"}, FieldMismatch),
        (NAME, CONTENT, {"version": "1.1"}, FieldMismatch),
        ("foo_baz-1.0-py3-none-any.whl", CONTENT, {}, InvalidArchive),
        ("foo_bar-1.1-py3-none-any.whl", CONTENT, {}, InvalidArchive),
        ("foo_baz-1.0.tar.gz", sdist("foo-bar", "1.0"), {}, FieldMismatch),
        ("../" + NAME, CONTENT, {}, InvalidFilename),
        ("/" + NAME, CONTENT, {}, InvalidFilename),
        ("." + NAME, CONTENT, {}, InvalidFilename),
        ("foo bar-1.0-py3-none-any.whl", CONTENT, {}, InvalidFilename),
        ("foo_bar-1.0.exe", CONTENT, {}, InvalidFilename),
        ("foo_bar-1.0.win32-py2.7.exe", CONTENT, {}, InvalidFilename),
        ("foo_bar-one.tar.gz", sdist("foo-bar", "one"), {}, InvalidFilename),
        ("foo__bar-1.0-py3-none-any.whl", CONTENT, {}, InvalidFilename),
        ("_foo-1.0-py3-none-any.whl", wheel("_foo", "1.0"), {}, InvalidFilename),
        ("foo+bar-1.0-py3.8.egg", CONTENT, {}, InvalidFilename),
        ("x" * 250 + "-1.0.tar.gz", CONTENT, {}, InvalidFilename),
        ("", CONTENT, {}, InvalidFilename),
    ],
)
def test_a_contradictory_upload_is_refused_and_leaves_nothing(
    node: Node, filename: str, content: bytes, form: dict[str, str], error: type[InvalidUpload]
) -> None:
    with pytest.raises(error) as refused:
        publish(node, filename, content, form=form)
    assert refused.value.status == 400
    assert "\n" not in refused.value.message
    assert not [path for path in node.directory.iterdir() if path.name != ".index"]
    assert not left_over(node)
    assert not node.audit.events


def test_a_too_large_upload_is_refused_before_it_fills_the_disk(node: Node) -> None:
    small = Node(node.storage, node.name_locks, replace(node.options, max_upload_bytes=3_000_000))

    class Endless(io.RawIOBase):
        given = 0

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1, /) -> bytes:
            self.given += size
            return b"x" * size

    source = Endless()
    with pytest.raises(TooLarge) as refused:
        small.publish(NAME, source, identity=Person())  # type: ignore[arg-type] # reads like a file
    assert refused.value.status == 413
    assert source.given < 6_000_000
    assert_nothing_came(node)


# Who may


def test_a_user_without_rights_in_a_project_is_refused(node: Node) -> None:
    carol = Person("carol", projects=frozenset({"spam"}))
    with pytest.raises(Forbidden, match="'carol' may not upload to the project 'foo-bar'"):
        publish(node, identity=carol)
    assert_nothing_came(node)
    publish(node)
    with pytest.raises(Forbidden):
        publish(node, identity=carol)
    with pytest.raises(Forbidden):
        node.releases.yank("foo-bar", version="1.0", identity=carol)
    with pytest.raises(Forbidden):
        node.releases.unyank("foo-bar", version="1.0", identity=carol)
    with pytest.raises(Forbidden):
        node.releases.set_status("foo-bar", "archived", identity=carol)


def test_only_an_admin_can_remove_files_and_removed_names_cannot_be_reused(
    node: Node, alice: Person, adam: Person
) -> None:
    publish(node)
    node.releases.yank("foo-bar", version="1.0", reason="bad", identity=alice)
    with pytest.raises(Forbidden, match="only yank"):
        node.releases.remove("foo-bar", version="1.0", identity=alice)
    assert node.releases.remove("Foo.Bar", version="1", identity=adam) == [NAME]
    assert_nothing_came(node)
    assert node.audit.events[-1]["event"] == "remove"
    for server in (node, Node(DirectoryStorage(node.directory), node.name_locks, node.options)):
        with pytest.raises(FileTaken, match="removed"):
            publish(server, content=OTHER)
        with pytest.raises(FileTaken):
            publish(server, "Foo_Bar-1.0-py3-none-any.whl", wheel("Foo_Bar", "1.0"))
    assert publish(node) is UploadResult.CREATED, "identical bytes may return"
    assert node.repository.file(NAME).yanked is None  # type: ignore[union-attr] # it exists
    with pytest.raises(NotFound):
        node.releases.remove("foo-bar", version="2.0", identity=adam)
    with pytest.raises(NotFound):
        node.releases.remove("foo-bar", identity=adam)


# Signatures


def test_a_signature_comes_after_its_file_and_never_changes(node: Node, alice: Person) -> None:
    def sign(content: bytes = SIGNATURE) -> UploadResult:
        return node.publish_signature(f"{NAME}.asc", io.BytesIO(content), identity=alice)

    with pytest.raises(NotFound):
        sign()
    publish(node)
    with pytest.raises(InvalidArchive):
        sign(b"no signature")
    assert sign() is UploadResult.CREATED
    assert sign() is UploadResult.SAME
    with pytest.raises(FileTaken):
        sign(SIGNATURE + b"\n")
    assert node.repository.locate(f"{NAME}.asc") == (node.directory / f"{NAME}.asc", len(SIGNATURE))
    assert node.listed() == {NAME}
    assert not left_over(node)


# Yanks and statuses


def test_a_release_or_a_file_can_be_yanked_and_unyanked(node: Node, alice: Person) -> None:
    publish(node)
    publish(node, "foo_bar-1.0.tar.gz", sdist("foo-bar", "1.0"))
    publish(node, wheel_name("foo-bar", "2.0"), wheel("foo-bar", "2.0"))

    def yanked() -> dict[str, str | None]:
        found = node.repository.project("foo-bar")
        assert found is not None
        return {file.filename: file.yanked for file in found.files}

    both = [NAME, "foo_bar-1.0.tar.gz"]
    assert node.releases.yank("Foo_Bar", version="1.0.0", reason="bad\nbuild", identity=alice) == both
    assert yanked() == {NAME: "bad build", "foo_bar-1.0.tar.gz": "bad build", wheel_name("foo-bar", "2.0"): None}
    assert node.releases.unyank("foo-bar", filename=NAME, identity=alice) == [NAME]
    assert node.releases.yank("foo-bar", filename=wheel_name("foo-bar", "2.0"), identity=alice)
    assert yanked() == {NAME: None, "foo_bar-1.0.tar.gz": "bad build", wheel_name("foo-bar", "2.0"): ""}
    assert [event["event"] for event in node.audit.events[3:]] == ["yank", "unyank", "yank"]
    other = Node(DirectoryStorage(node.directory), node.name_locks, node.options)
    assert other.repository.project("foo-bar") == node.repository.project("foo-bar")
    for wanted in ({"version": "3.0"}, {"filename": "other"}, {"version": "1.0", "filename": "other"}, {}):
        with pytest.raises(NotFound):
            node.releases.yank("foo-bar", identity=alice, **wanted)


@pytest.mark.parametrize("status", ["archived", "quarantined"])
def test_a_closed_project_accepts_no_uploads(node: Node, adam: Person, status: str) -> None:
    publish(node)
    node.releases.set_status("foo-bar", status, reason="over", identity=adam)
    found = node.repository.project("foo-bar")
    assert found is not None
    assert (found.status, found.status_reason) == (status, "over")
    with pytest.raises(ProjectClosed, match=status):
        publish(node, wheel_name("foo-bar", "2.0"), wheel("foo-bar", "2.0"))
    with pytest.raises(ProjectClosed):
        node.publish_signature(f"{NAME}.asc", io.BytesIO(SIGNATURE), identity=adam)
    node.releases.set_status("foo-bar", "active", identity=adam)
    publish(node, wheel_name("foo-bar", "2.0"), wheel("foo-bar", "2.0"))


def test_only_admins_set_a_quarantine_and_only_existing_projects_have_a_status(
    node: Node, alice: Person, adam: Person
) -> None:
    with pytest.raises(NotFound):
        node.releases.set_status("foo-bar", "archived", identity=adam)
    publish(node)
    with pytest.raises(BadRequest, match="is not a project status"):
        node.releases.set_status("foo-bar", "open", identity=adam)
    with pytest.raises(Forbidden):
        node.releases.set_status("foo-bar", "quarantined", identity=alice)
    node.releases.set_status("foo-bar", "quarantined", identity=adam)
    with pytest.raises(Forbidden):
        node.releases.set_status("foo-bar", "active", identity=alice)
    node.releases.set_status("foo-bar", "deprecated", identity=adam)
    node.releases.set_status("foo-bar", "active", identity=alice)


# Concurrent uploads


def race(actions: list[Callable[[], UploadResult]]) -> list[UploadResult | PackageIndexError]:
    results: list[UploadResult | PackageIndexError] = []
    barrier = threading.Barrier(len(actions))

    def run(action: Callable[[], UploadResult]) -> None:
        barrier.wait()
        try:
            results.append(action())
        except PackageIndexError as error:
            results.append(error)

    threads = [threading.Thread(target=run, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


@pytest.mark.parametrize("servers", [1, 2])
def test_one_of_several_concurrent_uploads_of_a_name_wins(node: Node, servers: int) -> None:
    nodes = [node]
    if servers == 2:
        name_locks = FileNameLocks(node.directory / ".index" / "claims")
        nodes.append(Node(DirectoryStorage(node.directory), name_locks, node.options))
    for number in range(12):
        version = f"1.{number}"
        contents = [wheel("foo", version, payload=b"%d" % writer) for writer in range(4)]
        results = race(
            [
                partial(publish, nodes[writer % servers], wheel_name("foo", version), content)
                for writer, content in enumerate(contents)
            ]
        )
        assert results.count(UploadResult.CREATED) == 1
        assert sum(isinstance(result, FileTaken) for result in results) == 3
        stored = (node.directory / wheel_name("foo", version)).read_bytes()
        assert stored in contents
    assert not left_over(node)


def test_concurrent_uploads_of_identical_bytes_all_succeed(node: Node) -> None:
    results = race([lambda: publish(node)] * 6)
    assert sorted(results) == [UploadResult.CREATED, *[UploadResult.SAME] * 5]  # type: ignore[type-var] # no errors among them


def test_concurrent_uploads_in_two_spellings_are_one_name(node: Node) -> None:
    for number in range(8):
        version = f"1.{number}"
        filename_index = [f"foo_bar-{version}-py3-none-any.whl", f"Foo.Bar-{version}.0-py3-none-any.whl"]
        content = wheel("foo-bar", version)
        results = race([partial(publish, node, name, content) for name in filename_index])
        assert results.count(UploadResult.CREATED) == 1
        assert sum((node.directory / name).exists() for name in filename_index) == 1


def test_an_upload_does_not_wait_forever_for_another_of_the_same_name(node: Node) -> None:
    server = Node(node.storage, node.name_locks, replace(node.options, claim_seconds=0.1))
    node.name_locks.acquire("foo_bar-1-py3-none-any.whl")
    with pytest.raises(Busy) as refused:
        publish(server)
    assert refused.value.status == 503
    assert "Retry-After" in refused.value.headers
    node.name_locks.release("foo_bar-1-py3-none-any.whl")
    assert publish(server) is UploadResult.CREATED


# What may fail


@pytest.mark.parametrize("failing", ["file", "folder"])
def test_a_failing_fsync_is_an_error_and_the_file_is_never_visible(
    node: Node, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    node.listed()
    seen: set[str] = set()
    sync = os.fsync
    fail = True

    def fsync(descriptor: int) -> None:
        folder = path_of(descriptor) == node.directory
        seen.update(node.listed())
        if fail and folder == (failing == "folder"):
            raise OSError(errno.EIO, "Input/output error")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    for _ in range(3):
        with pytest.raises(StorageError) as refused:
            publish(node)
        assert refused.value.status == 500
        seen.update(node.listed())
        assert not (node.directory / NAME).exists()
    assert not seen
    fail = False
    eventually(lambda: not left_over(node))
    assert publish(node) is UploadResult.CREATED
    assert node.listed() == {NAME}


def test_a_file_that_cannot_be_removed_stays_hidden_until_it_can(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = os.fsync
    broken = True

    def fsync(descriptor: int) -> None:
        if broken and path_of(descriptor) == node.directory:
            raise OSError(errno.EIO, "Input/output error")
        sync(descriptor)

    def remove(path: str) -> bool:
        if broken and path.endswith(NAME):
            raise OSError(errno.EIO, "Input/output error")
        return directory.remove(path)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(uploads, "remove", remove)
    monkeypatch.setattr(transaction, "RETRY_SECONDS", (0.05,))
    with pytest.raises(StorageError):
        publish(node)
    other = Node(DirectoryStorage(node.directory), FileNameLocks(node.directory / ".index" / "claims"), node.options)
    assert (node.directory / NAME).exists()
    for _ in range(5):
        assert not node.listed()
        assert not other.listed()
        assert node.repository.locate(NAME) is None
        time.sleep(0.02)
    broken = False
    eventually(lambda: not left_over(node))
    assert_nothing_came(node)
    assert publish(other) is UploadResult.CREATED


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ENOSPC, StorageFull),
        (errno.EDQUOT, StorageFull),
        (errno.EIO, StorageError),
        (errno.EROFS, StorageReadOnly),
    ],
)
def test_every_disk_error_becomes_a_clear_error(
    node: Node, monkeypatch: pytest.MonkeyPatch, number: int, error: type[StorageError]
) -> None:
    node.listed()
    calls = {
        "write": (os, "write"),
        "open": (os, "open"),
        "link": (os, "link"),
        "rename": (os, "rename"),
    }
    for call, (owner, attribute) in calls.items():
        original = getattr(owner, attribute)

        def fail(*arguments: Any, original: Any = original, call: str = call, **named: Any) -> Any:
            ours = not isinstance(arguments[0], str) or "/.index/" in arguments[0]
            if ours and (call != "open" or arguments[1] & os.O_CREAT):
                raise OSError(number, os.strerror(number))
            return original(*arguments, **named)

        with monkeypatch.context() as patch:
            patch.setattr(owner, attribute, fail)
            if call == "rename":  # only sidecars are renamed, and they are optional
                assert publish(node, wheel_name("bar", "1.0"), wheel("bar", "1.0")) is UploadResult.CREATED
                continue
            with pytest.raises(error) as refused:
                publish(node)
            assert refused.value.status == error.status
        assert_nothing_came(node)
    assert publish(node) is UploadResult.CREATED


def test_a_full_disk_refuses_files_that_do_not_fit_and_keeps_the_others(small_disk: Path, options: Options) -> None:
    directory = small_disk / "packages"
    node = Node(DirectoryStorage(directory), FileNameLocks(directory / ".index" / "claims"), options)
    kept = {}
    refused = 0
    for number in range(40):
        name = wheel_name("foo", f"1.{number}")
        content = wheel("foo", f"1.{number}", payload=random.Random(number).randbytes(100_000))
        try:
            publish(node, name, content)
            kept[name] = content
        except StorageFull:
            refused += 1
            assert not (directory / name).exists()
    assert kept
    assert refused
    assert node.listed() == set(kept)
    for name, content in kept.items():
        assert (directory / name).read_bytes() == content
    assert not left_over(node)
    (directory / next(iter(kept))).unlink()
    assert publish(node, wheel_name("bar", "1.0"), wheel("bar", "1.0", payload=b"x" * 100)) is UploadResult.CREATED


def test_an_interrupted_upload_leaves_nothing(node: Node) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            piece = super().read(min(size or 1, 100))
            if self.tell() > 300:
                raise ConnectionResetError("gone")
            return piece

    with pytest.raises(ConnectionResetError):
        node.publish(NAME, Broken(CONTENT), identity=Person())
    assert_nothing_came(node)


def test_unfinished_files_of_killed_servers_are_removed_and_others_stay(node: Node) -> None:
    folder = node.directory / ".index" / "staging"
    folder.mkdir(parents=True)
    (folder / "123-0a1b2c3d4e5f-0").write_bytes(b"left")
    (folder / "123-0a1b2c3d4e5f-lock").write_bytes(b"")
    (folder / "unknown").write_bytes(b"recent")
    working = node.publisher.stage(NAME, identity=Person())
    working.write(b"half")
    other = Publisher(DirectoryStorage(node.directory), node.transactions, node.repository, node.options)
    other.start()
    eventually(lambda: not (folder / "123-0a1b2c3d4e5f-0").exists())
    assert Path(working.path).exists()
    assert (folder / "unknown").exists()
    working.discard()
    working.discard()
    assert not Path(working.path).exists()


# Anything

texts = st.text(max_size=30) | st.sampled_from(["foo-bar", "1.0", "../x", "\x00", "foo_bar", "1.0.0", "é", "\ud800"])
hostile_names = (
    st.text(max_size=60)
    | st.sampled_from(
        [NAME, f"../{NAME}", f"sub/{NAME}", f"{NAME}\x00", f"{NAME}\n", "foo_bar-1.0.tar.gz", ".", "..", "\ud800"]
    )
    | st.builds(lambda middle: f"foo_bar-1.0{middle}-py3-none-any.whl", st.text(max_size=10))
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    filename=hostile_names,
    form=st.dictionaries(st.sampled_from(["name", "version", "sha256_digest", "md5_digest", "x"]), texts),
    content=st.binary(max_size=50) | st.just(CONTENT) | st.just(sdist("foo-bar", "1.0")),
)
@example(filename="foo_bar-1.0-py3-none-any.whl", form={}, content=CONTENT)
def test_no_upload_creates_a_file_elsewhere_or_an_unexpected_error(
    node: Node, filename: str, form: dict[str, str], content: bytes
) -> None:
    before = set(node.directory.parent.iterdir())
    refusals: list[PackageIndexError] = []
    try:
        publish(node, filename, content, form=form)
    except PackageIndexError as error:
        refusals.append(error)
    try:
        node.publish_signature(filename, io.BytesIO(content), identity=Person())
    except PackageIndexError as error:
        refusals.append(error)
    for refusal in refusals:
        assert refusal.status in (400, 404, 409)
        assert "\n" not in refusal.message
    assert set(node.directory.parent.iterdir()) == before
    for path in node.directory.rglob("*"):
        inside = path.relative_to(node.directory).parts
        assert inside[0] == ".index" or path.name in {NAME, "foo_bar-1.0.tar.gz"}
