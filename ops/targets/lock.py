"""A lock between processes of this machine: the second one waits and says so."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ops.errors import BusyError
from ops.index.storage.file_locks import try_lock

WAIT_SECONDS = 120.0


@contextlib.contextmanager
def exclusive(path: Path, *, what: str, seconds: float = WAIT_SECONDS) -> Iterator[None]:
    """Hold the lock file *path*; the system lets go of it when the process dies.

    Parameters:
        path: the file; it stays, only the lock on it matters.
        what: what is held, as a noun phrase for people.
        seconds: how long to wait for another holder, of which is told on stderr.

    Raises:
        BusyError: the other holder did not let go in time.
    """
    descriptor = _locked(path, what, seconds)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _locked(path: Path, what: str, seconds: float) -> int:
    deadline = time.monotonic() + seconds
    told = False
    while (descriptor := try_lock(str(path))) is None:
        holder = ""
        with contextlib.suppress(FileNotFoundError):
            holder = path.read_text("ascii", "replace").strip()
        holder = holder or "unknown"
        if time.monotonic() > deadline:
            raise BusyError(
                f"another run holds {what}",
                why=f"process {holder} has held it for more than {seconds:.0f} s",
                todo="wait until it ends, or end it, and run this again",
            )
        if not told:
            print(f"Another run (process {holder}) holds {what}; waiting for it …", file=sys.stderr, flush=True)  # noqa: T201
            told = True
        time.sleep(0.1)
    return descriptor
