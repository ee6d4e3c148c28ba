"""The facts of every file: kept, or computed when they are missing or hold no longer."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Iterable
from pathlib import Path

from ops.index.disk.storage import Storage
from ops.index.disk.writing import Workbench
from ops.index.packages.distribution import look_into
from ops.index.packages.facts import LATEST, Facts, FactsStore
from ops.index.packages.names import parse

_PIECE = 1024**2
_LOCKS = 64

_log = logging.getLogger(__name__)


class FactsKeeper:
    """Never reads a file twice that has not changed.

    Parameters:
        storage: the volume of packages.
        workbench: on the same file system.
        scratch: where sidecars go when the volume cannot be written; None for the system's temporary directory.
    """

    def __init__(self, storage: Storage, workbench: Workbench, *, scratch: Path | None) -> None:
        self._storage = storage
        self._directory = str(storage.directory)
        self._store = FactsStore(storage.directory, workbench, scratch=scratch)
        self._failing = False
        self._locks = [threading.Lock() for _ in range(_LOCKS)]

    def of(self, path: str) -> tuple[Facts, int]:
        """The facts of a file, from its sidecar while they hold, else computed and, if it can be, kept; and when it
        was written.

        Raises:
            OSError: the file cannot be read.
        """
        with self._locks[hash(path) % _LOCKS]:
            with self._storage.reading():
                status = os.stat(f"{self._directory}/{path}")  # noqa: PTH116 - many at once
                facts = self._store.read(path)
            if facts is None or not facts.hold_for(status):
                facts, _ = self._compute(path, status)
            return facts, status.st_mtime_ns

    def metadata(self, path: str, *, unserved: bool = False) -> bytes | None:
        """The core metadata that is served beside a file, if there is any.

        Parameters:
            path: of the file.
            unserved: also what is kept for people only.

        Raises:
            OSError: the file cannot be read.
        """
        facts = self.of(path)[0]
        if facts.metadata_sha256 is None and not (unserved and facts.metadata_size):
            return None
        with self._storage.reading():
            found = self._store.metadata(path, unserved=unserved)
            status = os.stat(f"{self._directory}/{path}")  # noqa: PTH116 - many at once
        if found is None:  # the sidecar is damaged, or could not be kept
            facts, found = self._compute(path, status)
            if facts.metadata_sha256 is None and not unserved:
                return None
        return found

    def keep(self, path: str, facts: Facts, metadata: bytes | None) -> None:
        """Keep the facts of a file whose bytes are known. Called inside ``Storage.reading``."""
        self._store.write(path, facts, metadata)

    def forget(self, path: str) -> None:
        """Drop the facts of a file that is gone. Called inside ``Storage.reading``."""
        self._store.forget(path)

    def missing(self, paths: Iterable[str]) -> set[str]:
        """Those of the paths that have no facts yet."""
        missing = set(paths)
        with self._storage.reading():
            for path in self._store.kept():  # one by one: there may be as many as files
                missing.discard(path)
        return missing

    def _compute(self, path: str, status: os.stat_result) -> tuple[Facts, bytes | None]:
        name = parse(path.rpartition("/")[2])
        assert name is not None  # noqa: S101 - only what has a name is listed
        digest = hashlib.sha256()
        with self._storage.detached(Path(self._directory, path)) as copy, copy.open("rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
            contents = look_into(file, name)
        metadata, served = contents.metadata, contents.served
        facts = Facts(
            size=status.st_size,
            mtime_ns=status.st_mtime_ns,
            sha256=digest.hexdigest(),
            version=name.version,
            upload_time=min(max(status.st_mtime_ns / 1e9, 0.0), LATEST),
            requires_python=contents.requires_python,
            metadata_sha256=None if served is None else hashlib.sha256(served).hexdigest(),
            metadata_size=len(metadata or b""),
        )
        try:
            with self._storage.reading():
                self._store.write(path, facts, metadata)
        except OSError as error:  # they hold all the same, and are computed again the next time
            if not self._failing:  # where nothing can be written, no file's can
                _log.warning("the facts of %s cannot be kept, nor, until that is mended, of others: %s", path, error)
            self._failing = True
        else:
            self._failing = False
        return facts, metadata
