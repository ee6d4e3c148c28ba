"""Finding a file by what its name means: two spellings of one project, version and set of tags are one name."""

from __future__ import annotations

import threading
from collections import OrderedDict

from ops.index.packages.directory import PackageDirectory
from ops.index.packages.filenames import Name, parse

_PROJECTS = 64


class FilenameIndex:
    """Looks into a listing by the keys of names, and remembers those of the projects that were asked for last.

    Parameters:
        listing: has looked at the directory just before it is asked.
    """

    def __init__(self, listing: PackageDirectory) -> None:
        self._listing = listing
        self._lock = threading.Lock()
        self._keys: OrderedDict[str, tuple[int, dict[str, str]]] = OrderedDict()

    def find(self, name: Name) -> str | None:
        """The path of the file that has this name, in whatever spelling; None when there is none."""
        version = self._listing.version_of(name.project)
        with self._lock:
            known = self._keys.get(name.project)
            if known is None or known[0] != version:
                paths = self._listing.paths(name.project)
                keys = {parsed.key: path for path in paths if (parsed := _parsed(path)) is not None}
                known = self._keys[name.project] = (version, keys)
                if len(self._keys) > _PROJECTS:
                    self._keys.popitem(last=False)
        found = known[1].get(name.key)
        if found is None:
            # Its claim hides it, and the caller holds that: nobody is at work on it. It was finished, or left, before.
            filename_index = ((path, _parsed(path)) for path in self._listing.hidden())
            found = next((path for path, parsed in filename_index if parsed and parsed.key == name.key), None)
        return found

    def admit(self, path: str) -> None:
        """Show a file in the listing, without having to look through its project again."""
        name = _parsed(path)
        if name is None:
            return
        before, after = self._listing.admit(path, name.project)
        with self._lock:
            known = self._keys.get(name.project)
            if known is not None and known[0] == before:
                self._keys[name.project] = (after, known[1] | {name.key: path})


def _parsed(path: str) -> Name | None:
    return parse(path.rpartition("/")[2])
