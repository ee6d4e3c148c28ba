"""The distribution files in a directory, listed in memory and kept up to date with the disk.

A folder's modification time shows that names were added or removed. Two things complicate that: a change within the
same clock tick as a scan does not change the time, so the folder is scanned again after the tick; and our own
uploads change the time too, so each is recorded together with the resulting time, and the folder is scanned
again later. Event loops read the listing, so large folders are scanned only in worker threads.
"""

from __future__ import annotations

import gc
import logging
import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from ops.index.errors import StorageError
from ops.index.packages.filenames import Name, parse, project_of, projects_of
from ops.index.packages.listing import Listing, key_of
from ops.index.storage.name_locks import NameLocks

TICK_NS = 20_000_000
"""Two changes this close together may leave equal times: a kernel's clock moves in steps of up to 10 ms."""

COARSE_TICK_NS = 2_000_000_000
"""The same for file systems that keep times in steps of one or two seconds."""

FREE_SECONDS = 0.002
"""Refreshes shorter than this may follow each other without a pause."""

REST = 8
"""The pause after a longer refresh, in multiples of its duration."""

VERIFY_REST = 32
"""The same, before scanning a large folder again only because our own changes may have hidden another one."""

OVERDUE_SECONDS = 1.0
"""Longest time that our own changes postpone that second scan of a small folder."""

HIDDEN_SECONDS = 0.05
"""Interval at which folders with locked names are scanned again."""

FEW = 1000
"""Up to this many new names are each checked again before they are listed."""

LARGE = 4000
"""Folders with more files, and trees with more folders, are scanned in the background."""

_SLICE = 200
_BREATH = 0.0001
"""A repeated scan sleeps this many seconds after each slice of this many names, to let other threads run."""

_BULK = 20_000
"""Names listed before they are excluded from garbage collection, which would pause all threads for too long."""

_GLANCE = 0.002
"""Seconds between two checks whether another thread's scan is still worth waiting for."""

_UNREAD = -2
"""The time of a folder that could not be read."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Folder:
    """The state of one folder at its last scan: the number of its listed files, and the names of its folders."""

    mtime_ns: int = -1
    settled: bool = False
    looked_at: float = 0.0
    count: int = 0
    folders: tuple[str, ...] = ()
    failing: bool = False


class PackageDirectory:
    """A directory whose distribution files are listed.

    As in stock pypiserver, folders and files with a leading dot are omitted, links to files are followed and links to
    folders are not.

    Names still locked by an upload stay hidden, in every spelling. After a reload of shared storage, a
    new name is listed if it was locked neither before nor after the reload.

    Parameters:
        directory: to scan.
        name_locks: of all servers of the storage; read after a scan, not before.
        listing: of its files, kept up to date.
    """

    def __init__(self, directory: Path, name_locks: NameLocks, listing: Listing) -> None:
        self._directory = str(directory)
        self._name_locks = name_locks
        self.listing = listing
        self._change = threading.Lock()  # held by our own changes, and while a folder's time is compared
        self._scan = threading.Lock()  # held by the thread that walks the folders
        self._in_background = False
        self._slow = False  # the current walk may take long
        self._folders: dict[str, _Folder] = {"": _Folder()}
        self._hidden: set[str] = set()  # paths whose names are locked
        self._dropped: set[str] = set()  # our own deletions during the current scan
        self._rest_until = 0.0
        self._verify_again = 0.0
        self._hidden_again = 0.0
        self.locked_before: AbstractSet[str] = frozenset()
        """Names that were locked before the last reload of the storage."""

    @property
    def scanned(self) -> bool:
        """True once the directory has been read: a query need no longer wait for that."""
        return self._folders[""].looked_at > 0

    def look(self, *, thoroughly: bool = False, wait: bool = False) -> None:
        """Find changes made by others.

        Without *wait*, does nothing during one of our own changes, and leaves large folders to a
        thread: an event loop must not wait for a disk.

        Parameters:
            thoroughly: scan every folder, whatever its time.
            wait: for our own changes and for large folders; always true if nothing is known yet.

        Raises:
            StorageError: the locks on names cannot be read.
        """
        if self._calm() and not thoroughly:
            return
        if not self._look(thoroughly=thoroughly, wait=wait) and not self._in_background:
            self._in_background = True
            try:
                threading.Thread(target=self._look_in_background, name="directory", daemon=True).start()
            except RuntimeError:  # no more threads; the next refresh tries again
                self._in_background = False

    def _calm(self) -> bool:
        """True if the only folder's time shows that nothing has changed since the last scan: nearly always."""
        top = self._folders[""]
        return top.settled and not (top.folders or self._hidden) and _mtime_ns(self._directory) == top.mtime_ns

    def _look_in_background(self) -> None:
        try:
            self._look(wait=True, verify=True)
        except StorageError as error:
            _log.warning("new files are not listed yet: %s", error)
        finally:
            self._in_background = False

    def _look(self, *, thoroughly: bool = False, wait: bool = False, verify: bool = False) -> bool:
        started = time.monotonic()
        if started < self._rest_until and not thoroughly:
            return True
        wait = wait or thoroughly or self._folders[""].mtime_ns == -1
        if not self._scan.acquire(blocking=wait):
            while not self._scan.acquire(timeout=_GLANCE):
                if self._slow or self._change.locked():
                    return True
        try:
            return self._walk(started, thoroughly=thoroughly, wait=wait, verify=verify)
        finally:
            self._slow = False
            self._scan.release()

    def _walk(self, started: float, *, thoroughly: bool, wait: bool, verify: bool) -> bool:
        """Scan the folders that may have changed; False if some are left to a thread.

        Parameters:
            started: on the monotonic clock.
            thoroughly: scan every folder.
            wait: for our own changes, and for the scan of large folders changed by others.
            verify: also rescan large folders changed only by us.
        """
        self._slow = len(self._folders) > LARGE
        if self._slow and not wait:
            return False
        complete = True
        again = self._folders_with_hidden(started)
        waiting = [""]
        while waiting:
            prefix = waiting.pop()
            folder = self._folders.setdefault(prefix, _Folder())
            if not self._change.acquire(blocking=wait):
                return complete  # its own end is recorded
            try:
                mtime_ns = _mtime_ns(self._directory + "/" + prefix)
                changed = thoroughly or mtime_ns != folder.mtime_ns or prefix in again
                due = changed or not (folder.settled or self._too_early(folder, started))
                large = folder.count > LARGE
                if due and large and not (verify or (wait and changed)):
                    due = complete = False
                if due:
                    folder.mtime_ns = mtime_ns  # later changes make another scan necessary
            finally:
                self._change.release()
            if due:
                self._slow = self._slow or large
                self._scan_folder(prefix, folder, started, wait=wait)
                if large:
                    now = time.monotonic()
                    self._verify_again = now + (now - started) * VERIFY_REST
            waiting += [f"{prefix}{name}/" for name in folder.folders]
        now = time.monotonic()
        self._rest_until = 0.0 if now - started < FREE_SECONDS else now + (now - started) * REST
        return complete

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold during our own change of names at the top of the directory, so that a refresh does not mistake it for
        someone else's.
        """
        with self._change:
            folder = self._folders[""]
            ours = folder.mtime_ns == _mtime_ns(self._directory)
            try:
                yield
            finally:
                if ours:
                    folder.mtime_ns = _mtime_ns(self._directory)
                    if folder.settled:
                        folder.settled = False
                        folder.looked_at = time.monotonic()

    def add(self, path: str, name: Name) -> None:
        """List one of our own files, once durable.

        Parameters:
            path: of the file.
            name: parsed from its file name.
        """
        self._list(_prefix(path), [path], [name.project])

    def remove(self, path: str) -> None:
        """Remove a deleted file from the list."""
        with self.listing.lock:
            if self._scan.locked():
                self._dropped.add(path)  # the current scan may have seen it
            self._unlist(path)

    def find(self, name: Name) -> str | None:
        """The path of the file with this name, in any spelling; None if there is none.

        Finds hidden files too: the caller holds the lock on the name, so no upload of it is in progress.
        """
        path = self.listing.find(name)
        if path is not None or not self._hidden:
            return path
        with self.listing.lock:
            hidden = tuple(self._hidden)
        return next((path for path in hidden if key_of(path) == name.key), None)

    def _scan_folder(self, prefix: str, folder: _Folder, now: float, *, wait: bool) -> None:
        mtime_ns = folder.mtime_ns
        began_ns = time.time_ns()
        try:
            folders: list[str] = []
            names, known = self._compare(prefix, folders, hurry=not folder.looked_at)
            with self.listing.lock:
                for gone in set(folder.folders) - set(folders):
                    self._forget_folder(f"{prefix}{gone}/")
                folder.folders = tuple(folders)
                self._hidden -= {path for path in self._hidden if _prefix(path) == prefix}
            if folder.count > known:
                self._remove_missing(prefix)
            if names:
                self._show(prefix, names, now)
        except OSError as error:  # the known files stay listed; the next refresh tries again
            if not folder.failing:
                _log.warning("the folder %r cannot be read: %s", prefix or ".", error)
            folder.mtime_ns, folder.failing = _UNREAD, True
            return
        except BaseException:
            folder.mtime_ns = _UNREAD
            raise
        finally:
            with self.listing.lock:
                self._dropped.clear()
        folder.failing = False
        self._settle(folder, mtime_ns, began_ns, now, wait=wait)

    def _settle(self, folder: _Folder, mtime_ns: int, began_ns: int, now: float, *, wait: bool) -> None:
        """Record that a folder was scanned."""
        if not self._change.acquire(blocking=wait):
            folder.settled = False  # a change of ours has begun since, and may wait for a disk
            return
        try:
            if folder.mtime_ns == mtime_ns:  # else one of our own changes came in between
                folder.looked_at = now
                folder.settled = began_ns - mtime_ns > tick_ns(mtime_ns)
        finally:
            self._change.release()

    def _compare(self, prefix: str, folders: list[str], *, hurry: bool) -> tuple[list[str], int]:
        """Compare a folder with the list: the names that the list lacks, and the number of the others."""
        missing: list[str] = []
        known = 0
        lists = self.listing.lists
        for names in _read(self._directory + "/" + prefix, folders, hurry=hurry):
            if not self.listing:
                missing += names
                continue
            for name, project in zip(names, projects_of(names), strict=True):
                if project is not None and lists(prefix + name, project):
                    known += 1
                elif project is not None:
                    missing.append(name)
        return missing, known

    def _remove_missing(self, prefix: str) -> None:
        present: set[str] = set()
        for names in _read(self._directory + "/" + prefix, [], hurry=False):
            present.update(names)
        for path in self._inside(prefix):
            # One of our own files may have appeared after the scan passed its place.
            if path[len(prefix) :] not in present and not os.path.lexists(f"{self._directory}/{path}"):
                self._unlist(path)

    def _show(self, prefix: str, names: list[str], now: float) -> None:
        """List new names, except those still being uploaded."""
        locked = self._locked(names)
        many = len(names) > FEW
        names.sort()  # the files of a project come together, also in memory: listing a million takes less time
        try:
            for start in range(0, len(names), _BULK):
                some = names[start : start + _BULK]
                paths = [prefix + name for name in some] if prefix else some
                projects = projects_of(some)
                left_out: set[str] = set()
                for name in some if locked or not many else ():
                    path = prefix + name
                    if name in locked:
                        with self.listing.lock:
                            self._hidden.add(path)
                        self._hidden_again = now + HIDDEN_SECONDS
                    # Otherwise its upload failed: it was removed, and its lock released, after the scan.
                    elif many or os.path.lexists(f"{self._directory}/{path}"):
                        continue
                    left_out.add(path)
                with self.listing.lock:
                    self._list(prefix, paths, projects, left_out | self._dropped, bulk=many)
                if many:
                    gc.freeze()
        finally:
            if many:
                self.listing.projects()  # sorted here rather than for a page
                gc.freeze()

    def locked(self) -> AbstractSet[str]:
        """All names currently locked.

        Raises:
            StorageError: the locks cannot be read.
        """
        try:
            return self._name_locks.held()
        except Exception as error:  # shared locks raise whatever their client library raises
            why = f"the locks on names cannot be read: {type(error).__name__}: {error}"
            raise StorageError(why) from error

    def _locked(self, filenames: Iterable[str]) -> AbstractSet[str]:
        """The file names that are locked, in any spelling."""
        locked = self.locked_before | self.locked()
        if not locked:
            return frozenset()
        stems = {key.partition("-")[0] for key in locked}
        found = set()
        for filename in filenames:
            if filename in locked:
                found.add(filename)
            elif (project_of(filename) or "").replace("-", "_") in stems:
                name = parse(filename)
                if name is not None and name.key in locked:
                    found.add(filename)
        return found

    def _too_early(self, folder: _Folder, now: float) -> bool:
        """True if it is too early for a second scan: the tick has not passed, or a large folder was just scanned."""
        if folder.count > LARGE and now < self._verify_again:
            return True
        tick = tick_ns(folder.mtime_ns)
        return time.time_ns() - folder.mtime_ns <= tick and now - folder.looked_at < OVERDUE_SECONDS

    def _folders_with_hidden(self, now: float) -> set[str]:
        if not self._hidden or now < self._hidden_again:
            return set()
        with self.listing.lock:
            return {_prefix(path) for path in self._hidden}

    def _forget_folder(self, prefix: str) -> None:
        folder = self._folders.get(prefix)
        if folder is None:
            return
        for path in self._inside(prefix):
            self._unlist(path)
        for name in folder.folders:
            self._forget_folder(f"{prefix}{name}/")
        del self._folders[prefix]

    def _inside(self, prefix: str) -> list[str]:
        with self.listing.lock:
            return [path for path in self.listing if _prefix(path) == prefix]

    def _list(
        self,
        prefix: str,
        paths: Sequence[str],
        projects: Sequence[str | None],
        left_out: AbstractSet[str] = frozenset(),
        *,
        bulk: bool = False,
    ) -> None:
        """List files of one folder, as :meth:`Listing.add`."""
        with self.listing.lock:
            self._folders[prefix].count += self.listing.add(paths, projects, left_out, bulk=bulk)
            if self._hidden:
                self._hidden -= {path for path in self._hidden if path in self.listing}

    def _unlist(self, path: str) -> None:
        with self.listing.lock:
            self._hidden.discard(path)
            if self.listing.remove(path):
                self._folders[_prefix(path)].count -= 1


def _prefix(path: str) -> str:
    """The folder of a path with a trailing slash, or empty for the top."""
    return path[: path.rfind("/") + 1]


def _read(path: str, folders: list[str], *, hurry: bool) -> Iterator[list[str]]:
    """The names of the files, in batches; none if the folder is gone.

    Parameters:
        path: of the folder.
        folders: receives the names of the folders that may hold distributions.
        hurry: do not yield to other threads.

    Raises:
        OSError: it exists but cannot be read.
    """
    try:
        entries = os.scandir(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        while read := list(islice(entries, _SLICE)):
            try:
                names = [entry.name for entry in filter(_IS_FILE, read)]
            except OSError:  # one is a circular link, or one to an inaccessible place
                names = [entry.name for entry in read if _is_file(entry)]
            if len(names) < len(read):
                folders += [
                    entry.name for entry in read if entry.name[0] != "." and entry.is_dir(follow_symlinks=False)
                ]
            yield names
            if len(read) == _SLICE and not hurry:
                time.sleep(_BREATH)


_IS_FILE: Final = os.DirEntry.is_file
"""Called as a function by ``filter``, which takes half the time of calling the method of each entry."""


def _is_file(entry: os.DirEntry[str]) -> bool:
    """True for a file or a link to one; False if that cannot be found out."""
    try:
        return entry.is_file()
    except OSError:
        return False


def tick_ns(mtime_ns: int) -> int:
    """The time within which another change may leave the same modification time."""
    return TICK_NS if mtime_ns % 1_000_000_000 else COARSE_TICK_NS


def _mtime_ns(path: str) -> int:
    try:
        status = os.stat(path)  # noqa: PTH116 - on the way of every request
    except OSError:
        return -1
    return status.st_mtime_ns if stat.S_ISDIR(status.st_mode) else -1
