"""Inspection of uploads: small ones in the calling thread, others in a child process with limits."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING

from ops.index.errors import InvalidArchive, StorageError, WorkFailed
from ops.index.packages.archive import MAX_METADATA_BYTES, Bounds, OutOfBoundsError
from ops.index.packages.distribution import Contents, inspect
from ops.index.packages.filenames import Name
from ops.index.packages.staging import Staged

if TYPE_CHECKING:
    from ops.index.sandbox.sandbox import Cancellation, Sandbox

AT_ONCE = Bounds(members=2_000, unpacked_bytes=16 * 1024**2, read_bytes=512 * 1024, examined_bytes=32 * 1024)
"""Work of some 50 ms at most; nearly all pure-Python uploads need far less."""

AT_ONCE_BYTES = 4 * 1024**2
"""Largest file that is inspected in the calling thread."""

_WORKERS = 2
_QUEUE = 256
_CPU_SECONDS = 120
_WALL_SECONDS = 600.0
"""A file of 4 GiB, the default limit, takes less than a minute."""
_MEMORY_BYTES = 1024**3


class DeferredError(Exception):
    """An upload has to be inspected in a child process before it can be published.

    Parameters:
        name: parsed from its file name.
        staged: its bytes.
    """

    def __init__(self, name: Name, staged: Staged) -> None:
        self.name = name
        self.staged = staged
        super().__init__(name.filename)


class Inspector:
    """Inspects uploads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sandbox: Sandbox | None = None
        self._closed = False

    def at_once(self, name: Name, staged: Staged) -> Contents:
        """Inspect a small upload in this thread.

        Raises:
            InvalidArchive: it cannot be installed.
            DeferredError: it takes too much work.
        """
        if staged.size > AT_ONCE_BYTES:
            raise DeferredError(name, staged)
        try:
            with staged.open() as file:
                return inspect(file, name, bounds=AT_ONCE)
        except OutOfBoundsError:
            raise DeferredError(name, staged) from None

    def at_length(self, name: Name, staged: Staged, cancellation: Cancellation | None = None) -> Contents:
        """Inspect an upload in a child process, and wait for the result.

        Parameters:
            name: parsed from its file name.
            staged: its bytes.
            cancellation: ends the inspection early.

        Raises:
            InvalidArchive: it cannot be installed.
            WorkCancelled: the inspection was cancelled, or the server is stopping.
            SandboxError: the inspection failed.
        """
        try:
            descriptor = os.open(staged.path, os.O_RDONLY)
        except OSError as error:
            raise StorageError(f"the upload could not be read: {error.strerror or error}; try again") from error
        try:
            payload = json.dumps(asdict(name)).encode()
            head, _, metadata = self._ready().run(payload, descriptor, cancellation=cancellation).partition(b"\n")
        except WorkFailed as error:
            why = f"it cannot be looked at: {error.reason}; build it with less in it"
            raise InvalidArchive(name.filename, why) from error
        finally:
            os.close(descriptor)
        fields = json.loads(head)
        if "refused" in fields:
            raise InvalidArchive(name.filename, fields["refused"])
        return Contents(**fields["contents"], metadata=metadata if fields["metadata"] else None)

    def close(self) -> None:
        """End all inspections in child processes, and refuse new ones. Does not block."""
        with self._lock:
            self._closed = True
            sandbox = self._sandbox
        if sandbox is not None:
            sandbox.close()

    def _ready(self) -> Sandbox:
        from ops.index.sandbox.sandbox import Limits, Sandbox  # most servers rarely get such an upload

        with self._lock:
            if self._sandbox is None:
                limits = Limits(
                    cpu_seconds=_CPU_SECONDS,
                    wall_seconds=_WALL_SECONDS,
                    memory_bytes=_MEMORY_BYTES,
                    result_bytes=MAX_METADATA_BYTES + 64 * 1024,
                )
                self._sandbox = Sandbox(
                    f"{__name__}:work", limits, prepare=f"{__name__}:prepare", workers=_WORKERS, queue=_QUEUE
                )
                if self._closed:
                    self._sandbox.close()
            return self._sandbox


def prepare() -> None:
    """Import what validation needs, once for all workers."""
    import packaging.metadata
    import packaging.requirements  # noqa: F401


def work(payload: bytes, descriptor: int) -> bytes:
    """Inspect an upload, in a worker.

    Parameters:
        payload: the fields of its :class:`Name`, as JSON.
        descriptor: of the file.

    Returns:
        One line of JSON, then its core metadata.
    """
    name = Name(**json.loads(payload))
    try:
        with open(descriptor, "rb", closefd=False) as file:
            contents = inspect(file, name)
    except InvalidArchive as error:
        return json.dumps({"refused": error.reason}).encode() + b"\n"
    fields = {field: getattr(contents, field) for field in ("name", "version", "requires_python", "static")}
    head = json.dumps({"contents": fields, "metadata": contents.metadata is not None})
    return head.encode() + b"\n" + (contents.metadata or b"")
