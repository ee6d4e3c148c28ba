"""A directory that may be a Volume: changed by others only when reloaded, kept only when committed."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol


class Storage(Protocol):
    """One directory, with the moments at which it changes.

    On this machine a directory is what it is: ``commit`` and ``reload`` do nothing. On a Modal Volume the process sees a
    snapshot and its own writes; what others committed appears after ``reload``, what it wrote stays only after
    ``commit``, and while either runs the directory looks empty. The index is written against the stricter of the two.
    """

    @property
    def directory(self) -> Path:
        """Where the files are."""

    @property
    def shared(self) -> bool:
        """Whether other servers write here and their writes appear only after ``reload``."""

    @property
    def generation(self) -> int:
        """A number that grows with each reload and commit; while it stays, others' changes cannot have appeared."""

    def reading(self) -> AbstractContextManager[None]:
        """Hold while any file of the directory is open, read or written: commits and reloads wait until it is let go.

        Never held while talking to a client.
        """

    def commit(self) -> None:
        """Make everything written so far durable and visible to others' next reload. Blocks; several callers may share
        one commit, as long as it began after the last of them called.

        Raises:
            StorageError: it is not known to be durable. It may have become visible to others all the same.
        """

    def reload(self) -> None:
        """See what others have committed until now. Blocks; several callers may share one reload that began after the
        last of them called.

        Raises:
            StorageError: the view is the one from before.
        """

    def detached(self, path: Path) -> AbstractContextManager[Path]:
        """A path with the same bytes that may be held open for as long as a client takes.

        On this machine *path* itself; on a Volume a copy on the container's own disk.
        """
