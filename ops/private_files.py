"""Private files and folders: modes 0600 and 0700, whatever the umask."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

UMASK = 0o077
"""Umask of processes that write only private files."""


def private_folder(path: Path) -> None:
    """Create a folder and its missing parents, with mode 0700. An existing folder is not changed.

    Raises:
        OSError: it cannot be created, or is a file.
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
    """True if the group or others have any right to this file or folder; False if it does not exist."""
    try:
        return bool(path.stat().st_mode & 0o077)
    except OSError:
        return False


def close_to_others(path: Path) -> None:
    """Remove all rights of the group and others.

    Raises:
        OSError: it belongs to another user.
    """
    path.chmod(path.stat().st_mode & 0o700)


def private_file(path: Path, flags: int) -> int:
    """Open a file for writing, with mode 0600 from the start, and return the descriptor.

    Parameters:
        path: the file, created if it does not exist.
        flags: for :func:`os.open`, besides ``O_CREAT``.

    Raises:
        OSError: it cannot be opened.
    """
    descriptor = os.open(path, flags | os.O_CREAT, 0o600)
    with contextlib.suppress(PermissionError):  # another user's file
        os.fchmod(descriptor, 0o600)
    return descriptor


@contextlib.contextmanager
def draft_of(path: Path) -> Iterator[Path]:
    """Create an empty private file next to *path*, to be moved there; removed at the end if it was not.

    It is locked meanwhile, which distinguishes it from the draft of a killed process.

    Raises:
        OSError: it cannot be created.
    """
    descriptor, draft = _locked_draft(path)
    try:
        os.fchmod(descriptor, 0o600)  # the umask may have removed the owner's rights
        yield draft
    finally:
        os.close(descriptor)
        draft.unlink(missing_ok=True)


def _locked_draft(path: Path) -> tuple[int, Path]:
    while True:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                return descriptor, Path(name)
        os.close(descriptor)  # taken for an abandoned one


def remove_abandoned_drafts(*paths: Path) -> None:
    """Remove drafts of files whose processes were killed: they may hold secrets."""
    for folder in {path.parent for path in paths}:
        for draft in folder.glob(".*.????????"):
            if folder / draft.name[1:-9] in paths:
                with contextlib.suppress(OSError), draft.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    draft.unlink()


@contextlib.contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """Create a private temporary folder, removed at the end; first remove those of killed processes.

    It is locked meanwhile, which distinguishes it from theirs.

    Parameters:
        prefix: of its name and theirs.

    Raises:
        OSError: it cannot be created.
    """
    for abandoned in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with contextlib.suppress(OSError), _locked_folder(abandoned):
            shutil.rmtree(abandoned)
    with contextlib.ExitStack() as lock:
        while True:
            folder = Path(tempfile.mkdtemp(prefix=prefix))
            with contextlib.suppress(BlockingIOError, FileNotFoundError):  # taken for an abandoned one
                folder.chmod(0o700)  # the umask may have removed the owner's rights
                lock.enter_context(_locked_folder(folder))
                break
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    """Lock a folder until the end of the context or of this process.

    Raises:
        BlockingIOError: it is locked.
        OSError: it does not exist any more, or belongs to another user.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        folder.stat()
        yield
    finally:
        os.close(descriptor)


def write_durably(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Write an existing file, and wait until it is on disk.

    Parameters:
        path: the file.
        content: all of it.
        sync: False to skip the wait if a power failure may lose the content.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        if sync:
            os.fsync(stream.fileno())


def replace_file(path: Path, content: str | bytes, *, sync: bool = True) -> None:
    """Write a private file atomically: readers find the old content or the new one.

    Parameters:
        path: the file, which may exist.
        content: all of it; text is encoded as UTF-8.
        sync: as of :func:`write_durably`.

    Raises:
        OSError: it cannot be written; the old content stays.
    """
    remove_abandoned_drafts(path)
    with draft_of(path) as draft:
        write_durably(draft, content.encode() if isinstance(content, str) else content, sync=sync)
        draft.replace(path)
