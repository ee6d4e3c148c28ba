"""Noticing files that were written anew in place, which no folder's time tells of."""

from __future__ import annotations

import contextlib
import os
import time
from collections import OrderedDict

from ops.index.errors import StorageBusy
from ops.index.packages.models import CachedProject
from ops.index.storage.storage import Storage
from ops.index.storage.waiting import at_once


class Revalidation:
    """Looks at the files of a project, now and then.

    Parameters:
        storage: where the files are.
        seconds: how long a project is believed after a look.
        projects: how many looks are remembered.
    """

    def __init__(self, storage: Storage, *, seconds: float, projects: int) -> None:
        self._storage = storage
        self._directory = str(storage.directory)
        self._seconds = seconds
        self._projects = projects
        self._looked: OrderedDict[str, float] = OrderedDict()

    def due(self, name: str) -> bool:
        """Whether it is time for a look at this project; who is told so takes it."""
        now = time.monotonic()
        if now - self._looked.get(name, -1e9) <= self._seconds:
            return False
        self._looked[name] = now
        while len(self._looked) > self._projects:
            with contextlib.suppress(KeyError):  # another thread did it
                self._looked.popitem(last=False)
        return True

    def holds(self, cached: CachedProject) -> bool:
        """Whether the project's files are still those that it was made of, and all that there are.

        While the storage shows no files they are taken to be.
        """
        if not cached.complete:
            return False
        try:
            return self._unchanged(cached)
        except StorageBusy:
            return True

    def _unchanged(self, cached: CachedProject) -> bool:
        with at_once(), self._storage.reading():
            for file, mtime_ns in zip(cached.project.files, cached.mtimes_ns, strict=True):
                try:
                    status = os.stat(f"{self._directory}/{file.path}")  # noqa: PTH116 - many at once
                except OSError:
                    continue  # its folder's time tells that
                if (status.st_size, status.st_mtime_ns) != (file.size, mtime_ns):
                    return False
        return True
