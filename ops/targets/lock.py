"""Lock between processes of this machine: a second one waits, with a message."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from ops.errors import BusyError
from ops.index.storage.name_locks import lock_open_file
from ops.polling import until
from ops.private_files import private_file

WAIT_SECONDS = 120.0

_held: set[int] = set()


def held() -> tuple[int, ...]:
    """Descriptors of this process's locks, for a child that goes on if we are killed: it holds them until it ends."""
    return tuple(_held)


@contextlib.contextmanager
def exclusive(path: Path, *, what: str, seconds: float = WAIT_SECONDS) -> Iterator[None]:
    """Hold a lock file, which the system releases when the process dies.

    Parameters:
        path: the file, which is not removed.
        what: the locked thing, for messages; a noun phrase.
        seconds: how long to wait for another process, which is announced on stderr.

    Raises:
        BusyError: the other process did not release it in time.
    """
    descriptor = private_file(path, os.O_RDWR)
    try:
        _acquire(descriptor, what, seconds)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        _held.add(descriptor)
        yield
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


def _acquire(descriptor: int, what: str, seconds: float) -> None:
    if lock_open_file(descriptor):
        return
    waiting = f"Another run (process {_holder(descriptor)}) holds {what}; waiting for it …"
    print(waiting, file=sys.stderr, flush=True)  # noqa: T201
    if not until(lambda: lock_open_file(descriptor), bool, seconds=seconds, interval=0.1):
        raise BusyError(
            f"another run holds {what}",
            why=f"process {_holder(descriptor)} has held it for more than {seconds:.0f} s",
            todo="wait until it ends, or stop it, and run this again",
        )


def _holder(descriptor: int) -> str:
    return os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
