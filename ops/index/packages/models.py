"""Projects and their files, as pages show them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

STATUSES = ("active", "archived", "quarantined", "deprecated")
"""The statuses of a project (PEP 792)."""


@dataclass(frozen=True, slots=True)
class File:
    """A distribution file.

    Parameters:
        filename: the last component of its path.
        path: relative to the directory of the storage, with ``/``.
        project: normalized name (PEP 503).
        version: in the form that ``packaging`` prints (PEP 440), or as found.
        size: bytes.
        sha256: hexadecimal.
        upload_time: UTC (PEP 700).
        requires_python: from the core metadata.
        metadata_sha256: digest of the core metadata that is served beside the file, if any (PEP 658).
        yanked: None if it is not yanked, otherwise the reason, which may be empty (PEP 592).
    """

    filename: str
    path: str
    project: str
    version: str
    size: int
    sha256: str
    upload_time: datetime
    requires_python: str | None = None
    metadata_sha256: str | None = None
    yanked: str | None = None


@dataclass(frozen=True, slots=True)
class Project:
    """A project and its files, sorted by version, then by file name.

    Parameters:
        name: normalized (PEP 503).
        files: all of them, also those of a quarantined project, which pages must not offer (PEP 792).
        status: ``active``, ``archived``, ``quarantined`` or ``deprecated`` (PEP 792).
        status_reason: free text, or None.
    """

    name: str
    files: tuple[File, ...]
    status: str = "active"
    status_reason: str | None = None

    @property
    def versions(self) -> tuple[str, ...]:
        """Each version once, oldest first (PEP 700)."""
        return tuple(dict.fromkeys(file.version for file in self.files))
