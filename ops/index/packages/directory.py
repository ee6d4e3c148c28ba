"""The names of all files in a directory, kept in memory and true to it.

A folder's modification time tells that names were added or removed there. Two things make that less simple than it
sounds: a change within the same tick of the clock as our look leaves the time as it was, so a folder is looked at once
more after the tick has passed; and our own uploads change the time too, so each is noted together with the time that it
made, and the folder is looked at again later, when that costs little in proportion.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ops.index.packages.filenames import project_of
from ops.index.packages.usage import Usage

TICK_NS = 20_000_000
"""Two changes this close together may leave one time: a kernel's clock moves in steps of up to 10 ms."""

COARSE_TICK_NS = 2_000_000_000
"""The same for file systems that keep whole seconds, or every second one."""

FREE_SECONDS = 0.002
"""A look that is quicker may be repeated as often as anyone asks."""

REST = 8
"""After a slower one, this many times its duration passes before the next."""

OVERDUE_SECONDS = 1.0
"""So long our own changes may put off the second look that they make necessary."""

HIDDEN_SECONDS = 0.05
"""How often names that somebody still claims are looked at again."""

FEW = 1000
"""So many new names are worth a second look each."""

_GLANCE = 0.002
"""Seconds for which a look waits for another at a time, unless it is a change of our own that is in its way."""

_UNREAD = -2
"""The time of a folder that could not be read: no folder has it."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Folder:
    """One folder as it was last seen: how many files of it are listed, and the names of its folders."""

    mtime_ns: int = -1
    settled: bool = False
    looked_at: float = 0.0
    count: int = 0
    folders: tuple[str, ...] = ()


class PackageDirectory:
    """Which distribution files there are, by project.

    Paths are relative to the directory, with ``/``. Folders and files with a leading dot are left out, links to files
    are followed and links to folders are not, as stock pypiserver does it.

    Parameters:
        directory: to look through.
        hidden: which of some file names may not be shown yet; asked after they were found, not before.
        usage: told of each file that comes and goes.
    """

    def __init__(
        self, directory: Path, hidden: Callable[[Iterable[str]], AbstractSet[str]], usage: Usage | None = None
    ) -> None:
        self._directory = str(directory)
        self._hide = hidden
        self._usage = usage
        self._lock = threading.RLock()  # around what is kept in memory, and never held while a disk is waited for
        self._disk = threading.Lock()  # one looks, or one changes something
        self._changes = False
        self._folders: dict[str, _Folder] = {"": _Folder()}
        self._files: dict[str, str] = {}
        self._projects: dict[str, list[str]] = {}
        self._sorted: tuple[str, ...] | None = None
        self._hidden: set[str] = set()
        self._versions: dict[str, int] = {}
        self._rest_until = 0.0
        self._hidden_again = 0.0
        self.version = 0

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, path: str) -> bool:
        return path in self._files

    def __iter__(self) -> Iterator[str]:
        with self._lock:
            return iter(list(self._files))

    def project_of(self, path: str) -> str | None:
        """The project of a listed path."""
        return self._files.get(path)

    def projects(self) -> Sequence[str]:
        """All projects, sorted."""
        known = self._sorted
        if known is None:
            with self._lock:
                known = self._sorted = tuple(sorted(self._projects))
        return known

    def paths(self, project: str) -> tuple[str, ...]:
        """The files of a project, in no order."""
        return tuple(self._projects.get(project, ()))

    def hidden(self) -> tuple[str, ...]:
        """The files that are there and may not be shown yet."""
        with self._lock:
            return tuple(self._hidden)

    def version_of(self, project: str) -> int:
        """A number that changes with the project's files, and when :meth:`touch` says so."""
        return self._versions.get(project, 0)

    def touch(self, projects: Iterable[str]) -> None:
        """Note that something else about these projects has changed."""
        with self._lock:
            for project in projects:
                self.version += 1
                self._versions[project] = self.version

    def look(self, *, thoroughly: bool = False, wait: bool = False) -> None:
        """Notice what others have changed.

        While a change of our own is being made nothing is noticed: an event loop does not wait for a disk.

        Parameters:
            thoroughly: look into every folder, whatever its time says.
            wait: for the change of our own; always done when nothing is known yet.
        """
        started = time.monotonic()
        if started < self._rest_until and not thoroughly:
            return
        if not self._disk.acquire(blocking=wait or thoroughly or self._folders[""].mtime_ns == -1):
            while not self._disk.acquire(timeout=_GLANCE):
                if self._changes:
                    return
        try:
            self._look(started, thoroughly=thoroughly)
        finally:
            self._disk.release()

    def _look(self, started: float, *, thoroughly: bool) -> None:
        again = self._folders_with_hidden(started)
        waiting = [""]
        while waiting:
            prefix = waiting.pop()
            folder = self._folders.setdefault(prefix, _Folder())
            mtime_ns = _mtime_ns(self._directory + "/" + prefix)
            settled = folder.settled or _too_early(folder, started)
            if thoroughly or mtime_ns != folder.mtime_ns or not settled or prefix in again:
                self._read_folder(prefix, folder, mtime_ns, started)
            waiting += [f"{prefix}{name}/" for name in folder.folders]
        took = time.monotonic() - started
        self._rest_until = 0.0 if took < FREE_SECONDS else started + took * (1 + REST)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold around a change of our own to the names at the top of the directory.

        It keeps other threads from looking meanwhile, so that they do not take it for somebody else's.
        """
        with self._disk:
            self._changes = True
            folder = self._folders[""]
            ours = folder.mtime_ns == _mtime_ns(self._directory)
            try:
                yield
            finally:
                self._changes = False
                if ours:
                    folder.mtime_ns = _mtime_ns(self._directory)
                    if folder.settled:
                        folder.settled = False
                        folder.looked_at = time.monotonic()

    def admit(self, path: str, project: str) -> tuple[int, int]:
        """Show a file that we have put there; the project's version right before, and right after."""
        with self._lock:
            before = self.version_of(project)
            self._add(path, project)
            return before, self.version_of(project)

    def drop(self, path: str) -> None:
        """Show a file no longer."""
        with self._lock:
            self._remove(path)

    def _read_folder(self, prefix: str, folder: _Folder, mtime_ns: int, now: float) -> None:
        began_ns = time.time_ns()
        try:
            names, folders = _read(self._directory + "/" + prefix)
        except OSError as error:  # what was known of it still holds; the next look tries again
            if folder.mtime_ns != _UNREAD:
                _log.warning("the folder %r cannot be read: %s", prefix or ".", error)
            folder.mtime_ns = _UNREAD
            return
        with self._lock:
            for gone in set(folder.folders) - set(folders):
                self._forget_folder(f"{prefix}{gone}/")
            folder.folders = folders
            self._hidden -= {path for path in self._hidden if _prefix(path) == prefix}
            appeared = [name for name in names if prefix + name not in self._files]
            if folder.count > len(names) - len(appeared):
                kept = set(names)
                for path in self._inside(prefix):
                    if path[len(prefix) :] not in kept:
                        self._remove(path)
        if appeared:
            self._show(prefix, appeared, now)
        folder.mtime_ns = mtime_ns
        folder.looked_at = now
        folder.settled = began_ns - mtime_ns > (TICK_NS if mtime_ns % 1_000_000_000 else COARSE_TICK_NS)

    def _show(self, prefix: str, names: list[str], now: float) -> None:
        """List names that have appeared, except for those that somebody is still at work on."""
        held = self._hide(names)
        for name in names:
            project = project_of(name)
            if project is None:
                continue
            if name in held:
                with self._lock:
                    self._hidden.add(prefix + name)
                self._hidden_again = now + HIDDEN_SECONDS
            elif len(names) > FEW or os.path.lexists(f"{self._directory}/{prefix}{name}"):
                # Else its upload failed: it was removed, and its claim released, after we had read the folder.
                with self._lock:
                    self._add(prefix + name, project)

    def _inside(self, prefix: str) -> list[str]:
        return [path for path in self._files if _prefix(path) == prefix]

    def _folders_with_hidden(self, now: float) -> set[str]:
        if not self._hidden or now < self._hidden_again:
            return set()
        with self._lock:
            return {_prefix(path) for path in self._hidden}

    def _forget_folder(self, prefix: str) -> None:
        folder = self._folders.get(prefix)
        if folder is None:
            return
        for path in self._inside(prefix):
            self._remove(path)
        for name in folder.folders:
            self._forget_folder(f"{prefix}{name}/")
        del self._folders[prefix]

    def _add(self, path: str, project: str) -> None:
        self._hidden.discard(path)
        if path in self._files:
            return
        self._folders[_prefix(path)].count += 1
        self._files[path] = project
        known = self._projects.get(project)
        if known is None:
            self._projects[project] = [path]
            self._sorted = None
        else:
            known.append(path)
        if self._usage is not None:
            self._usage.appeared(path, project)
        self.touch([project])

    def _remove(self, path: str) -> None:
        self._hidden.discard(path)
        project = self._files.pop(path, None)
        if project is None:
            return
        self._folders[_prefix(path)].count -= 1
        left = self._projects[project]
        left.remove(path)
        if not left:
            del self._projects[project]
            self._sorted = None
        if self._usage is not None:
            self._usage.vanished(path)
        self.touch([project])


def _prefix(path: str) -> str:
    """The folder of a path, with a slash after it if it is none of the top."""
    return path[: path.rfind("/") + 1]


def _read(path: str) -> tuple[list[str], tuple[str, ...]]:
    """The names of the files and of the folders that may hold distributions; nothing when the folder is gone.

    Raises:
        OSError: it is there, and cannot be read.
    """
    files: list[str] = []
    folders: list[str] = []
    try:
        entries = os.scandir(path)
    except (FileNotFoundError, NotADirectoryError):
        return [], ()
    with entries:
        for entry in entries:
            name = entry.name
            if name[0] == ".":
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(name)
            elif _is_file(entry):
                files.append(name)
    return files, tuple(folders)


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether it is a file or a link to one; a link in a circle, or to where we may not look, is none."""
    try:
        return entry.is_file()
    except OSError:
        return False


def _too_early(folder: _Folder, now: float) -> bool:
    """Whether the tick in which a folder was last changed may still last, unless it was waited for long enough."""
    tick = TICK_NS if folder.mtime_ns % 1_000_000_000 else COARSE_TICK_NS
    return time.time_ns() - folder.mtime_ns <= tick and now - folder.looked_at < OVERDUE_SECONDS


def _mtime_ns(path: str) -> int:
    try:
        status = os.stat(path)  # noqa: PTH116 - on the way of every request
    except OSError:
        return -1
    return status.st_mtime_ns if stat.S_ISDIR(status.st_mode) else -1
