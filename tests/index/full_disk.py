"""A small separate disk, to be filled."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def mounted(folder: Path, size: str) -> Iterator[Path]:
    """A file system in memory; skips the test where that may not be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, *, leave: int = 0) -> Callable[[], None]:
    """Fill a disk except for *leave* bytes; returns a function that frees the space."""
    filler = folder / "filler"
    left = free(folder) - leave
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while left > 0:
            left -= file.write(bytes(min(left, 64 * 1024)))
        while not leave:
            file.write(bytes(4096))
    return filler.unlink


def free(folder: Path) -> int:
    """Bytes."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize
