"""An index on two volumes of this machine, a folder for its snapshots, and a bucket on loopback."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from ops.settings import CREDENTIALS_VOLUME, PACKAGES_VOLUME, Settings
from ops.snapshots import Backup, Bucket
from ops.targets.local import LocalTarget
from ops.workspace import Workspace

USERS = b"alice:$2y$04$abcdefghijklmnopqrstuv\nbob:$2y$04$bcdefghijklmnopqrstuvw\n"
GROUPS = b"publisher: alice\nreader: bob\n"


class Index(LocalTarget):
    """A local target without a server, whose files the test writes itself."""

    def write(self, path: str, content: bytes, volume: str = PACKAGES_VOLUME) -> Path:
        file = self.volume_folder(volume) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        return file

    def tree(self) -> dict[str, bytes]:
        """All files except locks, by volume and path."""
        return {
            f"{volume}/{path}": (self.volume_folder(volume) / path).read_bytes()
            for volume in (PACKAGES_VOLUME, CREDENTIALS_VOLUME)
            if self.volume_exists(volume)
            for path in (file.path for file in self.list_files(volume))
            if not path.endswith(".lock") and not path.startswith(".index/audit/")
        }


def make_index(home: Path, *, filled: bool = True) -> Index:
    """An index below *home*: two packages, a yank, a status, a tombstone, two users with roles."""
    index = Index(Workspace(home), Settings())
    if filled:
        index.create_volume(PACKAGES_VOLUME)
        index.create_volume(CREDENTIALS_VOLUME)
        index.write("spam-1.0.tar.gz", b"spam 1.0")
        index.write("spam-2.0.tar.gz", b"spam 2.0")
        index.write(".index/yanked/spam-1.0.tar.gz", b"too old")
        index.write(".index/status/spam", b'{"status": "deprecated", "reason": null}')
        index.write(".index/removed/3f", b"0" * 64 + b" eggs-1.tar.gz\n")
        index.write(".index/audit/2026-01-01.1-abc.jsonl", b'{"event": "upload"}\n')
        index.write(".index/staging/1-lock", b"")
        index.write(".htpasswd", USERS, CREDENTIALS_VOLUME)
        index.write(".htgroup", GROUPS, CREDENTIALS_VOLUME)
        index.write(".htpasswd.lock", b"", CREDENTIALS_VOLUME)
    return index


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """An index with something of everything."""
    return make_index(tmp_path / "index")


@pytest.fixture
def empty(tmp_path: Path) -> Index:
    """Another target with nothing on it."""
    return make_index(tmp_path / "empty", filled=False)


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    """A folder for snapshots."""
    return Bucket.open(str(tmp_path / "snapshots"), create=True)


@pytest.fixture
def backup(index: Index, bucket: Bucket) -> Backup:
    """The back-up of the index into the folder."""
    return Backup(index, bucket, "local")


def sha256(content: bytes) -> str:
    """The name of a blob."""
    return hashlib.sha256(content).hexdigest()


class Killed(BaseException):
    """Ends a run at any point, like a signal."""


class Counting:
    """Passes calls on to *real*, counts those of *methods*, and raises :class:`Killed` in the one numbered *fatal*.

    A call is cut off before or right after it, so that its effect may exist without being reported.
    """

    def __init__(self, real: Any, methods: tuple[str, ...], fatal: int = -1, *, after: bool = False) -> None:
        self._real, self._methods, self._fatal, self._after = real, methods, fatal, after
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._real, name)
        if name not in self._methods:
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            number, self.calls = self.calls, self.calls + 1
            if number == self._fatal and not self._after:
                raise Killed(name)
            result = method(*args, **kwargs)
            if number == self._fatal:
                raise Killed(name)
            return result

        return call
