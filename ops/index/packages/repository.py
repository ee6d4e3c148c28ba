"""Projects and files of the index, cached in memory and kept up with the directory."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import time
from collections.abc import Hashable, Iterable, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from ops.index.config import Options
from ops.index.errors import PackageIndexError, StorageBusy
from ops.index.packages.annotations import Annotations
from ops.index.packages.directory import PackageDirectory
from ops.index.packages.file_info import FileInfo
from ops.index.packages.file_info_cache import FileInfoCache
from ops.index.packages.filename_index import FilenameIndex
from ops.index.packages.filenames import Name, version_key
from ops.index.packages.hidden_names import HiddenNames
from ops.index.packages.models import CachedProject, File, Project, ProjectCache
from ops.index.packages.rebuild import Rebuilder
from ops.index.packages.revalidation import Revalidation
from ops.index.packages.tombstones import Tombstones
from ops.index.packages.usage import Usage
from ops.index.storage.files import Workbench
from ops.index.storage.name_locks import NameLocks
from ops.index.storage.shared_run import BoundedRun
from ops.index.storage.storage import RELOAD_SECONDS, Storage
from ops.index.storage.waiting import briefly, seconds_left

__all__ = ["File", "Project", "Repository"]

_RELOAD_REST = 4
"""After a reload, this many times its duration passes before the next that a mere miss asks for."""

_LEAST_REST_SECONDS = 0.1

_SMALL = 32 * 1024**2
_PREFETCHED = 256 * 1024**2
"""Bytes of files that a server copies from a shared storage before anybody asks for them, one by one."""

_MARKS_SECONDS = 0.02

_log = logging.getLogger(__name__)


class Repository:
    """Knows the files of a storage without reading them again.

    On an event loop only ``stamp`` may be called, and while the storage is not shared ``projects``, ``offers``,
    ``locate``, ``written``, ``status`` and ``project_stamp``. The rest may read or hash files: call it in a thread.

    Parameters:
        storage: the volume of packages.
        claims: which new names may not be shown yet.
        options: ``cached_files``, ``refresh_seconds`` and ``scratch_directory``; with a quota, bytes are counted.
    """

    def __init__(self, storage: Storage, name_locks: NameLocks, options: Options) -> None:
        self._storage = storage
        self._options = options
        directory = storage.directory
        self._directory = str(directory)
        workbench = Workbench(directory, locked=not storage.shared)
        self._file_info = FileInfoCache(storage, workbench, scratch=options.scratch_directory)
        self.annotations = Annotations(directory, workbench)
        self.tombstones = Tombstones(directory, workbench)
        self._marks_again = 0.0
        self._hiding = HiddenNames(name_locks)
        self.usage = Usage(storage) if options.project_quota_bytes or options.total_quota_bytes else None
        self._listing = PackageDirectory(directory, self._hiding.among, self.usage)
        self._filename_index = FilenameIndex(self._listing)
        self._open = False
        self._failing = False
        self._reloads = BoundedRun(
            self._reload,
            name="catalogue reload",
            seconds=RELOAD_SECONDS,
            overdue="it cannot be seen yet what others have added",
        )
        self._rest_until = 0.0
        self._cache = ProjectCache(options.cached_files)
        self._freshness = Revalidation(storage, seconds=options.refresh_seconds, projects=options.cached_files)
        self._rebuilder = Rebuilder(briefly(self._missing), briefly(self._prepare))
        self._prefetched = 0

    def __len__(self) -> int:
        """How many files there are."""
        self._look()
        return len(self._listing)

    @property
    def directory(self) -> Path:
        """Where the files are."""
        return self._storage.directory

    def start(self) -> None:
        """Begin to compute, in a thread, the facts that are missing. Pages are served meanwhile."""
        self._rebuilder.start(again=self._storage.shared)

    def close(self) -> None:
        """Stop the thread, and wait for no reload any more."""
        self._reloads.end(0.0)
        self._rebuilder.close()

    def stamp(self) -> Hashable:
        """Equal stamps: nothing visible has changed in between. Costs one or two looks at a directory's time."""
        if not self._storage.shared:
            self._look()
        return self._listing.version

    def projects(self) -> Sequence[str]:
        """The normalized names of all projects that have a file, sorted."""
        self._look()
        return self._listing.projects()

    def paths(self) -> list[str]:
        """The relative paths of all files."""
        self._look()
        return list(self._listing)

    def project(self, name: str) -> Project | None:
        """All that is known of a project, by its normalized name; None when it has no file.

        Facts that are missing are computed now, and kept.
        """
        version = self._version_of(name)
        cached = self._cache.get(name)
        if cached is not None and cached.version == version:
            return cached.project
        found: list[tuple[File, int]] = []
        complete = True
        for path in self._listing.paths(name):
            try:
                found.append(self._known(path))
            except OSError as error:
                complete = _is_gone(path, error) and complete
        if not found:
            return None
        found.sort(key=lambda known: (version_key(known[0].version), known[0].filename, known[0].path))
        status, reason = self.status(name)
        project = Project(name, tuple(file for file, _ in found), status, reason)
        self._cache.put(CachedProject(version, project, tuple(mtime_ns for _, mtime_ns in found), complete))
        return project

    def project_stamp(self, name: str) -> Hashable:
        """Equal stamps: nothing of this project has changed in between."""
        return self._version_of(name)

    def file(self, path: str) -> File | None:
        """What is known of one listed file; None when it is not listed, gone, or cannot be read."""
        try:
            return self._known(path)[0]
        except OSError as error:
            _is_gone(path, error)
            return None

    def _known(self, path: str) -> tuple[File, int]:
        """A file, and when it was last written, in nanoseconds.

        Raises:
            OSError: it cannot be read; FileNotFoundError when it is gone, or not listed.
        """
        project = self._listing.project_of(path)
        if project is None:
            raise FileNotFoundError(path)
        file_info, mtime_ns = self._file_info.of(path)
        file = File(
            filename=path.rpartition("/")[2],
            path=path,
            project=project,
            version=file_info.version,
            size=file_info.size,
            sha256=file_info.sha256,
            upload_time=datetime.fromtimestamp(file_info.upload_time, UTC),
            requires_python=file_info.requires_python,
            metadata_sha256=file_info.metadata_sha256,
            yanked=self.annotations.yanked(path),
        )
        return file, mtime_ns

    def has(self, name: str) -> bool:
        """Whether there is a project of this normalized name."""
        self._look()
        return bool(self._listing.paths(name))

    def status(self, name: str) -> tuple[str, str | None]:
        """The status of a project and the reason for it (PEP 792)."""
        self._look()
        return self.annotations.status(name)

    def locate(self, path: str) -> tuple[Path, int] | None:
        """Where a listed file, or the ``.asc`` beside one, lies, and its size in bytes; None for anything else.

        Raises:
            StorageBusy: a shared storage shows no files now, and the file is not known from before.
        """
        self._look()
        if path not in self._listing and not (path.endswith(".asc") and path[:-4] in self._listing):
            return None
        full = f"{self._directory}/{path}"
        if self._storage.closed:
            known = self._file_info.known(path)
            if known is not None:
                return Path(full), known.size
        try:
            with self._storage.reading():
                status = os.stat(full)  # noqa: PTH116 - on the way of every download
        except (OSError, ValueError):
            return None
        return (Path(full), status.st_size) if stat.S_ISREG(status.st_mode) else None

    def offers(self, path: str) -> bool:
        """Whether a file is listed and may be had: its project is not under quarantine (PEP 792)."""
        self._look()
        project = self._listing.project_of(path)
        return project is not None and self.annotations.status(project)[0] != "quarantined"

    def written(self, path: str) -> Hashable:
        """Equal answers: the file has not been written in between. None when it is not there.

        Raises:
            StorageBusy: as of :meth:`locate`.
        """
        if self._storage.closed:
            known = self._file_info.known(path)
            if known is not None:
                return known.size, known.mtime_ns
        try:
            with self._storage.reading():
                status = os.stat(f"{self._directory}/{path}")  # noqa: PTH116 - on the way of many requests
        except (OSError, ValueError):
            return None
        return status.st_size, status.st_mtime_ns

    def metadata(self, path: str, *, unserved: bool = False) -> bytes | None:
        """The core metadata of a listed file (PEP 658), if it is served; *unserved*: also what is for people only."""
        self._look()
        if path not in self._listing:
            return None
        try:
            return self._file_info.metadata(path, unserved=unserved)
        except OSError:
            return None

    def refresh(self) -> None:
        """See what others have added to a shared storage, unless that was done a moment ago.

        Never raises: a failed reload leaves the view as it was.
        """
        if not self._storage.shared:
            self._look()
            return
        if time.monotonic() < self._rest_until:
            return
        try:
            self._reloads()
            self._failing = False
        except (PackageIndexError, OSError) as error:
            if not self._failing:
                _log.warning("what others have added is not seen yet: %s", error)
            self._failing = True

    def refreshing(self) -> Future[None] | None:
        """The same as a result to wait for; None when there is nothing to wait for.

        Raises:
            StorageBusy: a reload takes too long.
        """
        if not self._storage.shared or time.monotonic() < self._rest_until:
            return None
        return self._reloads.begin()

    def reload(self) -> None:
        """See what others have added to a shared storage, now. Those who ask at the same time share one reload.

        Raises:
            StorageError: the view is the one from before.
            StorageBusy: likewise; the reload goes on.
            OSError: likewise.
        """
        self._reloads()

    def _reload(self) -> None:
        began = time.monotonic()
        before = self._hiding.held()
        self._storage.reload()
        with self._storage.reading():
            self._hiding.before = before
            self._listing.look(thoroughly=True)
            self._see_marks(thoroughly=True)
        self._open = True
        self._rebuilder.wake()
        now = time.monotonic()
        rest = max(_LEAST_REST_SECONDS, _RELOAD_REST * (now - began))
        # Not so long that a timer that calls every refresh_seconds would be sent away.
        self._rest_until = now + min(rest, self._options.refresh_seconds / 2)

    # What follows is for the publisher.

    def find(self, name: Name) -> str | None:
        """The path of the file that has this name, in whatever spelling; None when there is none."""
        self._look(wait=True)
        return self._filename_index.find(name)

    def sha256_of(self, path: str) -> str:
        """The digest of a file, listed or not.

        Raises:
            OSError: it cannot be read.
        """
        return self._file_info.of(path)[0].sha256

    def changing(self) -> contextlib.AbstractContextManager[None]:
        """Hold around a change to the names at the top of the directory, and for no longer than that takes."""
        return self._listing.changing()

    def keep(self, path: str, file_info: FileInfo, metadata: bytes | None) -> None:
        """Keep the facts of a file that is about to be shown. Called inside ``Storage.reading``."""
        self._file_info.keep(path, file_info, metadata)

    def admit(self, path: str) -> None:
        """Show a file that is durable."""
        self._filename_index.admit(path)

    def forget(self, path: str) -> None:
        """Show a file no longer that was removed. Called inside ``Storage.reading``."""
        self._file_info.forget(path)
        self._listing.drop(path)

    def touch(self, project: str) -> None:
        """Let pages of a project be made anew: its marks have changed."""
        self._listing.touch([project])

    def _look(self, *, wait: bool = False) -> None:
        """Notice what others have changed on this machine; read the names of a shared storage the first time."""
        if self._storage.shared:
            if not self._open:
                run = self._reloads.begin()
                try:
                    run.result(seconds_left(RELOAD_SECONDS))
                except TimeoutError:
                    if run.done():
                        raise
                    raise StorageBusy("this server has only started and does not know yet what there is") from None
            return
        self._listing.look(wait=wait)
        now = time.monotonic()
        if now >= self._marks_again:
            self._marks_again = now + _MARKS_SECONDS
            self._see_marks()
        self._open = True

    def _see_marks(self, *, thoroughly: bool = False) -> None:
        paths, changed = self.annotations.look(thoroughly=thoroughly)
        changed.update(project for path in paths if (project := self._listing.project_of(path)) is not None)
        if changed:
            self._listing.touch(changed)

    def _version_of(self, name: str) -> int:
        """The project's version, after a look at its files for changes made in place, now and then."""
        self._look()
        if self._freshness.due(name):
            cached = self._cache.get(name)
            if cached is not None and not self._freshness.holds(cached):
                self._listing.touch([name])
                if self.usage is not None:
                    self.usage.changed(self._listing.paths(name))
        return self._listing.version_of(name)

    def _missing(self) -> Iterable[str]:
        self._look()
        missing = self._file_info.missing(self._listing)
        return islice(missing, self._options.cached_files) if self._storage.shared else missing

    def _prepare(self, path: str) -> None:
        """Have at hand what is told of a file, and of a shared storage also a small file itself: it may be asked for
        while the storage shows no files.
        """
        file = self.file(path)
        if file is None or not self._storage.shared or file.size > _SMALL:
            return
        if self._prefetched + file.size <= _PREFETCHED:
            self._prefetched += file.size
            with contextlib.suppress(OSError), self._storage.detached(Path(self._directory, path)):
                pass


def _is_gone(path: str, error: OSError) -> bool:
    """Whether a file is there no longer, in contrast to one that cannot be read, which an operator should know of."""
    gone = isinstance(error, FileNotFoundError)
    if not gone:
        _log.warning("%s cannot be read: %s", path, error)
    return gone
