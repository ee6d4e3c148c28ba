"""Projects and their files, as the pages tell of them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime

STATUSES = ("active", "archived", "quarantined", "deprecated")
"""The statuses that a project may have (PEP 792)."""


@dataclass(frozen=True, slots=True)
class File:
    """One distribution file.

    Parameters:
        filename: its last path component.
        path: relative to the storage's directory, with ``/``.
        project: normalized name (PEP 503).
        version: as a version prints itself (PEP 440), or as found.
        size: bytes.
        sha256: hexadecimal.
        upload_time: UTC (PEP 700).
        requires_python: of the core metadata.
        metadata_sha256: of the core metadata that is served beside the file, if it is (PEP 658).
        yanked: None when it is not, else the reason, which may be empty (PEP 592).
    """

    filename: str
    path: str
    project: str
    version: str
    size: int
    sha256: str
    upload_time: datetime
    requires_python: str | None = None
    metadata_sha256: str | None = None
    yanked: str | None = None


@dataclass(frozen=True, slots=True)
class Project:
    """A project and its files, sorted by version, then by file name.

    Parameters:
        name: normalized (PEP 503).
        files: all of them; also those of a quarantined project, which a page must not offer (PEP 792).
        status: ``active``, ``archived``, ``quarantined`` or ``deprecated`` (PEP 792).
        status_reason: free text, or None.
    """

    name: str
    files: tuple[File, ...]
    status: str = "active"
    status_reason: str | None = None

    @property
    def versions(self) -> tuple[str, ...]:
        """Each version once, oldest first (PEP 700)."""
        return tuple(dict.fromkeys(file.version for file in self.files))


@dataclass(frozen=True, slots=True)
class CachedProject:
    """A project, and what it was made of.

    Parameters:
        version: of the listing, as far as it is about this project.
        project: the project.
        mtimes_ns: when each of its files was last written.
        complete: False when some of its files could not be read, and have to be tried again.
    """

    version: int
    project: Project
    mtimes_ns: tuple[int, ...]
    complete: bool = True


class ProjectCache:
    """The projects that were asked for last, as many as have a given number of files together.

    Parameters:
        files: how many.
    """

    def __init__(self, files: int) -> None:
        self._limit = files
        self._size = 0
        self._lock = threading.Lock()
        self._projects: OrderedDict[str, CachedProject] = OrderedDict()

    def get(self, name: str) -> CachedProject | None:
        """A project by its name, also one that is out of date."""
        return self._projects.get(name)

    def put(self, cached: CachedProject) -> None:
        """Keep a project; those that were put longest ago go."""
        with self._lock:
            self._drop(cached.project.name)
            self._projects[cached.project.name] = cached
            self._size += len(cached.project.files)
            while self._size > self._limit and len(self._projects) > 1:
                self._drop(next(iter(self._projects)))

    def _drop(self, name: str) -> None:
        before = self._projects.pop(name, None)
        if before is not None:
            self._size -= len(before.project.files)
