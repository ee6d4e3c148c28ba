"""Small facts that people set: which files are yanked, and what status a project has.

Each is a file of its own, so that two servers that set different ones do not overwrite each other's.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from urllib.parse import quote, unquote

from ops.index.listing import COARSE_TICK_NS, TICK_NS
from ops.index.writing import INDEX_FOLDER, Workbench, remove, sync_folder

_LONGEST = 64 * 1024


class Marks:
    """The files of one folder in ``.index``, by the name that they mark.

    Parameters:
        directory: of packages.
        kind: the folder's name, such as ``yanked``.
    """

    def __init__(self, directory: Path, kind: str, workbench: Workbench) -> None:
        self._folder = f"{directory}/{INDEX_FOLDER}/{kind}"
        self._workbench = workbench
        self._marks: dict[str, str] = {}
        self._times: dict[str, tuple[int, int]] = {}
        self._mtime_ns = -1
        self._settled = True

    def get(self, name: str) -> str | None:
        """What a name is marked with; None when it is not marked."""
        return self._marks.get(name)

    def look(self, *, thoroughly: bool = False) -> set[str]:
        """Notice what has changed; the names whose marks did."""
        try:
            mtime_ns = os.stat(self._folder).st_mtime_ns  # noqa: PTH116 - on the way of many requests
        except OSError:
            mtime_ns = -1
        if mtime_ns == self._mtime_ns and not thoroughly and (self._settled or _may_still_change(mtime_ns)):
            return set()
        self._settled = mtime_ns == -1 or not _may_still_change(mtime_ns)
        self._mtime_ns = mtime_ns
        return self._read()

    def put(self, name: str, text: str) -> None:
        """Mark a name, durably.

        Raises:
            OSError: it is marked as before.
        """
        self._workbench.replace(self._path(name), text.encode("utf-8", "replace"), durable=True)
        self._marks[name] = text

    def lift(self, name: str) -> None:
        """Take the mark away, durably.

        Raises:
            OSError: it may still be marked.
        """
        if remove(self._path(name)):
            sync_folder(self._folder)
        self._marks.pop(name, None)

    def _read(self) -> set[str]:
        marks: dict[str, str] = {}
        times: dict[str, tuple[int, int]] = {}
        for entry in _files(self._folder):
            name = unquote(entry.name)
            with contextlib.suppress(OSError):  # it was taken away just now
                status = entry.stat()
                time_and_size = (status.st_mtime_ns, status.st_size)
                if name in self._marks and self._times.get(name) == time_and_size:
                    marks[name] = self._marks[name]
                else:
                    with open(entry.path, "rb") as file:
                        marks[name] = file.read(_LONGEST).decode("utf-8", "replace")
                times[name] = time_and_size
        changed = {name for name in marks.keys() | self._marks.keys() if marks.get(name) != self._marks.get(name)}
        self._marks, self._times = marks, times
        return changed

    def _path(self, name: str) -> str:
        return f"{self._folder}/{quote(name, safe='+!')}"


def _files(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if entry.is_file()]
    except OSError:
        return []


def _may_still_change(mtime_ns: int) -> bool:
    """Whether another change now could leave the same time."""
    return time.time_ns() - mtime_ns <= (TICK_NS if mtime_ns % 1_000_000_000 else COARSE_TICK_NS)
