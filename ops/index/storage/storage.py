"""The storage interface: a directory that others change, and whose changes a crash may lose."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from ops.index.storage.directory import StagingFolder


class Storage(Protocol):
    """One directory, and its commits and reloads.

    Code is written for the stricter kind, a Modal Volume, where a process sees a snapshot and its own writes;
    others' commits appear after ``reload``, its own writes last only after ``commit``, and while either runs the
    directory looks empty. A local directory is a Volume that is always up to date.
    """

    @property
    def directory(self) -> Path:
        """Folder of the files."""

    @property
    def staging(self) -> StagingFolder:
        """Unfinished files, on the file system of the directory."""

    @property
    def shared(self) -> bool:
        """True if other servers write here and their writes appear only after ``reload``."""

    @property
    def generation(self) -> int:
        """Counter of reloads and commits; others' changes appear only when it grows."""

    @property
    def closed(self) -> bool:
        """True if a commit or reload blocks readers now."""

    def check(self) -> None:
        """Refuse a change that could not be committed.

        Raises:
            StorageBusy: an earlier commit or reload is overdue and still running.
        """

    def reading(self) -> AbstractContextManager[None]:
        """Hold while any file of the directory is open, read or written: commits and reloads wait for that.

        May be nested, but a thread must not commit or reload inside. Never held while talking to a client.

        Raises:
            StorageBusy: a commit or reload takes longer than this thread waits (:mod:`ops.index.storage.waiting`).
        """

    def turn(self) -> AbstractContextManager[None]:
        """Hold in a thread that makes a small change, to compete less with others (:mod:`ops.index.storage.turns`)."""

    def before_commit(self, action: Callable[[], None]) -> None:
        """Register *action*, which never raises, to be called before each commit to make its own files durable."""

    def begin_commit(self) -> None:
        """Start the part of the next commit that need not wait for the committed files. Does not block."""

    def commit(self) -> None:
        """Make everything written so far durable, and visible to others' next reload.

        Blocks. Callers share a commit if it began after the last of them called. The writer of a file syncs its
        bytes; a local directory makes the names at its top durable.

        Raises:
            StorageError: it may not be durable. Others may see it anyway.
            StorageBusy: likewise, and the commit is still running.
        """

    def reload(self) -> None:
        """Read what others have committed so far. Blocks; callers share a reload as they share a commit.

        Raises:
            StorageError: the view is unchanged.
        """

    def stage(self, folder: Path | None) -> tuple[str, int]:
        """A new file for bytes that arrive slowly, and its descriptor; the caller removes it.

        Parameters:
            folder: on this server's own disk, for storage where no file may stay open; None for the system's.

        Raises:
            OSError: it cannot be created.
        """

    def near(self, path: str) -> AbstractContextManager[str]:
        """The same bytes in a file on the storage's own file system, synced: *path* itself if already there.

        Raises:
            OSError: it cannot be copied.
            StorageBusy: it cannot be copied now.
        """

    def detached(self, path: Path) -> AbstractContextManager[Path]:
        """The same bytes in a file that may stay open as long as a client needs.

        On this machine *path* itself; on a Volume a copy on the container's own disk. Blocks while it copies.

        Raises:
            FileNotFoundError: there is no such file, or it was replaced meanwhile.
            StorageBusy: it cannot be copied now.
        """

    def copied(self, path: Path) -> AbstractContextManager[Path] | None:
        """The same without copying or waiting, or None. Enter the result."""

    def adopt(self, path: Path, source: str) -> None:
        """Save :meth:`detached` the copy of a file just written. Called inside :meth:`reading`.

        Parameters:
            path: the file.
            source: a file on this server's own disk with the same bytes, which is not changed.
        """

    def lock_file(self, name: str) -> str:
        """The path of a lock file for the processes of this machine, which keep it open."""

    def disk(self) -> os.statvfs_result | None:
        """The disk's size and free space; None if unknown, as on a Volume.

        Raises:
            OSError: the file system failed.
        """

    def end(self) -> None:
        """Limit waits for commits and reloads to some seconds, because the server is stopping."""
