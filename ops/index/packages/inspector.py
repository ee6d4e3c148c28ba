"""Inspection of uploads: small ones in the calling thread, others in a child process with limits."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from ops.index.errors import InvalidArchive, StorageError, WorkFailed
from ops.index.packages.core_metadata import MAX_METADATA_BYTES, Contents
from ops.index.packages.filenames import Name
from ops.index.sandbox.sandbox import Cancellation, Limits, Sandbox

if TYPE_CHECKING:
    from ops.index.packages.staged import Staged

AT_ONCE_BYTES = 4 * 1024**2
"""Largest file that is inspected in the calling thread."""

LIMITS = Limits(cpu_seconds=120, wall_seconds=600.0, memory_bytes=1024**3, result_bytes=MAX_METADATA_BYTES + 64 * 1024)
"""A file of 4 GiB, the default limit, takes less than a minute."""

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
    """Inspects uploads.

    Parameters:
        limits: of an inspection in a child process.
    """

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._sandbox = Sandbox(f"{_WORK}:work", limits, preload=f"{_WORK}:preload", workers=2, queue=256)

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
            head, _, metadata = self._sandbox.run(payload, descriptor, cancellation=cancellation).partition(b"\n")
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
        self._sandbox.close()


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
