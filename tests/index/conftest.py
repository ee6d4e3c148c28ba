"""Fixtures for tests of the index's storage and uploads."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pytest

from ops.index.config import Options
from ops.index.packages.inspector import DeferredError
from ops.index.packages.releases import Releases, Uploader
from ops.index.packages.repository import Repository
from ops.index.packages.staged import Staged
from ops.index.packages.uploads import Publisher, UploadResult
from ops.index.sandbox.sandbox import Cancellation
from ops.index.storage.directory import DirectoryStorage
from ops.index.storage.name_locks import FileNameLocks, NameLocks
from ops.index.storage.storage import Storage
from ops.index.storage.transaction import Transactions
from ops.workspace import PROJECT_ROOT
from tests.conftest import DOWNLOADS
from tests.index.full_disk import mounted
from tests.index.serving import Server
from tests.index.volume import MemoryNameLocks, Remote, Volume

with warnings.catch_warnings():
    # On Python 3.11 and 3.12 its framework imports the deprecated module cgi, and on 3.11
    # its import hook is of the old kind.
    warnings.simplefilter("ignore")
    import pypiserver  # noqa: F401


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real server without packages, shared by the tests of a module."""
    with Server(tmp_path_factory.mktemp("index")) as running:
        yield running


@pytest.fixture
def watched(server: Server) -> Iterator[None]:
    """Fails the test if anything goes wrong inside the server."""
    with server.watched():
        yield


@dataclass
class FakeClock:
    """A clock that only moves when told to."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Person:
    """A fake identity."""

    username: str = "alice"
    may_administer: bool = False
    projects: frozenset[str] | None = None
    origin: Mapping[str, str] = field(default_factory=dict)

    def confirm(self) -> None:
        pass

    def may_upload(self, project: str) -> bool:
        return self.projects is None or project in self.projects

    def owner_of(self, project: str) -> str:
        return ""


@dataclass
class FakeAudit:
    """Records its calls."""

    events: list[dict[str, Any]] = field(default_factory=list)

    def record(self, event: str, *, user: str, address: str, **details: object) -> None:
        self.note(event, user=user, address=address, **details)

    def hold_back(self) -> None:
        """Do nothing: it is in memory."""

    def note(self, event: str, *, user: str, address: str, **details: object) -> None:
        self.events.append({"event": event, "user": user, "address": address, **details})


@dataclass
class Node:
    """One server's storage, name locks, repository and uploads."""

    storage: Storage
    name_locks: NameLocks
    options: Options
    audit: FakeAudit = field(default_factory=FakeAudit)

    def __post_init__(self) -> None:
        self.repository = Repository(self.storage, self.name_locks, self.options)
        transactions = Transactions(
            self.storage,
            self.name_locks,
            see_others=self.repository.reload,
            audit=self.audit,
            reserve=".index/reserve",
            lock_seconds=self.options.claim_seconds,
            rest_seconds=2 * self.options.refresh_seconds,
        )
        self.transactions = transactions
        self.publisher = Publisher(self.storage, transactions, self.repository, self.options)
        self.releases = Releases(self.storage, transactions, self.repository)

    @property
    def directory(self) -> Path:
        return self.storage.directory

    def listed(self) -> set[str]:
        """The file names on the pages."""
        found = [self.repository.project(name) for name in self.repository.projects()]
        return {file.filename for project in found if project is not None for file in project.files}

    def publish(
        self,
        filename: str,
        source: IO[bytes],
        *,
        form: Mapping[str, str] | None = None,
        identity: Uploader,
        address: str = "",
    ) -> UploadResult:
        """Publish the bytes of a stream as they arrive."""
        with self.staged(filename, source, identity) as staged:
            try:
                return self.publisher.publish(staged, form=form or {}, identity=identity, address=address)
            except DeferredError as deferred:
                self.publisher.inspect(deferred, Cancellation())
                return self.publisher.publish(staged, form=form or {}, identity=identity, address=address)

    def publish_signature(self, filename: str, source: IO[bytes], *, identity: Uploader) -> UploadResult:
        with self.staged(filename, source, identity) as staged:
            return self.publisher.publish_signature(staged, identity=identity)

    @contextmanager
    def staged(self, filename: str, source: IO[bytes], identity: Uploader) -> Iterator[Staged]:
        staged = self.publisher.stage(filename, identity=identity)
        try:
            while piece := source.read(1024**2):
                staged.write(piece)
            yield staged
        finally:
            staged.discard()

    def close(self) -> None:
        self.publisher.close()
        self.repository.close()


@pytest.fixture
def options() -> Options:
    return Options(claim_seconds=60.0, refresh_seconds=0.05)


@pytest.fixture
def node(tmp_path: Path, options: Options) -> Iterator[Node]:
    """A server on a local directory."""
    directory = tmp_path / "packages"
    server = Node(DirectoryStorage(directory), FileNameLocks(directory / ".index" / "claims"), options)
    yield server
    server.close()


@dataclass
class Cluster:
    """Servers on one Volume."""

    folder: Path
    options: Options
    remote: Remote
    name_locks: NameLocks = field(default_factory=MemoryNameLocks)
    nodes: list[Node] = field(default_factory=list)

    def open(self, **settings: Any) -> Node:
        volume = Volume(self.remote, self.folder / f"view{len(self.nodes)}", **settings)
        server = Node(volume, self.name_locks, self.options)
        self.nodes.append(server)
        return server


@pytest.fixture
def cluster(tmp_path: Path, options: Options) -> Iterator[Cluster]:
    """A Volume on which servers can be opened."""
    place = Cluster(tmp_path, options, Remote(tmp_path / "remote"))
    yield place
    for server in place.nodes:
        server.close()
        volume_of(server).kill()


def volume_of(server: Node) -> Volume:
    assert isinstance(server.storage, Volume)
    return server.storage


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    with mounted(tmp_path / "disk", "2m") as folder:
        yield folder


@pytest.fixture
def alice() -> Person:
    """A publisher."""
    return Person()


@pytest.fixture
def adam() -> Person:
    """An admin."""
    return Person("adam", may_administer=True)


@pytest.fixture(scope="session")
def project_managers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with poetry, pdm and hatch, whose requirements conflict with ours."""
    folder, requirements = tmp_path_factory.mktemp("programs"), PROJECT_ROOT / "tests" / "project_managers.txt"
    environment = {**os.environ, **DOWNLOADS, "VIRTUAL_ENV": str(folder)}
    for arguments in (
        ["venv", "--quiet", "--allow-existing", "--python", sys.executable, str(folder)],
        ["pip", "install", "--quiet", "--require-hashes", "--requirement", str(requirements)],
    ):
        command = [str(Path(sys.executable).parent / "uv"), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
        if done.returncode:
            pytest.skip(f"this machine cannot download them: {done.stderr[-300:]}")
    return folder / "bin"
