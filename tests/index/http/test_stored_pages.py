"""A restarted server finds short project pages on the disk, and never shows one that is not current."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import io
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ops.index.activity import Activity
from ops.index.http import blocks, simple_pages, stored_pages
from ops.index.http.namespaces import Namespaces
from ops.index.http.negotiation import HTML, HTML_V1, JSON_V1
from ops.index.http.representation import Representation, Response
from ops.index.http.request import Request
from ops.index.http.simple_api import SimpleApi
from ops.index.http.simple_pages import content_type
from ops.index.http.stored_pages import StoredPages
from ops.index.packages.file_info import FileInfoStore
from ops.index.packages.models import File, Project
from ops.index.packages.repository import Repository
from ops.index.storage import slow_disk
from ops.index.storage.directory import DirectoryStorage, StagingFolder
from ops.index.storage.name_locks import FileNameLocks
from tests.index.archives import wheel, wheel_name
from tests.index.conftest import Cluster, Node, Person
from tests.index.serving import Server, eventually

Count = Callable[[object, str], list[tuple[Any, ...]]]

ADMIN = Person("adam", may_administer=True)


@pytest.fixture(autouse=True)
def files_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files be in memory, on any file system, and no machine be too slow."""
    monkeypatch.setattr(stored_pages, "read_at_once", os.pread)
    monkeypatch.setattr(slow_disk, "_SLOW", math.inf)


@pytest.fixture
def published(node: Node) -> Node:
    """A server with two releases, and with another project."""
    for project, version in (("foo", "1.0"), ("foo", "2.0"), ("bar", "1.0")):
        publish(node, project, version)
    return node


def publish(node: Node, project: str, version: str) -> None:
    node.publish(wheel_name(project, version), io.BytesIO(wheel(project, version)), identity=ADMIN)


class Start:
    """A server that starts now, on the files of another.

    Parameters:
        node: the other server.
        rendering: render small pages at once; else what is shown at once was stored.
        options: of the new server.
    """

    def __init__(self, node: Node, *, rendering: bool = False, **options: Any) -> None:
        self.options = replace(node.options, **options)
        self.repository = Repository(node.storage, node.name_locks, self.options)
        self.repository.projects()
        namespaces = Namespaces(lambda: ()) if self.options.namespaces else None
        activity = Activity(node.storage, self.options, active_users=set)
        self.api = SimpleApi(self.repository, node.storage, self.options, activity, namespaces)
        if not rendering:
            vars(self.repository)["project_at_once"] = lambda name: None

    def ready(self, name: str = "foo", form: str = JSON_V1, **headers: str) -> bytes | None:
        """The page if it can be shown at once."""
        fields = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
        response = self._at_once(name, form, fields)
        return None if response is None else response.body

    def tag(self, form: str) -> bytes | None:
        """The entity tag of the page if it can be shown at once."""
        response = self._at_once("foo", form, {})
        return None if response is None else dict(response.headers)[b"etag"]

    def _at_once(self, name: str, form: str, fields: dict[bytes, bytes]) -> Response | None:
        async def ask() -> Response | None:
            return self.api.ready(f"/simple/{name}/", {b"accept": form.encode(), **fields})

        return asyncio.run(ask())

    def page(self, name: str = "foo", form: str = JSON_V1, **headers: str) -> bytes:
        """The page in any case; it is stored then."""
        sent: list[Any] = []
        fields = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}

        async def send(message: Any) -> None:
            sent.append(message)

        async def ask() -> None:
            scope = {"type": "http", "method": "GET", "path": f"/simple/{name}/", "query_string": b""}
            request = Request(scope, no_body, send, {b"accept": form.encode(), **fields}, "")
            await self.api.project(request, name, slash=True)

        asyncio.run(ask())
        self.api.save()
        return bytes(sent[1]["body"])


async def no_body() -> Any:
    raise AssertionError("a page is requested without a body")


def folder(node: Node) -> Path:
    return node.directory / ".index" / "pages"


@pytest.mark.parametrize("form", [JSON_V1, HTML, HTML_V1])
def test_a_page_rendered_before_a_restart_is_shown_without_reading_file_info(
    published: Node, form: str, count_calls: Count
) -> None:
    first = Start(published)
    assert first.ready(form=form) is None
    page = first.page(form=form)
    read = count_calls(FileInfoStore, "of")
    assert Start(published).ready(form=form) == page
    assert not read


@pytest.mark.parametrize(
    ("stored", "form"), [(JSON_V1, JSON_V1), (HTML, HTML), (HTML, HTML_V1), (HTML_V1, HTML), (HTML_V1, HTML_V1)]
)
def test_a_stored_page_has_the_entity_tag_of_a_rendered_one(published: Node, stored: str, form: str) -> None:
    Start(published).page(form=stored)
    tag = Start(published).tag(form)
    (folder(published) / "foo.json").unlink(missing_ok=True)
    (folder(published) / "foo.html").unlink(missing_ok=True)
    assert tag == Start(published, rendering=True).tag(form) is not None


def test_a_page_is_stored_compressed_for_those_who_accept_that(published: Node) -> None:
    for version in range(3, 30):
        publish(published, "foo", f"{version}.0")
    packed = Start(published).page(accept_encoding="gzip")
    other = Start(published)
    assert other.ready(accept_encoding="gzip") == packed
    assert packed[:2] == b"\x1f\x8b"
    assert packed in next(folder(published).iterdir()).read_bytes()
    assert other.ready() == Start(published).page()


def test_the_two_forms_of_a_page_are_not_confused(published: Node) -> None:
    Start(published).page(form=JSON_V1)
    (folder(published) / "foo.json").rename(folder(published) / "foo.html")
    assert Start(published).ready(form=HTML) is None


def add(node: Node) -> None:
    (node.directory / wheel_name("foo", "3.0")).write_bytes(wheel("foo", "3.0"))


def rewrite(path: Path, content: bytes) -> None:
    """Write a file in place, later than it was written before, however coarse the clock is."""
    before = path.stat()
    while path.stat().st_ctime_ns == before.st_ctime_ns:
        path.write_bytes(content)
        os.utime(path, ns=(before.st_mtime_ns + 10**9,) * 2)


def change_in_place(node: Node) -> None:
    rewrite(node.directory / wheel_name("foo", "1.0"), wheel("foo", "1.0", payload=b"x"))


def edit_info(node: Node) -> None:
    path = node.directory / ".index" / "facts" / wheel_name("foo", "1.0")
    line, _, rest = path.read_bytes().partition(b"\n")
    rewrite(path, json.dumps({**json.loads(line), "upload_time": 1.0}).encode() + b"\n" + rest)


CHANGES: dict[str, Callable[[Node], object]] = {
    "an upload": lambda node: publish(node, "foo", "3.0"),
    "a removal": lambda node: node.releases.remove("foo", version="1.0", identity=ADMIN),
    "a yank": lambda node: node.releases.yank("foo", version="1.0", identity=ADMIN),
    "a yank with a reason": lambda node: node.releases.yank("foo", version="1.0", reason="é\0\n", identity=ADMIN),
    "a deprecation": lambda node: node.releases.set_status("foo", "deprecated", identity=ADMIN),
    "a reason": lambda node: node.releases.set_status("foo", "active", reason="why", identity=ADMIN),
    "a quarantine": lambda node: node.releases.set_status("foo", "quarantined", identity=ADMIN),
    "a revocation": lambda node: node.releases.revoke("foo", version="1.0", identity=ADMIN),
    "another program's file": add,
    "another program's removal": lambda node: (node.directory / wheel_name("foo", "1.0")).unlink(),
    "another program's change of a file": change_in_place,
    "a change of file info": edit_info,
    "a loss of file info": lambda node: (node.directory / ".index" / "facts" / wheel_name("foo", "1.0")).unlink(),
}


@pytest.mark.parametrize("form", [JSON_V1, HTML])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_between_starts_shows_at_once(published: Node, change: Callable[[Node], object], form: str) -> None:
    before = Start(published).page(form=form)
    assert Start(published).ready(form=form) == before
    change(published)
    assert Start(published).ready(form=form) is None
    after = Start(published).page(form=form)
    assert Start(published).ready(form=form) in {after, None}  # None if file info was computed again just now
    assert Start(published).page(form=form) == after


def test_a_change_that_is_undone_makes_the_stored_page_current_again(published: Node) -> None:
    page = Start(published).page()
    published.releases.yank("foo", version="1.0", identity=ADMIN)
    assert Start(published).ready() is None
    published.releases.unyank("foo", version="1.0", identity=ADMIN)
    assert Start(published).ready() == page


def test_revoked_bytes_are_not_shown_wherever_they_are(published: Node) -> None:
    content = wheel("foo", "1.0")
    (published.directory / wheel_name("bar", "2.0")).write_bytes(content)
    Start(published).page("bar")
    assert Start(published).page("bar") == Start(published).ready("bar")
    published.repository.annotations.revoke(hashlib.sha256(content).hexdigest(), [], "malware")
    assert Start(published).ready("bar") is None
    assert wheel_name("bar", "2.0").encode() not in Start(published).page("bar")


def test_a_revoked_release_is_not_even_named_on_the_page_of_a_quarantined_project(published: Node) -> None:
    published.releases.set_status("foo", "quarantined", identity=ADMIN)
    Start(published).page()
    assert b'"1.0"' in (Start(published).ready() or b"")
    published.releases.revoke("foo", version="1.0", identity=ADMIN)
    server = Start(published)
    assert b'"1.0"' not in (server.ready() or server.page())


def test_another_address_of_the_index_makes_other_pages(published: Node) -> None:
    Start(published).page()
    assert Start(published, public_url="https://index.example/").ready() is None


def test_a_change_of_another_project_leaves_a_stored_page_current(published: Node) -> None:
    page = Start(published).page()
    publish(published, "bar", "2.0")
    assert Start(published).ready() == page


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "only zeros": lambda content: bytes(len(content)),
    "cut in the seal": lambda content: content[:20],
    "cut after the seal": lambda content: content[:32],
    "cut in the page": lambda content: content[:-1],
    "longer": lambda content: content + b"x",
    "one bit": lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
    "another length": lambda content: content[:35] + bytes([content[35] ^ 1]) + content[36:],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_page_that_a_crash_has_damaged_is_rendered_again(published: Node, damage: Callable[[bytes], bytes]) -> None:
    page = Start(published).page()
    stored = folder(published) / "foo.json"
    stored.write_bytes(damage(stored.read_bytes()))
    assert Start(published).ready() is None
    assert Start(published).page() == page
    assert Start(published).ready() == page


def test_a_page_of_another_project_under_this_name_is_not_shown(published: Node) -> None:
    Start(published).page("foo")
    (folder(published) / "foo.json").rename(folder(published) / "bar.json")
    assert Start(published).ready("bar") is None


def test_a_page_that_was_forged_in_a_folder_handed_over_is_not_shown(published: Node, tmp_path: Path) -> None:
    forger = Start(published)
    project = forger.repository.project("foo")
    assert project is not None
    assert forger.api._stored is not None
    forged = b'<a href="https://attacker.example/foo-9.whl">foo-9.whl</a>'
    forger.api._stored.write(project, HTML, Representation(forged, content_type=content_type(HTML)))
    assert b"attacker" in (Start(published).ready(form=HTML) or b"")  # writing to the folder in use is enough
    copy = tmp_path / "copy"
    shutil.copytree(published.directory, copy)  # with all modification times, like most archives
    storage = DirectoryStorage(copy)
    handed_over = replace(published, storage=storage, name_locks=FileNameLocks(copy / ".index" / "claims"))
    assert Start(handed_over).ready(form=HTML) is None
    assert b"attacker" not in Start(handed_over).page(form=HTML)


def test_a_stored_file_that_is_longer_than_any_page_is_not_read(published: Node, count_calls: Count) -> None:
    Start(published).page()
    os.truncate(folder(published) / "foo.json", 2**40)
    read = count_calls(stored_pages, "read_at_once")
    assert Start(published).ready() is None
    assert not read


@pytest.mark.parametrize("name", ["", "..", "../facts", "unknown", "foo/..", "Foo"])
def test_a_name_that_is_not_listed_opens_no_file(published: Node, name: str, count_calls: Count) -> None:
    Start(published).page()
    server = Start(published)
    opened = count_calls(os, "open")
    assert server.ready(name) is None
    assert not [path for path, *_ in opened if "pages" in str(path)]


def test_a_page_that_is_not_in_memory_is_not_read_on_the_event_loop(
    published: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Start(published).page()
    monkeypatch.setattr(stored_pages, "read_at_once", lambda *_: None)
    assert Start(published).ready() is None
    assert Start(published).page() == page


@pytest.mark.parametrize("function", ["open", "stat"])
def test_a_slow_disk_delays_one_request_and_not_each(
    published: Node, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    now, real = 100.0, getattr(os, function)

    def slow(path: Any, *arguments: Any, **named: Any) -> Any:
        nonlocal now
        now += 1 if str(path).startswith(str(published.storage.directory)) else 0
        return real(path, *arguments, **named)

    page = Start(published).page()
    other = Start(published).page(form=HTML_V1)
    server = Start(published)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(slow_disk, "_SLOW", 0.5)
    with monkeypatch.context() as patch:
        patch.setattr(os, function, slow)
        server.ready()
        began = now
        assert server.ready(form=HTML_V1) is None
        assert now == began  # nothing was tried
    assert server.page() == page
    now += 60
    assert server.ready(form=HTML_V1) == other


def test_before_the_directory_has_been_read_nothing_waits_for_that(published: Node, count_calls: Count) -> None:
    Start(published).page()
    server = Start(published)
    server.repository.package_directory._folders[""].looked_at = 0.0  # as if only some names were listed yet
    looked = count_calls(server.repository.package_directory, "look")
    assert server.ready() is None
    assert not looked


def test_a_file_written_in_place_is_noticed_while_the_stored_page_is_shown(published: Node) -> None:
    page = Start(published).page()
    server = Start(published, refresh_seconds=0.01)
    assert server.ready() == page
    change_in_place(published)
    eventually(lambda: server.ready() is None)
    assert server.page() != page


def test_an_upload_shows_while_the_stored_page_is_shown(published: Node) -> None:
    page = Start(published).page()
    server = Start(published, refresh_seconds=1e9)
    assert server.ready() == page
    assert server.ready() == page
    add(published)
    eventually(lambda: server.ready() is None)
    assert wheel_name("foo", "3.0").encode() in server.page()


def test_a_page_in_memory_is_newer_than_the_stored_one(published: Node, count_calls: Count) -> None:
    server = Start(published)
    server.page()
    read = count_calls(StoredPages, "read")
    add(published)
    eventually(lambda: server.ready() is None)
    assert not read


def test_an_upload_does_not_store_the_page_again(published: Node) -> None:
    server = Start(published)
    server.page()
    before = (folder(published) / "foo.json").read_bytes()
    publish(published, "foo", "3.0")
    eventually(lambda: server.ready() is None)
    server.page()
    assert (folder(published) / "foo.json").read_bytes() == before


def test_a_long_page_is_not_stored(published: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "LONG", 100)
    Start(published).page()
    assert not folder(published).exists()


def test_a_project_that_has_grown_is_not_compared_on_the_event_loop(
    published: Node, monkeypatch: pytest.MonkeyPatch, count_calls: Count
) -> None:
    Start(published).page()
    monkeypatch.setattr("ops.index.packages.repository._MANY_FILES", 1)
    compared = count_calls(FileInfoStore, "written")
    assert Start(published).ready() is None
    assert not compared


def test_pages_with_namespaces_are_not_stored(published: Node) -> None:
    Start(published, namespaces=True).page()
    assert not folder(published).exists()


def test_a_volume_holds_no_pages_and_none_are_looked_for(cluster: Cluster, count_calls: Count) -> None:
    node = cluster.open()
    publish(node, "foo", "1.0")
    page = Start(node).page()
    read = count_calls(StoredPages, "read")
    assert Start(node).ready() is None
    assert Start(node).page() == page
    assert not read
    assert not folder(node).exists()


def test_the_pages_of_a_removed_project_are_deleted(published: Node) -> None:
    server = Start(published)
    for name, form in (("foo", JSON_V1), ("foo", HTML), ("bar", JSON_V1)):
        server.page(name, form)
    (published.directory / wheel_name("foo", "1.0")).unlink()
    (published.directory / wheel_name("foo", "2.0")).unlink()
    eventually(lambda: not server.repository.has("foo"))
    server.api.save()
    assert [path.name for path in folder(published).iterdir()] == ["bar.json"]


def test_the_page_of_a_project_that_is_back_stays_stored(published: Node) -> None:
    server = Start(published)
    server.page("bar")
    (published.directory / wheel_name("bar", "1.0")).rename(published.directory / "away")
    eventually(lambda: not server.repository.has("bar"))
    (published.directory / "away").rename(published.directory / wheel_name("bar", "1.0"))
    eventually(lambda: server.repository.has("bar"))
    server.api.save()
    assert [path.name for path in folder(published).iterdir()] == ["bar.json"]


def test_a_running_server_stores_and_deletes_pages(tmp_path: Path) -> None:
    server = Server(tmp_path, "--refresh-seconds", "0.1")
    stored = server.packages / ".index" / "pages"
    stored.mkdir(parents=True)
    (stored / "left.json").write_text("by a server of before")
    release = server.packages / wheel_name("foo", "1.0")
    release.write_bytes(wheel("foo", "1.0"))
    with server:
        eventually(lambda: not (stored / "left.json").exists())
        assert server.get("/simple/foo/", Accept=JSON_V1).status == 200
        eventually((stored / "foo.json").exists)
        release.unlink()
        eventually(lambda: server.get("/simple/foo/").status == 404)
        eventually(lambda: not (stored / "foo.json").exists())


def test_a_page_is_not_stored_after_its_project_was_removed(published: Node) -> None:
    server = Start(published, rendering=True)
    assert server.ready("bar") is not None
    (published.directory / wheel_name("bar", "1.0")).unlink()
    eventually(lambda: not server.repository.has("bar"))
    server.api.save()
    assert not folder(published).exists()


def test_the_pages_of_projects_removed_by_others_are_deleted_after_the_start(published: Node) -> None:
    pages = {name: Start(published).page(name) for name in ("foo", "bar")}
    (published.directory / wheel_name("bar", "1.0")).unlink()
    (folder(published) / "left over").write_text("by anyone")
    server = Start(published)
    server.api.sweep()
    assert [path.name for path in folder(published).iterdir()] == ["foo.json"]
    assert server.ready() == pages["foo"]


def test_the_size_of_all_stored_pages_is_limited(published: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    Start(published).page("foo")
    os.utime(folder(published) / "foo.json", (1, 1))
    Start(published).page("bar")
    monkeypatch.setattr(stored_pages, "_MOST", (folder(published) / "bar.json").stat().st_size)
    server = Start(published)
    server.api.sweep()
    assert not list(folder(published).iterdir())
    for name in ("foo", "bar"):
        server.page(name)
        assert [path.name for path in folder(published).iterdir()] == [f"{name}.json"]


def test_a_small_page_is_rendered_at_once_and_stored_later(published: Node) -> None:
    page = Start(published, rendering=True).ready()
    assert page == Start(published).page()
    server = Start(published, rendering=True)
    assert server.ready(form=HTML) is not None
    assert not (folder(published) / "foo.html").exists()
    server.api.save()
    assert server.ready(form=HTML) == Start(published).ready(form=HTML) == Start(published).page(form=HTML)


def test_a_page_rendered_at_once_shows_each_change(published: Node) -> None:
    server = Start(published, rendering=True)
    for change in ("an upload", "a yank", "a revocation", "a deprecation", "a quarantine"):
        before = server.ready()
        assert before is not None
        CHANGES[change](published)
        eventually(lambda before=before: server.ready() not in {before, None})
        assert server.ready() == Start(published).page()


@pytest.mark.parametrize("change", ["a loss of file info", "another program's change of a file"])
def test_no_file_is_read_at_once(published: Node, change: str, count_calls: Count) -> None:
    CHANGES[change](published)
    computed = count_calls(FileInfoStore, "_compute")
    server = Start(published, rendering=True)
    assert server.ready() is None
    assert not computed
    assert server.page() == Start(published, rendering=True).ready()


def test_a_project_with_many_files_is_not_rendered_at_once(
    published: Node, monkeypatch: pytest.MonkeyPatch, count_calls: Count
) -> None:
    monkeypatch.setattr("ops.index.packages.repository._FEW_FILES", 1)
    read = count_calls(FileInfoStore, "recorded")
    assert Start(published, rendering=True).ready() is None
    assert not read
    assert Start(published, rendering=True).ready("bar") is not None


def test_a_page_is_shown_even_if_it_cannot_be_stored(published: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    page = Start(published).page("bar")
    monkeypatch.setattr(StagingFolder, "replace", full)
    assert Start(published).page("bar") == page
    assert Start(published).page("foo") == Start(published).page("foo")


EVERYTHING = Project(
    "foo",
    tuple(
        File(
            f"foo-{version}-py3-none-any.whl",
            f"sub/foo-{version}-py3-none-any.whl",
            "foo",
            version,
            7,
            "0" * 64,
            datetime(2026, 1, 2, 3, 4, 5, 6, UTC),
            requires,
            metadata,
            yanked,
            "alice",
            provenance=provenance,
        )
        for version, requires, metadata, yanked, provenance in (
            ("1.0", None, None, None, ""),
            ("2.0", ">=3.8,<4", "1" * 64, "", "https://index.example/packages/x.provenance"),
            ("3.0", "", "2" * 64, 'a "reason" & more: é', ""),
        )
    ),
    "deprecated",
    "use <bar>",
)


def test_other_bytes_of_the_same_project_have_another_format_version() -> None:
    bodies = [blocks.rendered(simple_pages.project_page(EVERYTHING, form)).body for form in (JSON_V1, HTML)]
    digest = hashlib.sha256(b"".join(bodies)).hexdigest()
    assert (stored_pages.FORMAT, digest[:16]) == (2, "04b8630f67626d6a"), "raise FORMAT, and replace these values"
