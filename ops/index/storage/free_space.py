"""The room that is left on a disk, and how much of it uploads leave alone."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ops.index.errors import StorageFull

LEAST_BYTES = 64 * 1024**2
LEAST_SHARE = 20
"""By default so many bytes stay free, or that part of a disk for which this is less."""


class FreeSpace:
    """Keeps uploads from taking the last of a disk: removals, the audit log and the users need some of it.

    Asked before each piece is written. Pieces that are written at the same moment do not know of each other, so that
    fewer bytes may stay free by as many as are being written: 1 MiB for each thread that takes uploads.

    Parameters:
        directory: on the disk.
        least: bytes that stay free; None for the default.
    """

    def __init__(self, directory: Path, least: int | None) -> None:
        self._directory = str(directory)
        self._least = least

    def require(self, size: int) -> None:
        """Ask for room. A disk that does not tell how much there is has enough.

        Parameters:
            size: bytes that are about to be written.

        Raises:
            StorageFull: fewer bytes than the least would stay free.
        """
        if self._least == 0:
            return
        with contextlib.suppress(OSError):
            disk = os.statvfs(self._directory)
            free = disk.f_bavail * disk.f_frsize
            least = self._least
            if least is None:
                least = min(LEAST_BYTES, disk.f_blocks * disk.f_frsize // LEAST_SHARE)
            if free - size < least:
                raise StorageFull(
                    f"the disk of this index has {free} bytes free, and {size} more for this upload would leave fewer "
                    f"than the {least} that stay free: ask the index's operator for more room"
                )
