"""Lock files (``flock``) that may be removed, and that the kernel unlocks when their holder dies."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os

_ATTEMPTS = 20
"""Attempts to lock a file that keeps vanishing."""


def try_lock(path: str) -> int | None:
    """Lock *path*, created if need be, until the returned descriptor is closed; None if another holds it.

    Raises:
        OSError: the file cannot be created.
    """
    for _ in range(_ATTEMPTS):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
            continue
        if _lock(descriptor) and _is_at(descriptor, path):
            return descriptor
        held = _is_at(descriptor, path)
        os.close(descriptor)
        if held:
            return None
    return None


def is_locked(path: str) -> bool:
    """True if *path* is locked. A file that is not is removed: its holder is dead.

    Raises:
        OSError: that is unknown, for instance because too many files are open.
    """
    try:
        descriptor = _opened(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        if not _lock(descriptor):
            return True
        if _is_at(descriptor, path):
            with contextlib.suppress(OSError):  # in a directory that cannot be written it stays
                os.unlink(path)  # noqa: PTH108
        return False
    finally:
        os.close(descriptor)


def unlock(path: str, descriptor: int) -> None:
    """Remove the file, then unlock it: a process that opened it before finds it gone."""
    try:
        os.unlink(path)  # noqa: PTH108
    except FileNotFoundError:
        pass
    finally:
        os.close(descriptor)


def _opened(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in {errno.EROFS, errno.EACCES, errno.EPERM}:
            raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))  # noqa: PTH116
    except FileNotFoundError:
        return False
