"""Rollback of changes whose commit failed."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from ops.index.errors import StorageBusy, StorageError
from ops.index.packages.placement import Placement
from ops.index.packages.repository import Repository
from ops.index.storage.storage import Storage

_RETRY_SECONDS: Final = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
"""Before each further attempt to commit; after the last the claims are given back, and the next commit has to do it."""

_log = logging.getLogger(__name__)


def claim_on(project: str) -> str:
    """What is claimed while the marks of a project, or of its files, are changed. No file can have this name.

    Parameters:
        project: normalized (PEP 503).
    """
    return f"marks/{project}"


class Rollback:
    """Takes changes back, and has it committed.

    Parameters:
        storage: the volume of packages.
        catalogue: of the same storage.
        placing: writes there.
    """

    def __init__(self, storage: Storage, repository: Repository, placement: Placement) -> None:
        self._storage = storage
        self._repository = repository
        self._placement = placement

    def take_back(self, project: str, restore: Callable[[], None]) -> str:
        """Have the marks of a project as they were before a change that failed.

        Returns:
            What became of the change, for the audit log: ``undone``, or ``unconfirmed`` when nobody can tell.
        """
        try:
            with self._placement.writing("what was before could not be put back"):
                restore()
        except StorageError as error:
            _log.error("a change of %s failed, and so did undoing it: %s", project, error)
            return "unconfirmed"
        finally:
            self._repository.touch(project)
        return "undone"

    def commit_later(self, held: contextlib.ExitStack, *, first: Callable[[], bool] = lambda: True) -> None:
        """Commit what is there now, after a commit that failed and that others may have seen all the same.

        At once, or else in the background, where the claims in *held* are kept until then: what another server sets
        meanwhile would be overwritten by that commit.

        Parameters:
            held: the claims.
            first: what has to be done before; whether it is done.
        """
        if not self._storage.shared or (first() and self._committed()):
            return
        kept = held.pop_all()

        def work() -> None:
            with kept:
                for seconds in _RETRY_SECONDS:
                    time.sleep(seconds)
                    while self._blocked():  # by a commit that does not end: it would take the change with it
                        time.sleep(seconds)
                    if first() and self._committed():
                        return
                _log.error("what requests that failed have left is still not committed")

        threading.Thread(target=work, name="settling", daemon=True).start()

    def _blocked(self) -> bool:
        try:
            self._storage.check()
        except StorageBusy:
            return True
        return False

    def _committed(self) -> bool:
        try:
            self._storage.commit()
        except StorageError:
            return False
        return True
