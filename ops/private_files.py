"""Folders and files for their owner only: modes 0700 and 0600 whatever the umask, which can take away and not add."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

UMASK = 0o077
"""For processes of which everything that they write is to be private."""


def private_folder(path: Path) -> None:
    """Make a folder, and those above it that are missing, with mode 0700. One that exists is left as it is.

    Raises:
        OSError: it cannot be made, or is no folder.
    """
    if path.is_dir():
        return
    if path.parent != path:
        private_folder(path.parent)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        if not path.is_dir():
            raise
    else:
        path.chmod(0o700)


def open_to_others(path: Path) -> bool:
    """Whether the mode of a file or folder gives its group or everybody any right; False when there is none."""
    try:
        return bool(path.stat().st_mode & 0o077)
    except OSError:
        return False


def close_to_others(path: Path) -> None:
    """Take every right from the group and everybody, and leave the owner's.

    Raises:
        OSError: it belongs to another user.
    """
    path.chmod(path.stat().st_mode & 0o700)


def private_file(path: Path, flags: int) -> int:
    """Open a file for writing, with mode 0600 before anything is written; return the descriptor.

    Parameters:
        path: the file.
        flags: of :func:`os.open`; ``O_CREAT`` comes in addition.

    Raises:
        OSError: it cannot be opened.
    """
    descriptor = os.open(path, flags | os.O_CREAT, 0o600)
    with contextlib.suppress(PermissionError):  # somebody else's file: its owner decides
        os.fchmod(descriptor, 0o600)
    return descriptor
