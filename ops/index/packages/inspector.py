"""Inspection of uploads: small ones in the calling thread, others in a child process with limits."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from ops.index.errors import InvalidArchive, StorageError, WorkFailed
from ops.index.packages.core_metadata import Contents
from ops.index.packages.filenames import Name

if TYPE_CHECKING:
    from ops.index.packages.staged import Staged
    from ops.index.sandbox.sandbox import Cancellation, Sandbox

AT_ONCE_BYTES = 4 * 1024**2
"""Largest file that is inspected in the calling thread."""

_WORKERS = 2
_QUEUE = 256
_CPU_SECONDS = 120
_WALL_SECONDS = 600.0
"""A file of 4 GiB, the default limit, takes less than a minute."""
_MEMORY_BYTES = 1024**3
_WORK = "ops.index.packages.inspection"


class DeferredError(Exception):
    """An upload must be inspected in a child process before it can be published.

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

    def at_once(self, name: Name, staged: Staged, form: Mapping[str, str]) -> Contents:
        """Inspect a small upload in this thread, or a large one that was inspected before.

        Parameters:
            name: parsed from its file name.
            staged: its bytes.
            form: its ``name`` and ``version``, if given, must agree.

        Raises:
            InvalidArchive: it cannot be installed.
            FieldMismatch: its name, its form and its core metadata disagree.
            DeferredError: it takes too much work.
        """
        from ops.index.packages.inspection import check_agreement  # imports archive readers: startup need not wait

        check_agreement(name, "the form", form.get("name"), form.get("version"))
        contents = staged.contents or _inspected(name, staged)
        check_agreement(name, "its core metadata", contents.name, contents.version)
        return contents

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
            why = f"it cannot be inspected: {error.reason}; build it with less in it"
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
        # Most servers rarely get such an upload.
        from ops.index.packages.archive import MAX_METADATA_BYTES
        from ops.index.sandbox.sandbox import Limits, Sandbox

        with self._lock:
            if self._sandbox is None:
                limits = Limits(
                    cpu_seconds=_CPU_SECONDS,
                    wall_seconds=_WALL_SECONDS,
                    memory_bytes=_MEMORY_BYTES,
                    result_bytes=MAX_METADATA_BYTES + 64 * 1024,
                )
                self._sandbox = Sandbox(
                    f"{_WORK}:work", limits, preload=f"{_WORK}:preload", workers=_WORKERS, queue=_QUEUE
                )
                if self._closed:
                    self._sandbox.close()
            return self._sandbox


def _inspected(name: Name, staged: Staged) -> Contents:
    from ops.index.packages.archive import OutOfBoundsError
    from ops.index.packages.inspection import AT_ONCE, inspect

    if staged.size > AT_ONCE_BYTES:
        raise DeferredError(name, staged)
    try:
        with staged.open() as file:
            return inspect(file, name, bounds=AT_ONCE)
    except OutOfBoundsError:
        raise DeferredError(name, staged) from None
