"""Temporary folder for files on their way between an index and a bucket."""

from __future__ import annotations

import contextlib
import errno
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ops.errors import RunbookError


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder, removed afterwards.

    Raises:
        RunbookError: its disk became full.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="pypi-snapshot-") as folder:
            yield Path(folder)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RunbookError(
            "there is no room for temporary files",
            why=f"{error.strerror}: {error.filename or tempfile.gettempdir()}",
            todo="free some space there, or set TMPDIR to another disk, and run this again; nothing was lost",
        ) from None
