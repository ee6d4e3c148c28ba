"""Search for projects by name and summary."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from ops.index.errors import PackageIndexError
from ops.index.http.readme import parse_description
from ops.index.packages.filenames import normalize, parse, version_key
from ops.index.packages.repository import Repository

WAIT_SECONDS = 1.0
"""Longest wait of a search for summaries that are being read."""

_REST = 0.5
"""Pause after reading each project, as a fraction of the time it took: pages come first."""


class Hits(NamedTuple):
    """The result of a search.

    Parameters:
        names: those that match, then those whose summary does, each in alphabetical order.
        unread: number of projects whose summaries are not known yet.
    """

    names: Sequence[str]
    unread: int


class ProjectSearch:
    """Finds projects. A thread reads the summaries, starting with the first search, and again when a project changes.

    Parameters:
        repository: has the projects.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._known: dict[str, tuple[Hashable, str]] = {}
        self._lock = threading.Lock()
        self._reading: threading.Thread | None = None
        self._closing = False

    def close(self) -> None:
        """Stop reading."""
        self._closing = True

    def find(self, text: str) -> Hits:
        """The projects with a text in their name or summary. Slow enough to need a thread.

        Names are compared as by installers, summaries case-insensitively.

        Parameters:
            text: not empty.
        """
        names = self._repository.projects()
        outdated = self._outdated(names)
        if outdated:
            self._read(outdated).join(WAIT_SECONDS)
            outdated = self._outdated(names)
        name, words = normalize(text), " ".join(text.casefold().split())
        named = [project for project in names if name in project]
        seen, known = set(named), self._known
        told = [
            project
            for project in names
            if project not in seen and (kept := known.get(project)) is not None and words in kept[1]
        ]
        return Hits(named + told, len(outdated))

    def _outdated(self, names: Sequence[str]) -> list[str]:
        version_of, known = self._repository.listing.version_of, self._known
        if len(known) > len(names):
            with self._lock:
                for gone in set(known).difference(names):
                    del known[gone]
        return [name for name in names if (kept := known.get(name)) is None or kept[0] != version_of(name)]

    def _read(self, names: list[str]) -> threading.Thread:
        """The thread that reads summaries; searches share it, and the next one reads what has changed since."""
        with self._lock:
            reading = self._reading
            if reading is None or not reading.is_alive():
                reading = threading.Thread(target=self._read_all, args=(names,), name="summaries", daemon=True)
                self._reading = reading
                reading.start()
            return reading

    def _read_all(self, names: list[str]) -> None:
        for name in names:
            if self._closing:
                return
            began = time.monotonic()
            version = self._repository.listing.version_of(name)
            try:
                summary = self._summary(name)
            except (PackageIndexError, OSError):  # the next search tries again
                continue
            self._known[name] = (version, " ".join(summary.casefold().split()))
            time.sleep(_REST * (time.monotonic() - began))

    def _summary(self, project: str) -> str:
        """The summary in the metadata of the release that an installer would choose, judging by file names."""

        def rank(path: str) -> tuple[bool, bool, object, bool]:
            name = parse(path.rpartition("/")[2])
            known, version = version_key("" if name is None else name.version)
            final = known and not version.is_prerelease
            return self._repository.annotations.yanked(path) is None, final, (known, version), path.endswith(".whl")

        paths = self._repository.listing.paths(project)
        path = max(paths, key=rank, default=None) if len(paths) > 1 else paths[0] if paths else None
        metadata = None if path is None else self._repository.metadata(path, unserved=True)
        return "" if metadata is None else parse_description(metadata).summary
