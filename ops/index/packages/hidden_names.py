"""Names that are not shown yet, because an upload still holds the lock on them."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from ops.index.errors import StorageError
from ops.index.packages.filenames import parse, project_of
from ops.index.storage.name_locks import NameLocks


class HiddenNames:
    """Tells which of some file names have to stay hidden.

    On a shared storage a name that appears by a reload is shown when nobody held its claim, neither before the reload
    nor after it.

    Parameters:
        claims: of all servers of the storage.
    """

    def __init__(self, name_locks: NameLocks) -> None:
        self._name_locks = name_locks
        self.before: AbstractSet[str] = frozenset()
        """What was held before the last reload."""

    def held(self) -> AbstractSet[str]:
        """All that is claimed now.

        Raises:
            StorageError: that cannot be told.
        """
        try:
            return self._name_locks.held()
        except Exception as error:  # claims across servers raise what their client library raises
            raise StorageError(
                f"it cannot be told what others are at work on: {type(error).__name__}: {error}"
            ) from error

    def among(self, filenames: Iterable[str]) -> AbstractSet[str]:
        """Those of the file names that are claimed, in whatever spelling.

        Raises:
            StorageError: that cannot be told.
        """
        held = self.before | self.held()
        if not held:
            return frozenset()
        stems = {key.partition("-")[0] for key in held}
        hidden = set()
        for filename in filenames:
            if filename in held:
                hidden.add(filename)
            elif (project_of(filename) or "").replace("-", "_") in stems:
                name = parse(filename)
                if name is not None and name.key in held:
                    hidden.add(filename)
        return hidden
