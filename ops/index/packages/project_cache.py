"""Projects in memory, updated incrementally."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Final

from ops.index.bounded_dict import BoundedDict
from ops.index.packages.filenames import version_key
from ops.index.packages.models import File, Project

_FEW = 32
"""Up to this many new files are inserted one by one instead of sorting all files again."""

_SHARE = 32
"""Known files for which one more new file is inserted: clients that upload together add dozens between two pages."""


_EVICTED: Final = 100_000
"""Evicted projects that are remembered, with some 300 bytes each."""


@dataclass(slots=True, kw_only=True)
class Comparable:
    """Something whose files are compared with the disk from time to time.

    Parameters:
        checked_at: when they were last compared, on the monotonic clock.
    """

    checked_at: float = field(default_factory=time.monotonic)

    def due(self, seconds: float) -> bool:
        """True if the files must be compared with the disk again; True only once per comparison."""
        now = time.monotonic()
        if now - self.checked_at <= seconds:
            return False
        self.checked_at = now
        return True


@dataclass(slots=True)
class CachedProject(Comparable):
    """A project, and the state of the directory that it was built from.

    Parameters:
        version: of the directory, for this project.
        project: the project.
        listed: number of files that the directory listed, including vanished ones.
        complete: False if some files could not be read and must be tried again.
    """

    version: int
    project: Project
    listed: int
    complete: bool = True

    @property
    def files(self) -> int:
        """The number of files."""
        return len(self.project.files)


@dataclass(slots=True)
class EvictedProject(Comparable):
    """Remains of a project whose pages may still be in another cache.

    Parameters:
        files: their number.
        fingerprint: of the files, see :func:`fingerprint`; None if some could not be read.
    """

    files: int
    fingerprint: int | None


def fingerprint(files: Iterable[tuple[str, int, int]]) -> int:
    """A number that changes when a file is written.

    Parameters:
        files: path, size and modification time of each.
    """
    return hash(frozenset(files))


class ProjectCache:
    """The most recently built projects, limited by their number of files.

    Parameters:
        files: maximum in total.
    """

    def __init__(self, files: int) -> None:
        self._projects: BoundedDict[str, CachedProject] = BoundedDict(
            files, weigh=lambda cached: cached.files, evicted=self._remember
        )
        self._evicted: BoundedDict[str, EvictedProject] = BoundedDict(_EVICTED)

    def get(self, name: str) -> CachedProject | None:
        """The project of this name, current or stale."""
        return self._projects.get(name)

    def evicted(self, name: str) -> EvictedProject | None:
        """Remains of an evicted project; None if it is unknown."""
        return self._evicted.get(name)

    def put(self, cached: CachedProject) -> None:
        """Add a project, and evict the oldest ones if there are too many files."""
        self._projects[cached.project.name] = cached
        self._evicted.pop(cached.project.name, None)

    def _remember(self, name: str, cached: CachedProject) -> None:
        files = ((file.path, file.size, file.mtime_ns) for file in cached.project.files)
        state = fingerprint(files) if cached.complete else None
        self._evicted[name] = EvictedProject(cached.files, state, checked_at=cached.checked_at)


def in_order(known: Sequence[File], new: Sequence[File]) -> tuple[File, ...]:
    """Merge files in the order of a project: by version, file name and path.

    Parameters:
        known: files in this order.
        new: further files, in any order.
    """
    if not known or _many(new, known):
        # By name first: versions, which are slow to compare, are nearly in order then.
        by_name = sorted([*known, *new], key=attrgetter("filename", "path"))
        return tuple(sorted(by_name, key=lambda file: version_key(file.version)))
    files = list(known)
    for file in new:
        files.insert(bisect_left(files, _sort_key(file), key=_sort_key), file)
    return tuple(files)


def versions_with(known: Sequence[str], new: Sequence[File]) -> tuple[str, ...]:
    """Versions in the order of a project, with those of new files; empty if they must be found in all files.

    Parameters:
        known: versions in this order, each once.
        new: further files.
    """
    if _many(new, known):
        return ()
    versions = list(known)
    for version in {file.version for file in new}:
        key = version_key(version)
        place = bisect_left(versions, key, key=version_key)
        equal = [other for other in versions[place : place + 2] if version_key(other) == key]
        if not equal:
            versions.insert(place, version)
        elif equal != [version]:  # other spellings, whose order is that of their files
            return ()
    return tuple(versions)


def _many(new: Sequence[File], known: Sequence[object]) -> bool:
    """True if sorting everything takes less time than inserting the new files one by one."""
    return len(new) > max(_FEW, len(known) // _SHARE)


def _sort_key(file: File) -> tuple[tuple[bool, Any], str, str]:
    return version_key(file.version), file.filename, file.path
