"""Back-up: copies new files of an index into a bucket, then writes the snapshot that lists them.

The snapshot is written last and only once, so a killed run leaves blobs without a snapshot, which the next run
reuses. Uploads continue meanwhile: a file of an index appears complete and never changes, and one that vanishes
during the back-up is skipped. The small files with decisions are read at the end, between two equal listings.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from ops.errors import RunbookError, SnapshotError
from ops.settings import Settings
from ops.snapshots.bucket import Blob, Bucket
from ops.snapshots.retention import GRACE, Retention, unneeded
from ops.snapshots.scratch import scratch_folder
from ops.snapshots.snapshot import (
    CREDENTIALS,
    PACKAGES,
    Item,
    Snapshot,
    is_kept,
    is_log,
    is_text,
    name_of,
)
from ops.targets.target import VolumeFile

THREADS = 8
"""Files copied concurrently: a bucket takes some tens of milliseconds per request."""

ATTEMPTS = 10
"""Maximum number of reads of the small files while they are being changed."""

FACTS = ".index/facts/"
"""Folder with the index's info about each file (:mod:`ops.index.packages.sidecars`)."""

_PIECE = 1024**2


class VolumeReader(Protocol):
    """The part of a target that a back-up reads."""

    def volume_exists(self, name: str) -> bool:
        """True if there is a volume called *name*."""

    def list_files(self, volume: str) -> Sequence[VolumeFile]:
        """All files of a volume."""

    def download(self, volume: str, path: str, destination: Path) -> None:
        """Copy one file of a volume to *destination*."""


@dataclass(frozen=True, slots=True)
class _Needs:
    """Origin and blobs of one snapshot."""

    place: str
    blobs: frozenset[str]


@dataclass(frozen=True)
class Pending:
    """Difference between the index and its last snapshot.

    Parameters:
        files: number of files of the index that belong in a snapshot.
        size: of them, in bytes.
        new: number of those that are not in the last snapshot unchanged.
        new_size: of them, in bytes.
        gone: number of files that only the last snapshot has.
        last: the newest readable snapshot; None if there is none.
    """

    files: int
    size: int
    new: int
    new_size: int
    gone: int
    last: Snapshot | None


class Backup:
    """Takes, checks and removes the snapshots of one index.

    Parameters:
        reader: of its volumes.
        bucket: for the snapshots.
        place: the target's name, which distinguishes the snapshots of several indexes in one bucket.
        settings: names of the volumes.
        clock: returns the current time.
    """

    def __init__(
        self,
        reader: VolumeReader,
        bucket: Bucket,
        place: str,
        settings: Settings | None = None,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        settings = settings or Settings()
        self._reader = reader
        self._bucket = bucket
        self._place = place
        self._volumes = {PACKAGES: settings.packages_volume, CREDENTIALS: settings.credentials_volume}
        self._clock = clock
        self._read: dict[str, _Needs] = {}

    def last(self) -> Snapshot | None:
        """The newest readable snapshot of this index; None if there is none."""
        found = (snapshot for _, snapshot in self.history() if snapshot is not None and snapshot.place == self._place)
        return next(found, None)

    def history(self) -> Iterator[tuple[str, Snapshot | None]]:
        """Name and content of all snapshots in the bucket, newest first; None for the content of a damaged one."""
        for name in reversed(self._bucket.snapshots()):
            try:
                yield name, read_snapshot(self._bucket, name)
            except SnapshotError:
                yield name, None

    def pending(self) -> Pending:
        """Compare the index with its last snapshot, by names, sizes and times. Reads only the small files."""
        last = self.last()
        files = new = size = new_size = gone = 0
        for part in self._volumes:
            listed = self._listed(part)
            before = {path for path in last.parts[part] if not is_log(part, path)} if last else set()
            gone += len(before - {file.path for file in listed})
            for file in listed:
                files += 1
                size += file.size
                if last is not None and is_log(part, file.path):  # an added line is no reason for another snapshot
                    continue
                known = _known(last, part, file)
                if known is None or (known.text is not None and self._text(part, file) != known):
                    new += 1
                    new_size += file.size
        return Pending(files, size, new, new_size, gone, last)

    def take(self) -> tuple[Snapshot, bool]:
        """Take a snapshot, unless today's already holds the same.

        Returns:
            The newest snapshot, and whether it is a new one.

        Raises:
            RunbookError: a file could not be read or stored; stored ones are kept.
        """
        last = self.last()
        stored = self._bucket.blobs()
        if last is not None and last.taken.date() == self._clock().date():
            whole = all(item.sha256 in stored and stored[item.sha256].size == item.size for _, item in last.blobs())
            if whole and self.is_complete(self.pending()):
                return last, False  # before the bytes of a log that has grown are stored
        parts = {part: self._copied(part, last, stored) for part in self._volumes}
        for part, items in parts.items():
            present = {file.path for file in self._listed(part)}
            parts[part] = {path: item for path, item in items.items() if path in present} | self._texts(part)
        now = self._clock()
        snapshot = Snapshot(name_of(now), self._place, parts[PACKAGES], parts[CREDENTIALS])
        if last is not None and last.taken.date() == snapshot.taken.date() and snapshot.same_content(last):
            return last, False
        self._bucket.put_snapshot(snapshot.name, snapshot.to_bytes())
        return snapshot, True

    def check(self, snapshot: Snapshot, before: Snapshot | None = None, *, thorough: bool = False) -> tuple[int, int]:
        """Read a snapshot back from the bucket.

        Parameters:
            snapshot: as it was taken.
            before: an earlier one, whose blobs were already read back.
            thorough: True to read its blobs again.

        Returns:
            The numbers of its blobs, and of those read back; of the others only the size was checked.

        Raises:
            SnapshotError: it differs from what was taken, or a blob is missing or damaged.
        """
        if self._bucket.read_snapshot(snapshot.name) != snapshot.to_bytes():
            raise SnapshotError(f"the snapshot {snapshot.name} is not what was written", todo="run this again")
        known = set() if before is None or thorough else {item.sha256 for _, item in before.blobs()}
        stored = self._bucket.blobs()
        sizes = {item.sha256: item.size for _, item in snapshot.blobs()}
        for sha256, size in sizes.items():
            if sha256 not in stored or stored[sha256].size != size:
                found = f"has {stored[sha256].size} bytes instead of {size}" if sha256 in stored else "is missing"
                raise SnapshotError(
                    f"the snapshot {snapshot.name} is incomplete",
                    why=f"the blob {sha256} {found}",
                    todo="run the notebook 06_back_up again, which stores it if the index still has the file",
                )

        def look(sha256: str) -> None:
            with open(os.devnull, "wb") as nowhere:
                self._bucket.fetch_blob(sha256, nowhere)

        fresh = [sha256 for sha256 in sizes if sha256 not in known]
        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(look, fresh))
        return len(sizes), len(fresh)

    def prune(self, retention: Retention) -> tuple[list[str], int]:
        """Delete the snapshots that *retention* does not keep, then the blobs that no other snapshot needs.

        Returns:
            The names of the deleted snapshots, and the number of deleted blobs.

        Raises:
            SnapshotError: a kept snapshot cannot be read, so the blobs it needs are unknown.
        """
        expired = self.expired(retention)
        for name in expired:
            self._bucket.delete_snapshot(name)
        waste = self.waste()
        for sha256 in waste:
            self._bucket.delete_blob(sha256)
        self._bucket.delete_unfinished(self._clock() - GRACE)
        return expired, len(waste)

    def expired(self, retention: Retention) -> list[str]:
        """The readable snapshots of this index that *retention* does not keep, oldest first."""
        names = []
        for name in self._bucket.snapshots():
            with contextlib.suppress(SnapshotError):
                if self._needs(name).place == self._place:
                    names.append(name)
        return retention.expired(names)

    def waste(self, without: Sequence[str] = ()) -> dict[str, Blob]:
        """The blobs needed by no snapshot except those in *without*.

        Raises:
            SnapshotError: a snapshot cannot be read.
        """
        needed: set[str] = set()
        for name in self._bucket.snapshots():
            if name not in without:
                needed |= self._needs(name).blobs
        return unneeded(self._bucket.blobs(), needed, now=self._clock())

    def _needs(self, name: str) -> _Needs:
        """Blobs that a snapshot needs. Snapshots never change, so each is read only once."""
        if name not in self._read:
            snapshot = read_snapshot(self._bucket, name)
            blobs = frozenset(sys.intern(item.sha256) for _, item in snapshot.blobs())
            self._read[name] = _Needs(snapshot.place, blobs)
        return self._read[name]

    def is_complete(self, pending: Pending) -> bool:
        """True if today's snapshot already holds the index unchanged."""
        today = self._clock().date()
        return pending.last is not None and pending.last.taken.date() == today and not (pending.new or pending.gone)

    def _listed(self, part: str) -> list[VolumeFile]:
        return [file for file in self._reader.list_files(self._volume(part)) if is_kept(file.path)]

    def _volume(self, part: str) -> str:
        volume = self._volumes[part]
        if not self._reader.volume_exists(volume):
            raise RunbookError(
                f"there is no volume {volume}",
                why=f"the index on the target {self._place} was never provisioned, or was torn down",
                todo="run the notebook 01_provision, or 07_restore if it was lost",
            )
        return volume

    def _copied(self, part: str, last: Snapshot | None, stored: Mapping[str, Blob]) -> dict[str, Item]:
        """Items of all files that are not texts, after copying those without a blob."""

        def item(file: VolumeFile) -> Item | None:
            known = _known(last, part, file)
            if known is not None and known.sha256 in stored and stored[known.sha256].size == known.size:
                return known
            return self._copy(part, file, stored, described=part == PACKAGES and file.path in described)

        every = self._reader.list_files(self._volume(part))
        described = {file.path.removeprefix(FACTS) for file in every if file.path.startswith(FACTS)}
        files = [file for file in every if is_kept(file.path) and not is_text(part, file.path, file.size)]
        with ThreadPoolExecutor(THREADS) as threads:
            return {file.path: found for file, found in zip(files, threads.map(item, files)) if found is not None}

    def _copy(self, part: str, file: VolumeFile, stored: Mapping[str, Blob], *, described: bool) -> Item | None:
        """Store one file; None if it has vanished.

        Parameters:
            part: of the index.
            file: to store.
            stored: all blobs.
            described: True if the index has info about the file.
        """
        with self._downloaded(part, file.path) as copy:
            if copy is None:
                return None
            sha256, size = digest_of(copy)
            blob = stored.get(sha256)
            if blob is not None and blob.size != size:
                self._bucket.delete_blob(sha256)  # it is damaged, and these are the right bytes
            if blob is None or blob.size != size:
                self._bucket.put_blob(sha256, copy)
            uploaded = self._uploaded(file.path, sha256) if described else None
            return Item(sha256, size, file.modified, uploaded=uploaded)

    def _uploaded(self, path: str, sha256: str) -> float | None:
        """The upload time that the index shows for a file."""
        with self._downloaded(PACKAGES, FACTS + path) as copy:
            if copy is None:
                return None
            with contextlib.suppress(ValueError, TypeError, KeyError), copy.open("rb") as stream:
                fields = json.loads(stream.readline())
                return float(fields["upload_time"]) if fields["sha256"] == sha256 else None
        return None

    def _texts(self, part: str) -> dict[str, Item]:
        """A consistent copy of the small files."""
        for _ in range(ATTEMPTS):
            before = [file for file in self._listed(part) if is_text(part, file.path, file.size)]
            found = {file.path: self._text(part, file) for file in before}
            after = [file for file in self._listed(part) if is_text(part, file.path, file.size)]
            if before == after and None not in found.values():
                break
        return {path: item for path, item in found.items() if item is not None}

    def _text(self, part: str, file: VolumeFile) -> Item | None:
        with self._downloaded(part, file.path) as copy:
            return None if copy is None else Item.of_text(copy.read_bytes(), file.modified)

    @contextlib.contextmanager
    def _downloaded(self, part: str, path: str) -> Iterator[Path | None]:
        """A copy of one file; None if it has vanished."""
        with scratch_folder() as folder:
            copy = folder / "copy"
            try:
                self._reader.download(self._volumes[part], path, copy)
            except (RunbookError, FileNotFoundError):
                if any(file.path == path for file in self._reader.list_files(self._volumes[part])):
                    raise
                yield None
                return
            yield copy


def read_snapshot(bucket: Bucket, name: str) -> Snapshot:
    """Read one snapshot.

    Raises:
        SnapshotError: there is none with that name, or it is damaged.
    """
    return Snapshot.from_bytes(name, bucket.read_snapshot(name))


def digest_of(path: Path) -> tuple[str, int]:
    """SHA-256 in hexadecimal, and size in bytes, of a file."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
            size += len(piece)
    return digest.hexdigest(), size


def _known(last: Snapshot | None, part: str, file: VolumeFile) -> Item | None:
    """The item of a file that has the same size and time as in the last snapshot."""
    known = last.parts[part].get(file.path) if last else None
    if known is None or known.size != file.size or known.modified != file.modified:
        return None
    return replace(known)
