"""Incrementally updated projects and pages equal freshly built ones."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ops.index.config import Options
from ops.index.errors import PackageIndexError
from ops.index.http import blocks, simple_pages, stored_pages
from ops.index.http.blocks import Page
from ops.index.http.negotiation import HTML, JSON_V1
from ops.index.http.representation import Representation
from ops.index.http.simple_pages import content_type
from ops.index.http.stored_pages import StoredPages
from ops.index.packages.file_info import FileInfoStore
from ops.index.packages.filenames import parse, version_key
from ops.index.packages.models import File, Project
from ops.index.packages.project_cache import in_order, versions_with
from ops.index.packages.repository import Repository
from ops.index.storage.directory import DirectoryStorage
from tests.index.archives import wheel, wheel_name
from tests.index.conftest import Cluster, Node, Person, volume_of
from tests.index.serving import eventually
from tests.index.volume import MemoryNameLocks, Remote

EXAMPLES = int(os.environ.get("HISTORIES", "25"))

ADMIN = Person("adam", may_administer=True)
PROJECTS = ("foo", "bar")
VERSIONS = ("1.0", "1.0.post1", "2.0rc1", "10.0")
ACTIONS = ("upload", "yank", "unyank", "remove", "status", "drop", "delete", "replace", "reload", "store")

# A failing history waits for servers to agree until it times out, so it is not shrunk.
thorough = settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)

steps = st.lists(
    st.tuples(
        st.sampled_from(ACTIONS),
        st.integers(0, 2),
        st.sampled_from(PROJECTS),
        st.sampled_from(VERSIONS),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=12,
)


State: TypeAlias = tuple[dict[str, Project | None], list[str | None]]
"""All projects, and the path of each possible file."""

Pages: TypeAlias = Mapping[tuple[str, str], blocks.RenderedPage]
"""By the name of their project and their form."""


class History:
    """Servers of one storage, and what happens to it.

    Parameters:
        servers: of the same storage.
        foreign: the directory in which others add, delete and replace files; None if no one can.
    """

    def __init__(self, servers: list[Node], foreign: Path | None) -> None:
        self.servers = servers
        self._pages: dict[int, Pages] = {}
        self._foreign = foreign
        self._time = 10**18

    def apply(self, action: str, server: int, project: str, version: str, number: int) -> None:
        """Make one change; a refused one changes nothing."""
        node = self.servers[server % len(self.servers)]
        releases, filename = node.releases, wheel_name(project, version)
        content = wheel(project, version, payload=b"x" * number)
        with contextlib.suppress(PackageIndexError):
            if action == "upload":
                node.publish(filename, io.BytesIO(content), identity=ADMIN)
            elif action == "yank":
                releases.yank(project, version=version, reason=f"reason {number}", identity=ADMIN)
            elif action == "unyank":
                releases.unyank(project, version=version, identity=ADMIN)
            elif action == "remove":
                releases.remove(project, version=version, identity=ADMIN)
            elif action == "status":
                status = ("active", "archived", "quarantined", "deprecated")[number]
                releases.set_status(project, status, reason="why", identity=ADMIN)
            elif action == "reload":
                node.repository.reload()
            elif action == "store":
                self._store(node, *(_fresh(node) if number % 2 else self._show(node)))
            elif self._foreign is not None:
                self._change(action, self._foreign / filename, content)
        self._show(node)

    def _show(self, node: Node) -> tuple[State, Pages]:
        """A server's projects and pages, built from earlier ones."""
        state = _state(node.repository)
        pages = self._pages[id(node)] = _pages(state[0], self._pages.get(id(node), {}))
        return state, pages

    def _store(self, node: Node, state: State, pages: Pages) -> None:
        """Store the pages that a server has rendered, perhaps before it saw a change. A Volume holds none."""
        if self._foreign is not None:
            stored = StoredPages(node.repository, node.storage, "")
            for (name, form), page in pages.items():
                project = state[0].get(name)
                if project is not None:
                    stored.write(project, form, Representation(page.body, content_type=content_type(form)))

    def _change(self, action: str, path: Path, content: bytes) -> None:
        if action == "drop" and not path.exists():
            path.write_bytes(content)
        elif action == "delete":
            path.unlink(missing_ok=True)
        elif action == "replace" and path.exists():
            path.write_bytes(content)
            self._time += 10**9
            os.utime(path, ns=(self._time, self._time))

    def check(self) -> None:
        """Compare each server with one that starts now."""
        for node in self.servers:
            eventually(lambda node=node: self._show(node) == _fresh(node))
            if self._foreign is not None:
                (projects, _), pages = _fresh(node)
                assert all(projects[name] == project for name, project in _at_once(node).items())
                assert all(pages[key].body == body for key, body in _stored(node).items())


def _state(repository: Repository) -> State:
    repository.refresh()
    names = [parse(wheel_name(project, version)) for project in PROJECTS for version in VERSIONS]
    return (
        {name: repository.project(name) for name in repository.projects()},
        [repository.find(name) for name in names if name is not None],
    )


def _pages(projects: Mapping[str, Project | None], before: Pages) -> Pages:
    """The list of projects and the page of each, in both forms."""
    made: dict[tuple[str, str], Page] = {}
    for form in (JSON_V1, HTML):
        made["", form] = simple_pages.project_list(tuple(projects), form)
        for name, project in projects.items():
            if project is not None:
                made[name, form] = simple_pages.project_page(project, form)
    return {key: blocks.rendered(page, before.get(key)) for key, page in made.items()}


def _fresh(node: Node) -> tuple[State, Pages]:
    state = _state(Repository(node.storage, node.name_locks, node.options))
    return state, _pages(state[0], {})


def _at_once(node: Node) -> dict[str, Project]:
    """The projects that the event loop of a server which starts now may read."""
    repository = Repository(node.storage, node.name_locks, node.options)
    found = {name: repository.project_at_once(name) for name in repository.projects()}
    return {name: project for name, project in found.items() if project is not None}


def _stored(node: Node) -> dict[tuple[str, str], bytes]:
    """The pages that a server which starts now finds on the disk."""
    repository = Repository(node.storage, node.name_locks, node.options)
    stored, found = StoredPages(repository, node.storage, ""), {}
    for name in repository.projects():
        for form in (JSON_V1, HTML):
            content = stored.read(name, form)
            page = None if content is None else stored.opened(content, repository.state(name), form)
            if page is not None:
                found[name, form] = page.body
    return found


@pytest.fixture(scope="module", autouse=True)
def short_blocks() -> Iterator[None]:
    """Keep even short pages in blocks, of two entries each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "LONG", 0)
        patch.setattr(stored_pages, "read_at_once", os.pread)  # on any file system
        for length in ("_FILES", "_VERSIONS", "_PROJECTS"):
            patch.setattr(simple_pages, length, 2)
        yield


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@thorough
@given(history=steps, count=st.sampled_from([1, 3]))
def test_servers_of_one_directory_equal_one_that_starts_now(
    history: list[tuple[str, int, str, str, int]], count: int
) -> None:
    with _folder() as folder:
        name_locks, options = MemoryNameLocks(), Options(refresh_seconds=0.01)
        servers = [Node(DirectoryStorage(folder), name_locks, options) for _ in range(count)]
        world = History(servers, folder)
        try:
            for step in history:
                world.apply(*step)
            world.check()
        finally:
            for server in servers:
                server.close()


@thorough
@given(history=steps, count=st.sampled_from([1, 3]))
def test_servers_of_one_volume_equal_one_that_starts_now(
    history: list[tuple[str, int, str, str, int]], count: int
) -> None:
    with _folder() as folder:
        cluster = Cluster(folder, Options(refresh_seconds=0.01), Remote(folder / "remote"))
        world = History([cluster.open() for _ in range(count)], None)
        try:
            for step in history:
                world.apply(*step)
            world.check()
        finally:
            for server in cluster.nodes:
                server.close()
                volume_of(server).kill()


def put(directory: Path, version: str, payload: bytes = b"") -> Path:
    path = directory / wheel_name("foo", version)
    path.write_bytes(wheel("foo", version, payload=payload))
    return path


def test_after_an_upload_only_the_new_file_is_read(
    node: Node, alice: Person, count_calls: Callable[[object, str], list[tuple[object, ...]]]
) -> None:
    for number in range(20):
        put(node.directory, f"1.{number}")
    assert len(_known(node).files) == 20
    read = count_calls(FileInfoStore, "of")
    for version in ("1.5.1", "0.1", "2.0"):
        node.publish(wheel_name("foo", version), io.BytesIO(wheel("foo", version)), identity=alice)
        assert version in _known(node).versions
    # The publisher reads nothing else either.
    assert {str(arguments[1]) for arguments in read} == {
        wheel_name("foo", version) for version in ("1.5.1", "0.1", "2.0")
    }
    assert _known(node).versions[0] == "0.1"
    assert _known(node).versions[-1] == "2.0"


def test_a_file_removed_and_added_again_is_read_again(node: Node) -> None:
    repository = Repository(node.storage, node.name_locks, replace(node.options, refresh_seconds=1e9))
    first = put(node.directory, "1.0", b"1")
    put(node.directory, "2.0")
    before = _sha256(repository, first.name)
    time.sleep(0.05)
    first.unlink()
    eventually(lambda: first.name not in set(repository.paths()))
    put(node.directory, "1.0", b"22")
    eventually(lambda: _sha256(repository, first.name) not in {before, None})


def _known(node: Node) -> Project:
    found = node.repository.project("foo")
    assert found is not None
    return found


def _sha256(repository: Repository, filename: str) -> str | None:
    project = repository.project("foo")
    return next((file.sha256 for file in project.files if file.filename == filename), None) if project else None


@pytest.mark.parametrize("count", [1, 40])
def test_new_files_are_sorted_whether_few_or_many(node: Node, count: int) -> None:
    put(node.directory, "5.0")
    assert _known(node).versions == ("5.0",)
    for number in range(count):
        put(node.directory, f"{number}.5")
    versions = [f"{number}.5" for number in range(count)]
    expected = sorted([*versions, "5.0"], key=float)
    eventually(lambda: list(_known(node).versions) == expected)


@thorough
@given(versions=st.lists(st.sampled_from(["1", "1.0", "1.0.0", "1.0.post1", "2.0rc1", "not-a-version"]), max_size=8))
def test_versions_with_new_files_equal_those_of_all_files(versions: list[str]) -> None:
    files: tuple[File, ...] = ()
    project = Project("foo", files)
    for number, version in enumerate(versions):
        new = File(f"foo-{version}-{number % 3}.zip", f"{number}", "foo", version, 0, "", datetime.now(UTC))
        files = in_order(files, [new])
        project = Project("foo", files, versions=versions_with(project.versions, [new]))
        assert project == Project("foo", files)


def test_dozens_of_files_are_put_among_thousands_without_comparing_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def file(number: int) -> File:
        return File(f"foo-1.{number}.zip", f"foo-1.{number}.zip", "foo", f"1.{number}", 0, "", datetime.now(UTC))

    known = in_order((), [file(number) for number in range(0, 6000, 2)])
    new = [file(number) for number in range(1, 120, 2)]
    expected = in_order((), [*known, *new])
    versions = Project("foo", expected).versions
    before = Project("foo", known).versions
    compared = set()

    def key(version: str) -> tuple[bool, Any]:
        compared.add(version)
        return version_key(version)

    monkeypatch.setattr("ops.index.packages.project_cache.version_key", key)
    assert in_order(known, new[::-1]) == expected
    assert versions_with(before, new[::-1]) == versions
    assert len(compared) < len(known) / 2
