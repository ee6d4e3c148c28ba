"""Limits on the bytes of a project, and of all of them."""

from __future__ import annotations

from ops.index.config import Options
from ops.index.errors import PackageIndexError, QuotaExceeded, StorageFull
from ops.index.packages.filenames import Name, is_safe, parse
from ops.index.packages.repository import Repository
from ops.index.storage.storage import Storage

LEAST_BYTES = 64 * 1024**2
LEAST_SHARE = 20
"""Bytes that stay free by default, but at most this fraction of a small disk."""

_OVERHEAD_BYTES = 2 * 1024**2
"""What the headers of a form's parts and a signature take at most, beside the fields."""


class Quotas:
    """Decides whether there is room for an upload, as soon as that can be told.

    Within one server the quotas are never exceeded, however many uploads arrive at once: each counts with what has
    arrived of it, or with what it has announced. What another server has taken in counts as soon as it can be seen: an
    upload is looked at again while its name is claimed, after a look at what others have done. Uploads that several
    servers look at for the last time in the same moment do not know of each other: together they may exceed a quota by
    what all but one of them have.

    A file of a name that exists takes no room: it has the same bytes, or it is refused.

    Parameters:
        storage: the volume of packages.
        catalogue: of the same storage.
        options: ``project_quota_bytes``, ``total_quota_bytes`` and ``least_free_bytes``.
    """

    def __init__(self, storage: Storage, repository: Repository, options: Options) -> None:
        self._storage = storage
        self._repository = repository
        self._options = options
        self._usage = repository.usage

    @property
    def counted(self) -> bool:
        """Whether there is any quota."""
        return self._usage is not None

    def least_size(self, length: int) -> int:
        """The bytes that a file has at least, from the length of the form that it comes in."""
        return max(0, length - self._options.max_form_bytes - _OVERHEAD_BYTES)

    def expect(self, size: int) -> None:
        """Refuse an upload of which nothing is known but its size, when no file of that size can be taken.

        Parameters:
            size: bytes that the file has at least. 0 is let through: it may be no upload, but a removal.

        Raises:
            QuotaExceeded: no project has room for it, and no file that is here can be the same.
            StorageFull: the disk has none.
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
        """Refuse bytes that would take the last of the disk: removals, the audit log and the users need some of it.

        Called before each piece is written. Pieces that are written at the same moment do not count with each other.

        Raises:
            StorageFull: too few bytes would stay free.
        """
        least = self._options.least_free_bytes
        if least == 0:
            return
        try:
            disk = self._storage.disk()
        except OSError:
            disk = None
        if disk is None:  # nobody can tell: it has enough
            return
        if least is None:
            least = min(LEAST_BYTES, disk.f_blocks * disk.f_frsize // LEAST_SHARE)
        free = disk.f_bavail * disk.f_frsize
        if free - size < least:
            raise StorageFull(
                f"the disk of this index has {free} bytes free, and {size} more for this upload would leave fewer "
                f"than the {least} that stay free: ask the index's operator for more room"
            )

    def measure(self) -> None:
        """Look at all files for the first time."""
        if self._usage is not None:
            self._measure()

    def reservation(self, filename: str, announced: int = 0) -> Reservation:
        """The room for one upload, which is asked for while it arrives.

        Parameters:
            filename: as the client names it.
            announced: bytes that it has at least.

        Raises:
            QuotaExceeded: there is no room for what is announced.
            StorageFull: likewise.
        """
        distribution = filename.removesuffix(".asc")
        name = parse(distribution) if self._usage is not None and is_safe(distribution) else None
        reservation = Reservation(self, filename, name, exempt=name is None or self._has(filename, name))
        if announced:
            reservation.hold(announced)
        return reservation

    def hold(self, name: Name, size: int, before: int, *, complete: bool = False) -> None:
        """Reserve *size* bytes in place of the *before* that were reserved.

        Raises:
            QuotaExceeded: there is no room.
        """
        assert self._usage is not None  # noqa: S101 - nothing is held without
        self._measure()
        self._usage.reserve(
            name.project,
            size - before,
            lambda used, total: self._check(name.project, size, used - before, total - before, complete=complete),
        )

    def refused(self, filename: str, name: Name) -> bool:
        """Whether a refusal holds after a look at what others have done: the same file may be there by now."""
        try:
            self._repository.reload()
        except PackageIndexError:
            return True
        return not self._has(filename, name)

    def give_back(self, name: Name, size: int) -> None:
        """Reserve bytes no longer."""
        if self._usage is not None:
            self._usage.reserve(name.project, -size)

    def settle(self, filename: str, name: Name, size: int, reserved: int) -> None:
        """Count what has become a file."""
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
    """The room of one upload.

    Parameters:
        quotas: decide.
        filename: as the client names it.
        name: what its file name says; None when there is no quota, or it cannot be told.
        exempt: whether a file of the name is there, so that no room is needed.
    """

    def __init__(self, quotas: Quotas, filename: str, name: Name | None, *, exempt: bool) -> None:
        self._quotas = quotas
        self._filename = filename
        self._name = name
        self._exempt = exempt
        self._held = 0

    def require(self, piece: int, size: int) -> None:
        """Ask for room for the next piece.

        Parameters:
            piece: its bytes.
            size: bytes of the upload with it.

        Raises:
            QuotaExceeded: there is none.
            StorageFull: likewise.
        """
        self._quotas.require_free(piece)
        if size > self._held:
            self.hold(size)

    def hold(self, size: int) -> None:
        """Reserve so many bytes.

        Raises:
            QuotaExceeded: there is no room.
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

    def confirm(self, name: Name, size: int) -> None:
        """Ask once more, for the whole upload: called while its name is claimed, after a look at what others have done.

        Raises:
            QuotaExceeded: there is no room.
        """
        if not self._quotas.counted:
            return
        if self._name is None or self._name.project != name.project:
            self.release()
            self._name = name
        self._quotas.hold(name, size, self._held, complete=True)
        self._held = size

    def settle(self, filename: str, size: int) -> None:
        """It has become a file."""
        if self._name is not None:
            self._quotas.settle(filename, self._name, size, self._held)
            self._held = 0

    def release(self) -> None:
        """It has not, or has been settled already."""
        if self._held and self._name is not None:
            self._quotas.give_back(self._name, self._held)
            self._held = 0
