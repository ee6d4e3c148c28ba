"""The projects and files of the index, kept in memory and up to date with the storage."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import struct
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from operator import attrgetter
from pathlib import Path
from urllib.parse import quote

from ops.index.config import FIRST_REQUESTS_SECONDS, Options
from ops.index.errors import PackageIndexError, StorageBusy
from ops.index.packages.annotations import Annotations, Tombstones
from ops.index.packages.attestations import SUFFIX
from ops.index.packages.directory import PackageDirectory
from ops.index.packages.file_info import FileInfoStore, KnownInfo, NotRecordedError
from ops.index.packages.filenames import Name
from ops.index.packages.listing import Listing
from ops.index.packages.models import File, Project
from ops.index.packages.project_cache import (
    CachedProject,
    EvictedProject,
    ProjectCache,
    fingerprint,
    in_order,
    versions_with,
)
from ops.index.packages.quotas import Usage
from ops.index.packages.rebuilder import Rebuilder
from ops.index.storage.bounded_run import BoundedRun
from ops.index.storage.name_locks import NameLocks
from ops.index.storage.storage import Storage
from ops.index.storage.volume import RELOAD_SECONDS
from ops.index.storage.waiting import briefly, seconds_left

__all__ = ["File", "Project", "Repository"]

_RELOAD_REST = 4
"""The pause before another reload for a missing file, in multiples of the last one's duration."""

_LEAST_REST_SECONDS = 0.1

_SMALL = 32 * 1024**2
_PREFETCHED = 256 * 1024**2
"""Total bytes of small files copied from shared storage before they are requested."""

_ANNOTATIONS_SECONDS = 0.02

_FEW_FILES = 16
"""Number of files of a project that an event loop may read: another thread would hold it up for longer."""

_MANY_FILES = 200
"""With more files, a project is compared with the disk in a thread: that takes longer than rendering its page."""

_log = logging.getLogger(__name__)


class Repository:
    """The projects and files of a storage.

    On an event loop, call only ``stamp`` and, unless the storage is shared, ``projects``, ``offers``,
    ``locate``, ``written``, ``status`` and ``project_stamp``. The others may read or hash files: call them in a thread.

    Parameters:
        storage: the volume of packages.
        name_locks: names that must not be shown yet.
        options: ``cached_files``, ``refresh_seconds`` and ``scratch_directory``; with a quota, bytes are counted.

    Attributes:
        listing: the names of the files. Transactions that change the storage update it and the attributes below.
        package_directory: keeps the listing up to date.
        file_info: sidecars.
        annotations: yanks and statuses.
        tombstones: digests of removed files.
    """

    def __init__(self, storage: Storage, name_locks: NameLocks, options: Options) -> None:
        self._storage = storage
        self._options = options
        directory = storage.directory
        self._directory = str(directory)
        self._provenances_url = f"{options.public_url}packages/"
        staging = storage.staging
        self.file_info = FileInfoStore(storage, staging, scratch=options.scratch_directory)
        self.annotations = Annotations(directory, staging)
        self.tombstones = Tombstones(directory, staging)
        self._annotations_again = 0.0
        self.usage = Usage(storage) if options.project_quota_bytes or options.total_quota_bytes else None
        self.listing = Listing(self.usage)
        self.package_directory = PackageDirectory(directory, name_locks, self.listing)
        self._open = False
        self._failing = False
        self._reloads: BoundedRun | None = None  # a local directory needs none
        if storage.shared:
            self._reloads = BoundedRun(
                self._reload,
                name="repository reload",
                seconds=RELOAD_SECONDS,
                overdue="others' changes cannot be read yet",
            )
        self._rest_until = 0.0
        self._cache = ProjectCache(options.cached_files)
        self._rebuilder = Rebuilder(briefly(self._missing), briefly(self._prepare))
        self._prefetched = 0

    def __len__(self) -> int:
        """The number of files."""
        self._look()
        return len(self.listing)

    @property
    def directory(self) -> Path:
        """The directory of the files."""
        return self._storage.directory

    def start(self) -> None:
        """Start computing missing file info in a thread. Pages are served meanwhile."""
        if self._reloads is None:  # each check of a sidecar takes the interpreter from the first requests
            self._rebuilder.start(after=FIRST_REQUESTS_SECONDS)
        else:
            self._rebuilder.start(again=True)

    def close(self) -> None:
        """Stop the thread, and wait for no more reloads."""
        if self._reloads is not None:
            self._reloads.end(0.0)
        self._rebuilder.close()

    def stamp(self) -> Hashable:
        """A value that changes with everything visible. Costs a few checks of modification times."""
        if self._reloads is None:
            self._look()
        return self.listing.version

    def projects(self) -> Sequence[str]:
        """The normalized names of all projects that have a file, sorted."""
        self._look()
        return self.listing.projects()

    def projects_stamp(self) -> Hashable:
        """A value that changes with the names of the projects."""
        self._look()
        return self.listing.projects_version

    def paths(self) -> list[str]:
        """The relative paths of all files."""
        self._look()
        return list(self.listing)

    def project(self, name: str) -> Project | None:
        """A project with all of its files; None if it has none.

        After an upload only the new file is read; after any other change all files are compared with the disk.

        Parameters:
            name: normalized (PEP 503).
        """
        return self._project(name, self.file_info.of)

    def project_at_once(self, name: str) -> Project | None:
        """The same for an event loop: None also if that would take more than a fraction of a millisecond."""
        if self._reloads is not None or len(self.listing.paths(name)) > _FEW_FILES:
            return None
        try:
            return self._project(name, self.file_info.recorded)
        except NotRecordedError:
            return None

    def _project(self, name: str, info: Callable[[str], KnownInfo]) -> Project | None:
        version = self._version_of(name)
        cached = self._cache.get(name)
        if cached is None or cached.version != version:
            cached = self._updated(name, version, cached, info)
        return None if cached is None else cached.project

    def _updated(
        self, name: str, version: int, cached: CachedProject | None, info: Callable[[str], KnownInfo]
    ) -> CachedProject | None:
        listed = self.listing.paths(name)
        only_added = cached is not None and cached.complete and self.listing.altered(name) <= cached.version
        known: Sequence[File] = () if cached is None else cached.project.files
        if cached is not None and only_added:
            paths: Iterable[str] = listed[cached.listed :]
        else:
            unread = dict.fromkeys(listed)
            same = zip(known, self.file_info.unchanged(known), strict=True)
            known = [
                self._annotated(file)
                for file, holds in same
                if holds and file.path in unread and self.annotations.revocation(file.path, file.sha256) is None
            ]
            for file in known:
                unread.pop(file.path, None)
            paths = unread
        new: list[File] = []
        complete = True
        for path in paths:
            try:
                new.append(self._file(name, path, info(path)))
            except OSError as error:
                complete = _is_gone(path, error) and complete
        if not known and not new:
            return None
        versions = versions_with(cached.project.versions, new) if cached is not None and only_added else ()
        project = Project(name, in_order(known, new), *self.status(name), versions)
        updated = CachedProject(version, project, len(listed), complete)
        if cached is not None and only_added:
            updated.checked_at = cached.checked_at
        self._cache.put(updated)
        return updated

    def _annotated(self, file: File) -> File:
        yanked = self.annotations.yanked(file.path)
        return file if file.yanked == yanked else replace(file, yanked=yanked)

    def project_stamp(self, name: str, *, looked: bool = False) -> Hashable:
        """A value that changes with everything visible of this project.

        Parameters:
            name: normalized (PEP 503).
            looked: true if :meth:`stamp` was called just before.
        """
        return self._version_of(name, looked=looked)

    def state(self, name: str) -> bytes | None:
        """Everything on the disk that a project's simple page depends on: the same bytes as from :func:`state_of`.

        None if something is missing or revoked, or there are too many files to check on an event loop.
        """
        paths = sorted(self.listing.paths(name))
        if not 0 < len(paths) <= _MANY_FILES:
            return None
        annotations = self.annotations
        if annotations.revoked_digests and any(annotations.revocation(path) is not None for path in paths):
            return None
        try:
            written = self.file_info.written(paths)
        except OSError:
            return None
        return _state(paths, written, self.annotations.yanks(paths), self.annotations.status(name))

    def file(self, path: str) -> File | None:
        """A listed file; None if it is not listed, gone, or cannot be read."""
        project = self.listing.project_of(path)
        if project is None:
            return None
        try:
            return self._file(project, path, self.file_info.of(path))
        except OSError as error:
            _is_gone(path, error)
            return None

    def _file(self, project: str, path: str, known: KnownInfo) -> File:
        """A file of a project.

        Raises:
            FileNotFoundError: it is revoked.
        """
        file_info, mtime_ns, recorded_ns = known
        if self.annotations.revocation(path, file_info.sha256) is not None:
            raise FileNotFoundError(path)
        return File(
            filename=path.rpartition("/")[2] if "/" in path else path,
            path=path,
            project=project,
            version=file_info.version,
            size=file_info.size,
            sha256=file_info.sha256,
            upload_time=datetime.fromtimestamp(file_info.upload_time, UTC),
            requires_python=file_info.requires_python,
            metadata_sha256=file_info.metadata_sha256,
            yanked=self.annotations.yanked(path),
            uploader=file_info.uploader,
            attested=bool(file_info.provenance),
            provenance=f"{self._provenances_url}{quote(os.fsencode(path))}{SUFFIX}"
            if file_info.provenance and self._options.public_url
            else "",
            run=file_info.run,
            mtime_ns=mtime_ns,
            recorded_ns=recorded_ns,
        )

    def knows(self, name: str) -> bool:
        """True if a project of this normalized name has a listed file, without looking at the disk.

        False until the directory has been read.
        """
        return self.package_directory.scanned and self.listing.has(name)

    def has(self, name: str) -> bool:
        """True if a project of this normalized name has a file."""
        self._look()
        return self.listing.has(name)

    def status(self, name: str) -> tuple[str, str | None]:
        """The status of a project and the reason for it (PEP 792)."""
        self._look_at_annotations()
        return self.annotations.status(name)

    def attestation_policy(self, name: str) -> str:
        """Policy for attestations of a project's uploads: ``off``, ``audit`` or ``enforce``."""
        self._look_at_annotations()
        return self.annotations.attestation_policy(name)

    def locate(self, path: str) -> tuple[Path, int] | None:
        """The absolute path and the size in bytes of a listed file or of the ``.asc`` beside one; None otherwise.

        Raises:
            StorageBusy: shared storage cannot be read now, and the file is not known yet.
        """
        self._look()
        if path not in self.listing and not (path.endswith(".asc") and path[:-4] in self.listing):
            return None
        full = f"{self._directory}/{path}"
        if self._storage.closed:
            known = self.file_info.known(path)
            if known is not None:
                return Path(full), known.size
        try:
            with self._storage.reading():
                status = os.stat(full)  # noqa: PTH116 - in every download
        except (OSError, ValueError):
            return None
        return (Path(full), status.st_size) if stat.S_ISREG(status.st_mode) else None

    def revocation(self, path: str) -> str | None:
        """The reason why a file, or the file of a signature, is revoked; None if it is not. May read the file."""
        self._look()
        path = path.removesuffix(".asc")
        if not self.annotations.revoked_digests or path not in self.listing:
            return None
        digest = None
        if self.annotations.revocation(path) is None:
            with contextlib.suppress(OSError):
                digest = self.file_info.of(path)[0].sha256
        return self.annotations.revocation(path, digest)

    def offers(self, path: str) -> bool:
        """True if a file is listed and not revoked, and its project is not quarantined (PEP 792)."""
        self._look()
        if self.annotations.revocation(path) is not None:
            return False
        project = self.listing.project_of(path)
        return project is not None and self.annotations.status(project)[0] != "quarantined"

    def written(self, path: str) -> Hashable:
        """A value that changes whenever the file is written; None if it does not exist.

        Raises:
            StorageBusy: as of :meth:`locate`.
        """
        if self._storage.closed:
            known = self.file_info.known(path)
            if known is not None:
                return known.size, known.mtime_ns
        try:
            with self._storage.reading():
                status = os.stat(f"{self._directory}/{path}")  # noqa: PTH116 - in many requests
        except (OSError, ValueError):
            return None
        return status.st_size, status.st_mtime_ns

    def metadata(self, path: str, *, unserved: bool = False) -> bytes | None:
        """The core metadata of a listed file (PEP 658), if served; with *unserved*, also what only people see."""
        self._look()
        if path not in self.listing:
            return None
        try:
            return self.file_info.metadata(path, unserved=unserved)
        except OSError:
            return None

    def metadata_at_once(self, path: str) -> bytes | None:
        """The metadata of a listed local file for an event loop; None also if reading it takes long."""
        if self.annotations.revoked_digests:
            return None
        try:
            return self.file_info.recorded_metadata(path)
        except (OSError, NotRecordedError):
            return None

    def provenance(self, path: str) -> bytes | None:
        """The provenance of a listed file (PEP 740); None if it has none.

        Raises:
            StorageBusy: as of :meth:`locate`.
        """
        self._look()
        if path not in self.listing:
            return None
        with self._storage.reading():
            return self.file_info.provenances.get(path)

    def refresh(self) -> None:
        """Reload shared storage to see what others have added, unless that was done a moment ago.

        Never raises: a failed reload leaves the view as it was.
        """
        if self._reloads is None or time.monotonic() < self._rest_until:
            return
        try:
            self._reloads()
            self._failing = False
        except (PackageIndexError, OSError) as error:
            if not self._failing:
                _log.warning("files added by other servers are not listed yet: %s", error)
            self._failing = True

    def refreshing(self) -> Future[None] | None:
        """Start the same reload; None if there is nothing to wait for.

        Raises:
            StorageBusy: a reload takes too long.
        """
        if self._reloads is None or time.monotonic() < self._rest_until:
            return None
        return self._reloads.begin()

    def reload(self) -> None:
        """Read others' changes up to now. Concurrent callers share one reload of shared storage.

        Raises:
            StorageError: the view is unchanged.
            StorageBusy: likewise; the reload continues.
            OSError: likewise.
        """
        if self._reloads is not None:
            self._reloads()
        else:  # names are checked by each query; annotations only occasionally
            self._read_annotations()

    def _reload(self) -> None:
        began = time.monotonic()
        before = self.package_directory.locked()
        self._storage.reload()
        with self._storage.reading():
            self.package_directory.locked_before = before
            self.package_directory.look(thoroughly=True)
            self._read_annotations(thoroughly=True)
        self._open = True
        self._rebuilder.wake()
        now = time.monotonic()
        rest = max(_LEAST_REST_SECONDS, _RELOAD_REST * (now - began))
        # Short enough to be called every refresh_seconds.
        self._rest_until = now + min(rest, self._options.refresh_seconds / 2)

    def find(self, name: Name) -> str | None:
        """The path of the file with this name, in any spelling; None if there is none."""
        self._look(wait=True)
        return self.package_directory.find(name)

    def occupant(self, name: Name) -> tuple[str | None, str | None]:
        """The path of the file with this name, in any spelling, and the digest of a removed file that had it.

        The caller holds the lock on the name. Both are None if the name was never used.

        Raises:
            OSError: the lookup failed.
        """
        path = self.find(name)
        with self._storage.reading():
            if path is None and os.path.lexists(f"{self._directory}/{name.filename}"):
                path = name.filename
            return path, None if path is not None else self.tombstones.get(name.key)

    def forget(self, path: str) -> None:
        """Forget a removed file. Called inside ``Storage.reading``."""
        self.file_info.forget(path)
        self.package_directory.remove(path)

    def _look(self, *, wait: bool = False) -> None:
        """Find changes made by others on this machine."""
        if self._reloads is None:
            self.package_directory.look(wait=wait)
        self._look_at_annotations()

    def _look_at_annotations(self) -> None:
        """The same for annotations alone; reads the names on shared storage the first time.

        Raises:
            StorageBusy: the annotations were never read and cannot be.
        """
        if self._reloads is not None:
            if not self._open:
                self._wait_for_first(self._reloads.begin())
            return
        now = time.monotonic()
        if now >= self._annotations_again or not self._open:
            self._annotations_again = now + _ANNOTATIONS_SECONDS
            self._read_annotations(thoroughly=not self._open)
            self._open = True

    def _wait_for_first(self, run: Future[None]) -> None:
        try:
            run.result(seconds_left(RELOAD_SECONDS))
        except TimeoutError:
            if run.done():
                raise
            raise StorageBusy("this server has just started and has not read its files yet") from None

    def _read_annotations(self, *, thoroughly: bool = False) -> None:
        paths, changed = self.annotations.look(thoroughly=thoroughly)
        changed.update(project for path in paths if (project := self.listing.project_of(path)) is not None)
        if changed:
            self.listing.touch(changed)

    def _version_of(self, name: str, *, looked: bool = False) -> int:
        """The version of a project, after occasionally comparing its files with the disk.

        Writing a file in place does not change its folder's time.
        """
        if not looked:
            self._look()
        seen = self._cache.get(name) or self._cache.evicted(name)
        if seen is not None and seen.due(self._options.refresh_seconds):
            if seen.files <= _MANY_FILES:
                self._compare(name, seen)
            else:  # takes so long that pages come first
                threading.Thread(target=self._compare, args=(name, seen), name="compare", daemon=True).start()
        return self.listing.version_of(name)

    def _compare(self, name: str, seen: CachedProject | EvictedProject) -> None:
        if not self._holds(name, seen):
            self.listing.touch([name])
            if self.usage is not None:
                self.usage.changed(self.listing.paths(name))

    def _holds(self, name: str, seen: CachedProject | EvictedProject) -> bool:
        """True if all files were read, and none was written since. A removed file changes its folder's time."""
        if isinstance(seen, CachedProject):
            return seen.complete and False not in self.file_info.unchanged(seen.project.files)
        shown = [path for path in self.listing.paths(name) if self.annotations.revocation(path) is None]
        now = self.file_info.existing(shown)
        return now is None or fingerprint(now) == seen.fingerprint

    def _missing(self) -> Iterable[str]:
        self._look()
        missing = self.file_info.missing(self.listing)
        return islice(missing, self._options.cached_files) if self._reloads is not None else missing

    def _prepare(self, path: str) -> None:
        """Compute the info of a file, and copy a small one from a Volume, which looks empty at times."""
        try:
            size = self.file_info.of(path)[0].size
        except OSError as error:
            _is_gone(path, error)
            return
        if self._reloads is not None and size <= min(_SMALL, _PREFETCHED - self._prefetched):
            self._prefetched += size
            with contextlib.suppress(OSError), self._storage.detached(Path(self._directory, path)):
                pass


def state_of(project: Project) -> bytes | None:
    """Everything that a project's simple page depends on, as it was when the project was read; None if unknown."""
    files = sorted(project.files, key=attrgetter("path"))
    if not all(file.recorded_ns for file in files):
        return None
    written = [number for file in files for number in (file.size, file.mtime_ns, file.recorded_ns)]
    status = (project.status, project.status_reason)
    return _state([file.path for file in files], written, (file.yanked for file in files), status)


def _state(paths: list[str], written: list[int], yanked: Iterable[str | None], status: tuple[str, str | None]) -> bytes:
    """The state of a project.

    Parameters:
        paths: of its files, sorted.
        written: three numbers for each, from :meth:`FileInfoStore.written`.
        yanked: the reason for the yank of each.
        status: of the project.
    """
    named = "\0".join(paths).encode("utf-8", "surrogateescape")
    numbers = struct.pack(f"<{len(written)}q", *written)
    return b"\0".join((named, numbers, ascii((*yanked, *status)).encode()))


def _is_gone(path: str, error: OSError) -> bool:
    """True if a file has vanished. Unreadable files are logged."""
    gone = isinstance(error, FileNotFoundError)
    if not gone:
        _log.warning("%s cannot be read: %s", path, error)
    return gone
