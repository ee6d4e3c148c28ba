"""Origins of a restoration: a snapshot in a bucket, or another server's directory of distributions."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Protocol

from ops.errors import SnapshotError
from ops.snapshots.backup import digest_of, read_snapshot
from ops.snapshots.bucket import SNAPSHOTS, Bucket
from ops.snapshots.snapshot import Item, Snapshot, name_of
from ops.targets.index_files import REMOVED, REVOKED, distribution, with_tombstones

LATEST = "latest"
"""Name for the newest snapshot."""

_PIECE = 1024**2


class Origin(Protocol):
    """Files for an index, and their bytes."""

    @property
    def snapshot(self) -> Snapshot:
        """The files by their hashes."""

    @property
    def is_complete(self) -> bool:
        """True if it also has annotations and users, which replace those of the index."""

    def fetch_blob(self, sha256: str, destination: IO[bytes]) -> int:
        """Copy bytes to *destination*, and return their number.

        Raises:
            SnapshotError: they are missing or differ.
        """


@dataclass(frozen=True)
class SnapshotOrigin:
    """One snapshot of a bucket.

    Parameters:
        bucket: with its blobs.
        snapshot: read from it.
    """

    bucket: Bucket
    snapshot: Snapshot
    is_complete: bool = True

    @classmethod
    def of(cls, bucket: Bucket, name: str) -> SnapshotOrigin:
        """The snapshot *name*, with the revocations and tombstones of the newest one of the same index.

        Neither ends because files are restored: revoked bytes may be malicious.

        Raises:
            SnapshotError: it is damaged.
            BucketError: the bucket cannot be read.
        """
        snapshot = read_snapshot(bucket, name)
        for later in reversed([each for each in bucket.snapshots() if each > name]):
            with contextlib.suppress(SnapshotError):  # it may be damaged
                newest = read_snapshot(bucket, later)
                if newest.place == snapshot.place:
                    return cls(bucket, _with_decisions(snapshot, newest))
        return cls(bucket, snapshot)

    def fetch_blob(self, sha256: str, destination: IO[bytes]) -> int:
        """Copy a blob to *destination*."""
        return self.bucket.fetch_blob(sha256, destination)


@dataclass(frozen=True)
class DirectoryOrigin:
    """Directory served by stock pypiserver, or filled by ``pip download`` or a build.

    Parameters:
        folder: the directory.
        snapshot: of the distributions and signatures in it, including subfolders.
        files: one path for each hash.
        skipped: files that no index would list.
    """

    folder: Path
    snapshot: Snapshot
    files: Mapping[str, str]
    skipped: tuple[str, ...]
    is_complete: bool = False

    @classmethod
    def of(cls, folder: Path) -> DirectoryOrigin:
        """Hash all distributions in *folder*.

        Raises:
            SnapshotError: there are none, or one cannot be read.
        """
        items: dict[str, Item] = {}
        skipped = []
        for root, folders, names in os.walk(folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                file = Path(root, name)
                path = file.relative_to(folder).as_posix()
                if distribution(path.removesuffix(".asc")) is None or not file.is_file():
                    skipped.append(path)
                    continue
                try:
                    sha256, size = digest_of(file)
                    items[path] = Item(sha256, size, int(file.stat().st_mtime))
                except OSError as error:
                    why = f"{error.strerror or error}: {file}"
                    raise SnapshotError(f"{path} cannot be read", why=why, todo="make it readable") from None
        if not items:
            raise SnapshotError(
                f"there is nothing to restore in {folder}",
                why="it has neither snapshots nor wheels or sdists",
                todo="name the folder or bucket that the notebook 06_back_up wrote to, or a directory of distributions",
            )
        snapshot = Snapshot(name_of(datetime.now(UTC)), f"the directory {folder.name}", items, {})
        return cls(folder, snapshot, {item.sha256: path for path, item in items.items()}, tuple(skipped))

    def fetch_blob(self, sha256: str, destination: IO[bytes]) -> int:
        """Copy a file to *destination*."""
        digest, size = hashlib.sha256(), 0
        path = self.folder / self.files[sha256]
        with path.open("rb") as stream:
            while piece := stream.read(_PIECE):
                digest.update(piece)
                size += destination.write(piece)
        if digest.hexdigest() != sha256:
            raise SnapshotError(f"{path} was changed meanwhile", todo="run this again once nothing writes there")
        return size

    def path_of(self, path: str) -> Path:
        """The file at *path* of the snapshot."""
        return self.folder / path


def find_origin(source: str, snapshot: str = LATEST) -> Origin:
    """The origin at *source*.

    Parameters:
        source: a folder or URL of :class:`Bucket`, or a directory of distributions.
        snapshot: ``latest``, the full name, or its beginning, such as a day, for the last match.

    Raises:
        SnapshotError: there is nothing with that name, or it is damaged.
        BucketError: the place cannot be read.
        ParameterError: *source* is not such a place.
    """
    folder = Path(source).expanduser()
    if "://" not in source and folder.is_dir() and not (folder / SNAPSHOTS).is_dir():
        return DirectoryOrigin.of(folder)
    bucket = Bucket.open(source)
    names = bucket.snapshots()
    found = [name for name in names if snapshot == LATEST or name.startswith(snapshot)]
    if not found or not snapshot:
        known = f"there are {len(names)}, from {names[0]} to {names[-1]}" if names else "there are none"
        raise SnapshotError(
            f"there is no snapshot {snapshot!r} in {source}",
            why=known,
            todo="use the beginning of a name listed by the notebook 06_back_up, such as its day, or latest",
        )
    return SnapshotOrigin.of(bucket, found[-1])


def _with_decisions(snapshot: Snapshot, newest: Snapshot) -> Snapshot:
    packages = dict(snapshot.packages)
    for path, item in newest.packages.items():
        if item.text is None or not path.startswith((REVOKED, REMOVED)):
            continue
        known = packages.get(path)
        if known is None:
            packages[path] = item
        elif path.startswith(REMOVED):
            packages[path] = Item.of_text(with_tombstones(known.content, item.content), item.modified)
    return replace(snapshot, packages=packages)
