"""The listed distribution files of an index by project, in memory."""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache
from itertools import groupby

from ops.index.bounded_dict import BoundedDict
from ops.index.packages.filenames import Name, parse, project_of
from ops.index.packages.quotas import Usage

_KEYED_PROJECTS = 64
"""Number of projects whose files are kept in memory by their names' keys."""


class _Projects(dict[str, "str | dict[str, None]"]):
    """The path or paths of each project, in order of appearance; for most projects of a large index a single one.

    A plain dict of strings is tracked by the garbage collector only once it gets its first dict, after ``gc.freeze``,
    and is then searched again and again. Instances of a subclass are tracked from the beginning.
    """


class Listing:
    """The listed files by project. Paths are relative to the directory of packages, with ``/``.

    Parameters:
        usage: notified of each file that appears or vanishes.

    Attributes:
        lock: guards all changes. It may be held over several, but never while waiting for a disk.
        version: counter of all changes. Set after everything else, so whoever sees a new one sees all of the change.
        projects_version: counter of projects appearing and vanishing.
        project_gone: called with the name of each project that vanishes; must not wait.
    """

    def __init__(self, usage: Usage | None = None) -> None:
        self.lock = threading.RLock()
        self.version = 0
        self.projects_version = 0
        self.project_gone: Callable[[str], object] = str
        self._usage = usage
        self._projects = _Projects()
        self._count = 0
        self._sorted: list[str] | None = None
        self._keys: BoundedDict[str, dict[str, str]] = BoundedDict(_KEYED_PROJECTS)
        self._versions: dict[str, int] = {}
        self._altered: dict[str, int] = {}

    def __len__(self) -> int:
        return self._count

    def __contains__(self, path: str) -> bool:
        return self.project_of(path) is not None

    def __iter__(self) -> Iterator[str]:
        for project in tuple(self.projects()):
            yield from self.paths(project)

    def project_of(self, path: str) -> str | None:
        """The project of a listed path; None if it is not listed."""
        project = _project_of(path.rpartition("/")[2])
        return project if project is not None and self.lists(path, project) else None

    def projects(self) -> Sequence[str]:
        """All projects, sorted. The list changes in place: copying a million names takes tens of milliseconds."""
        known = self._sorted
        if known is None:
            with self.lock:
                known = self._sorted = sorted(self._projects)
        return known

    def has(self, project: str) -> bool:
        """True if a project has a file."""
        return project in self._projects

    def paths(self, project: str) -> tuple[str, ...]:
        """The files of a project, in the order in which they were listed."""
        found = self._projects.get(project, ())
        return (found,) if isinstance(found, str) else tuple(found)

    def lists(self, path: str, project: str) -> bool:
        """True if this file of a project is listed."""
        known = self._projects.get(project)
        return known == path if known is None or isinstance(known, str) else path in known

    def version_of(self, project: str) -> int:
        """Counter of changes of the project's files, and of :meth:`touch`."""
        return self._versions.get(project, 0)

    def altered(self, project: str) -> int:
        """The version of the last change that was more than an added file."""
        return self._altered.get(project, 0)

    def touch(self, projects: Iterable[str]) -> None:
        """Record that something other than these projects' lists of files has changed."""
        with self.lock:
            for project in projects:
                self._alter(project)

    def find(self, name: Name) -> str | None:
        """The path of the listed file with this name, in any spelling; None if there is none."""
        keys = self._keys.get(name.project)
        if keys is None:
            version = self.version_of(name.project)
            keys = {key_of(path): path for path in sorted(self.paths(name.project))}
            with self.lock:
                if self.version_of(name.project) == version:
                    self._keys[name.project] = keys
        return keys.get(name.key)

    def add(
        self,
        paths: Sequence[str],
        projects: Sequence[str | None],
        left_out: AbstractSet[str] = frozenset(),
        *,
        bulk: bool = False,
    ) -> int:
        """List files, and return how many were not listed yet.

        Parameters:
            paths: of the files. Those of one project are listed in less time if they come together.
            projects: of each; None for files that are not distributions.
            left_out: paths that are not to be listed.
            bulk: true if so many follow that the projects are sorted only after the last.
        """
        with self.lock:
            new: list[str] = []
            changed: list[str] = []
            added = start = 0
            for project, run in groupby(projects):  # a million files at the start of a large index
                stop = start + len(list(run))
                some = paths[start:stop]
                start = stop
                if project is None:
                    continue
                if left_out:
                    some = [path for path in some if path not in left_out]
                grown = changed if project in self._projects else new
                count = self._add(project, some)
                if count:
                    grown.append(project)
                    added += count
            if not added:
                return 0
            self._count += added
            # The version of a new one among many stays 0, which takes no memory. Set after the files are listed.
            changed += [project for project in new if project in self._versions] if bulk else new
            version = self.version + 1
            self._versions.update(dict.fromkeys(changed, version))
            if new:
                self._put_in_order(new, bulk=bulk)
            self.version = version
            return added

    def remove(self, path: str) -> bool:
        """Take a file off the list; False if it is not on it."""
        with self.lock:
            project = self.project_of(path)
            if project is None:
                return False
            self._count -= 1
            self._keys.pop(project, None)
            left = self._projects[project]
            if isinstance(left, str) or len(left) == 1:
                del self._projects[project]
                if self._sorted is not None:
                    del self._sorted[bisect_left(self._sorted, project)]
                self.projects_version += 1
                self.project_gone(project)
            else:
                del left[path]
            if self._usage is not None:
                self._usage.vanished(path)
            self._alter(project)
            return True

    def _add(self, project: str, paths: Sequence[str]) -> int:
        """List files of one project, and return how many were not listed yet."""
        known = self._projects.get(project)
        if known is not None:
            before = (known,) if isinstance(known, str) else known
            paths = [path for path in paths if path not in before]
        if not paths:
            return 0
        if known is None and len(paths) == 1:
            self._projects[project] = paths[0]
        else:
            listed = dict.fromkeys(paths)
            paths = tuple(listed) if len(listed) < len(paths) else paths
            if known is None:
                self._projects[project] = listed
            elif isinstance(known, str):
                self._projects[project] = {known: None, **listed}
            else:
                known.update(listed)
        if project in self._keys:
            self._keys[project].update((key_of(path), path) for path in paths)
        if self._usage is not None:
            for path in paths:
                self._usage.appeared(path, project)
        return len(paths)

    def _put_in_order(self, projects: Iterable[str], *, bulk: bool) -> None:
        if bulk:
            self._sorted = None
        elif self._sorted is not None:
            for project in projects:
                insort(self._sorted, project)
        self.projects_version += 1

    def _alter(self, project: str) -> None:
        version = self.version + 1
        self._versions[project] = self._altered[project] = version
        self.version = version


_project_of = lru_cache(maxsize=1024)(project_of)
"""Cached :func:`project_of`, for files that are downloaded over and over."""


def key_of(path: str) -> str:
    """The key of a file's name, which all of its spellings share."""
    filename = path.rpartition("/")[2]
    name = parse(filename)
    return filename if name is None else name.key
