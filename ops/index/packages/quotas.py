"""Quotas: limits on the bytes of a project and of the index, and minimum free disk space."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ops.index.config import Options
from ops.index.errors import PackageIndexError, QuotaExceeded, StorageFull
from ops.index.packages.filenames import Name
from ops.index.storage.storage import Storage

if TYPE_CHECKING:
    from ops.index.packages.repository import Repository

LEAST_BYTES = 64 * 1024**2
LEAST_SHARE = 20
"""Bytes that stay free by default, but at most this fraction of the disk."""

_OVERHEAD_BYTES = 2 * 1024**2
"""Maximum size of a form's part headers and a signature."""


class Quotas:
    """Decides as early as possible whether there is space for an upload.

    A single server never exceeds a quota: every upload counts with the bytes received or announced. Uploads to
    other servers count once they are visible, at the latest when the upload is checked again under its lock. Uploads
    checked by several servers at the same moment do not see each other, and together may exceed a quota.

    A file whose name exists needs no space: it has the same bytes, or is refused.

    Parameters:
        storage: the volume of packages.
        repository: of the same storage.
        options: ``project_quota_bytes``, ``total_quota_bytes`` and ``least_free_bytes``.
    """

    def __init__(self, storage: Storage, repository: Repository, options: Options) -> None:
        self._storage = storage
        self._repository = repository
        self._options = options
        self._usage = repository.usage

    def least_size(self, length: int) -> int:
        """The minimum size of a file, from the length of its form."""
        return max(0, length - self._options.max_form_bytes - _OVERHEAD_BYTES)

    def expect(self, size: int) -> None:
        """Refuse an upload by its size alone, if no file of that size can be accepted.

        Parameters:
            size: minimum size of the file in bytes. 0 is always accepted: it may be a removal.

        Raises:
            QuotaExceeded: no project has space for it, and no existing file can be the same.
            StorageFull: the disk has no space.
        """
        if not size:
            return
        self.require_free(size)
        if self._usage is None:
            return
        self._measure()
        if size > self._usage.largest:
            self._usage.reserve("", 0, lambda _, total: self._check("", size, 0, total, complete=False))

    def require_free(self, size: int) -> None:
        """Refuse bytes that would use up the last of the disk: removals, the audit log and changes of users need some.

        Called before each piece is written. Pieces written at the same moment do not see each other.

        Raises:
            StorageFull: too little space would stay free.
        """
        least = self._options.least_free_bytes
        if least == 0:
            return
        try:
            disk = self._storage.disk()
        except OSError:
            disk = None
        if disk is None:  # unknown: assume enough
            return
        if least is None:
            least = min(LEAST_BYTES, disk.f_blocks * disk.f_frsize // LEAST_SHARE)
        free = disk.f_bavail * disk.f_frsize
        if free - size < least:
            raise StorageFull(
                f"the disk of this index has {free} bytes free, and {size} more for this upload would leave fewer "
                f"than the {least} that must stay free: ask the index's operator for more space"
            )

    def measure(self) -> None:
        """Measure all files for the first time."""
        if self._usage is not None:
            self._measure()

    def reservation(self, filename: str, name: Name | None, announced: int) -> Reservation:
        """Reserve space for one upload while it arrives.

        Parameters:
            filename: as named by the client.
            name: of the distribution; None if it cannot be parsed.
            announced: its minimum size in bytes.

        Raises:
            QuotaExceeded: there is no space for the announced bytes.
            StorageFull: likewise.
        """
        if self._usage is None:
            name = None
        reservation = Reservation(self, filename, name, exempt=name is None or self._has(filename, name))
        if announced:
            reservation.hold(announced)
        return reservation

    def hold(self, name: Name, size: int, before: int, *, complete: bool = False) -> None:
        """Reserve *size* bytes instead of the *before* reserved earlier.

        Raises:
            QuotaExceeded: there is no space.
        """
        assert self._usage is not None  # noqa: S101 - nothing is held without
        self._measure()
        self._usage.reserve(
            name.project,
            size - before,
            lambda used, total: self._check(name.project, size, used - before, total - before, complete=complete),
        )

    def refused(self, filename: str, name: Name) -> bool:
        """False if another server has published the same file meanwhile."""
        try:
            self._repository.reload()
        except PackageIndexError:
            return True
        return not self._has(filename, name)

    def give_back(self, name: Name, size: int) -> None:
        """Cancel a reservation of bytes."""
        if self._usage is not None:
            self._usage.reserve(name.project, -size)

    def settle(self, filename: str, name: Name, size: int, reserved: int) -> None:
        """Count a published upload."""
        if self._usage is None:
            return
        if filename.endswith(".asc"):
            self._usage.changed([filename.removesuffix(".asc")])
            self._usage.reserve(name.project, -reserved)
        else:
            self._usage.settle(filename, name.project, size, reserved)

    def _has(self, filename: str, name: Name) -> bool:
        if filename.endswith(".asc"):
            return self._repository.locate(filename) is not None
        return self._repository.find(name) is not None

    def _measure(self) -> None:
        assert self._usage is not None  # noqa: S101 - for the type checker
        len(self._repository)  # looks at the directory
        self._usage.measure()

    def _check(self, project: str, size: int, used: int, total: int, *, complete: bool) -> None:
        what = f"the project {project!r}" if project else "a project"
        for described, limit, taken in (
            (what, self._options.project_quota_bytes, used),
            ("this index", self._options.total_quota_bytes, total),
        ):
            if limit and taken + size > limit:
                raise QuotaExceeded(described, limit=limit, used=taken, size=size, complete=complete)


class Reservation:
    """The space reserved for one upload.

    Parameters:
        quotas: decide.
        filename: as named by the client.
        name: its parts; None without quotas, or if the name cannot be parsed.
        exempt: true if a file of this name exists, so no space is needed.
    """

    def __init__(self, quotas: Quotas, filename: str, name: Name | None, *, exempt: bool) -> None:
        self._quotas = quotas
        self._filename = filename
        self._name = name
        self._exempt = exempt
        self._held = 0

    def extend(self, piece: int, size: int) -> None:
        """Reserve space for the next piece.

        Parameters:
            piece: its bytes.
            size: bytes of the upload including the piece.

        Raises:
            QuotaExceeded: there is no space.
            StorageFull: likewise.
        """
        self._quotas.require_free(piece)
        if size > self._held:
            self.hold(size)

    def hold(self, size: int) -> None:
        """Reserve bytes for the whole upload.

        Raises:
            QuotaExceeded: there is no space.
        """
        if self._exempt or self._name is None:
            return
        try:
            self._quotas.hold(self._name, size, self._held)
        except QuotaExceeded:
            if self._quotas.refused(self._filename, self._name):
                self._quotas.hold(self._name, size, self._held)
            else:
                self._exempt = True
                return
        self._held = size

    def confirm(self, size: int) -> None:
        """Check the whole upload again, under the lock on its name, with others' uploads visible.

        Raises:
            QuotaExceeded: there is no space.
        """
        if self._name is not None:
            self._quotas.hold(self._name, size, self._held, complete=True)
            self._held = size

    def settle(self, size: int) -> None:
        """Count the upload as a file."""
        if self._name is not None:
            self._quotas.settle(self._filename, self._name, size, self._held)
            self._held = 0

    def release(self) -> None:
        """Cancel what is still reserved."""
        if self._held and self._name is not None:
            self._quotas.give_back(self._name, self._held)
            self._held = 0


_BATCH = 256
"""Number of files measured at a time; commits and reloads of shared storage wait meanwhile."""


class Usage:
    """The bytes used by the listed files. Each file is measured once, before the next quota decision.

    A signature counts with its file. Nothing in ``.index`` counts: sidecars, tombstones, the audit log.

    Parameters:
        storage: the volume of packages.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._directory = str(storage.directory)
        self._lock = threading.Lock()  # never held while waiting for a disk: event loops acquire it
        self._sizes: dict[str, tuple[str, int]] = {}
        self._unmeasured: dict[str, tuple[str, object]] = {}
        self._stored: Counter[str] = Counter()
        self._reserved: Counter[str] = Counter()
        self._stored_total = 0
        self._reserved_total = 0
        self.largest = 0
        """Size in bytes of the largest file since the start."""

    def appeared(self, path: str, project: str) -> None:
        """Start counting a file."""
        with self._lock:
            if path not in self._sizes:
                self._unmeasured[path] = (project, object())

    def changed(self, paths: Iterable[str]) -> None:
        """Measure files again that were written in place, or got a signature."""
        with self._lock:
            for path in paths:
                if path in self._sizes:
                    self._unmeasured[path] = (self._sizes[path][0], object())

    def vanished(self, path: str) -> None:
        """Stop counting a file."""
        with self._lock:
            self._unmeasured.pop(path, None)
            self._set(path, None, 0)

    def measure(self) -> None:
        """Measure new files, in some microseconds each. Called outside of ``Storage.reading``."""
        while self._unmeasured:
            with self._lock:
                batch = list(self._unmeasured.items())[:_BATCH]
            with self._storage.reading():
                sizes = [self._size(path) for path, _ in batch]
            with self._lock:
                for (path, entry), size in zip(batch, sizes, strict=True):
                    if self._unmeasured.get(path) is entry:
                        del self._unmeasured[path]
                        self._set(path, entry[0], size)

    def reserve(self, project: str, size: int, check: Callable[[int, int], None] = lambda *_: None) -> None:
        """Reserve bytes for an upload in progress; a negative number releases them.

        Parameters:
            project: normalized (PEP 503).
            size: bytes to reserve in addition to earlier reservations.
            check: called with the bytes used by the project and in total, while no one else can reserve any. An
                exception from it prevents the reservation.
        """
        with self._lock:
            check(self._stored[project] + self._reserved[project], self._stored_total + self._reserved_total)
            self._reserve(project, size)

    def settle(self, path: str, project: str, size: int, reserved: int) -> None:
        """Turn a reservation into a file in one step."""
        with self._lock:
            self._reserve(project, -reserved)
            self._unmeasured.pop(path, None)
            self._set(path, project, size)

    def _reserve(self, project: str, size: int) -> None:
        self._reserved[project] += size
        self._reserved_total += size
        if not self._reserved[project]:
            del self._reserved[project]

    def _set(self, path: str, project: str | None, size: int) -> None:
        before = self._sizes.pop(path, None)
        if before is not None:
            self._stored[before[0]] -= before[1]
            self._stored_total -= before[1]
            if not self._stored[before[0]]:
                del self._stored[before[0]]
        if project is not None:
            self._sizes[path] = (project, size)
            self._stored[project] += size
            self._stored_total += size
            self.largest = max(self.largest, size)

    def _size(self, path: str) -> int:
        size = 0
        for name in (path, f"{path}.asc"):
            with contextlib.suppress(OSError):
                status = os.stat(f"{self._directory}/{name}")  # noqa: PTH116 - many at once
                size += status.st_size if stat.S_ISREG(status.st_mode) else 0
        return size
