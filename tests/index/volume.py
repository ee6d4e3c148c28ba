"""A fake Volume with Modal's rules, for many servers on one machine.

Each server has a snapshot, taken when it starts. It sees its own writes at once, others' only after a reload; a reload
is refused while a file is open; while a commit or reload runs the directory looks empty; a commit may fail, and may
still have happened; the last commit of a file wins; and commits also happen in the background, at any moment, with
whatever is written by then.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Literal

from ops.index.storage.volume import COMMIT_SECONDS, RELOAD_SECONDS, GuardedStorage

Fault = Literal["committed all the same", "not committed"]
Identity = tuple[int, int, int]


class VolumeError(Exception):
    """Known errors of the real client."""


class Remote:
    """The remote side that all snapshots are taken from."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.lock = threading.Lock()
        directory.mkdir(parents=True, exist_ok=True)

    def names(self) -> set[str]:
        """The files without a leading dot anywhere in their paths: what stock pypiserver would list."""
        return {path.name for path in self.directory.iterdir() if path.is_file() and not path.name.startswith(".")}


class Volume(GuardedStorage):
    """One server's snapshot.

    Parameters:
        remote: the common state.
        view: this server's view of it; must not exist.
        empty_seconds: how long it looks empty during a commit or reload.
        background_seconds: between two background commits; None for none.
        commit_seconds: time limit of a commit.
        reload_seconds: time limit of a reload.
    """

    def __init__(
        self,
        remote: Remote,
        view: Path,
        *,
        empty_seconds: float = 0.001,
        background_seconds: float | None = None,
        commit_seconds: float = COMMIT_SECONDS,
        reload_seconds: float = RELOAD_SECONDS,
    ) -> None:
        super().__init__(
            view, cache_directory=view.parent, commit_seconds=commit_seconds, reload_seconds=reload_seconds
        )
        view.mkdir()
        self.remote = remote
        self.faults: list[Fault] = []
        self.going_on = threading.Event()
        """While cleared, the next commit hangs, and with it every reload of the same Volume."""
        self.going_on.set()
        self.reload_faults = 0
        self.commits = 0
        self.reloads = 0
        self._empty_seconds = empty_seconds
        self._away = view.with_name(view.name + ".away")
        self._moving = threading.Lock()
        self._theirs: dict[str, Identity] = {}
        self._ours: dict[str, Identity] = {}
        self._stopping = threading.Event()
        self._pull(view)
        if background_seconds is not None:
            threading.Thread(target=self._commit_now_and_then, args=(background_seconds,), daemon=True).start()

    def kill(self) -> None:
        """Lose the server with everything it has not committed."""
        self._stopping.set()
        with self._moving:
            shutil.rmtree(self.directory, ignore_errors=True)

    def commit_in_background(self) -> None:
        """Commit everything, like the runtime every few seconds."""
        with self._moving:
            self._push(self.directory)

    def _commit(self) -> None:
        fault = self.faults.pop(0) if self.faults else None
        self.commits += 1
        with self._looking_empty() as view:
            if not self.going_on.is_set():
                with self.remote.lock:
                    self.going_on.wait(600)
            if fault == "not committed":
                raise VolumeError("the commit was lost")
            self._push(view)
            if fault == "committed all the same":
                raise VolumeError("there are open files preventing the operation")
            self._pull(view)

    def _reload(self) -> None:
        self.reloads += 1
        if self.reload_faults:
            self.reload_faults -= 1
            raise VolumeError("the reload was lost")
        with self._moving:  # the background commit also reads in this process, which the server must not see
            open_files = self.open_files()
        if open_files:
            raise VolumeError(f"there are open files preventing the operation: {open_files}")
        with self._looking_empty() as view:
            self._pull(view)

    def open_files(self) -> list[str]:
        """The files of this snapshot that this process has open."""
        found = []
        for link in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):
                target = str(link.readlink())
                if target.startswith(f"{self.directory}/"):
                    found.append(target)
        return found

    @contextlib.contextmanager
    def _looking_empty(self) -> Iterator[Path]:
        with self._moving:
            self.directory.rename(self._away)
            self.directory.mkdir()
            time.sleep(self._empty_seconds)
            try:
                yield self._away
            finally:
                # Anything written meanwhile would be lost: no one may write during a commit.
                self.directory.rmdir()
                self._away.rename(self.directory)

    def _commit_now_and_then(self, seconds: float) -> None:
        while not self._stopping.wait(seconds):
            self.commit_in_background()

    def _push(self, view: Path) -> None:
        """Send this server's changes. A file being written is sent as far as it got."""
        with self.remote.lock:
            now = _files(view)
            for path, identity in now.items():
                if self._ours.get(path) != identity:
                    with contextlib.suppress(FileNotFoundError):  # it was just renamed
                        _copy(view / path, self.remote.directory / path)
            for path in self._ours.keys() - now.keys():
                (self.remote.directory / path).unlink(missing_ok=True)
            there = _files(self.remote.directory)
            for path in now:
                if self._ours.get(path) != now[path] and path in there:
                    self._theirs[path] = there[path]
            for path in self._ours.keys() - now.keys():
                self._theirs.pop(path, None)
            self._ours = now

    def _pull(self, view: Path) -> None:
        """Take others' changes, except for files that this server has changed."""
        with self.remote.lock:
            there = _files(self.remote.directory)
            here = _files(view)
            for path, identity in there.items():
                if self._theirs.get(path) != identity and self._ours.get(path) == here.get(path):
                    _copy(self.remote.directory / path, view / path)
            for path in self._theirs.keys() - there.keys():
                if path in here and self._ours.get(path) == here[path]:
                    (view / path).unlink()
            changed_here = {path for path in here if self._ours.get(path) != here[path]}
            deleted_here = self._ours.keys() - here.keys()
            self._theirs = there
            after = _files(view)
            self._ours = {path: identity for path, identity in after.items() if path not in changed_here}
            for path in deleted_here:
                self._ours.setdefault(path, (0, 0, 0))


def _files(directory: Path) -> dict[str, Identity]:
    found: dict[str, Identity] = {}
    folders = [""]
    while folders:
        prefix = folders.pop()
        with contextlib.suppress(FileNotFoundError), os.scandir(directory / prefix) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(f"{prefix}{entry.name}/")
                else:
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat()
                        found[prefix + entry.name] = (status.st_size, status.st_mtime_ns, status.st_ino)
    return found


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)


class MemoryNameLocks:
    """Locks among the threads of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: set[str] = set()

    def acquire(self, filename: str) -> bool:
        """Lock *filename*; False if it is locked."""
        with self._lock:
            if filename in self._names:
                return False
            self._names.add(filename)
            return True

    def held(self) -> AbstractSet[str]:
        """All currently locked names."""
        with self._lock:
            return frozenset(self._names)

    def release(self, filename: str) -> None:
        """Release a lock."""
        with self._lock:
            self._names.discard(filename)
