"""What the index has: projects, their files, and what a page says of them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ops.index.claims import Claims
from ops.index.options import Options
from ops.index.storage import Storage


@dataclass(frozen=True, slots=True)
class File:
    """One distribution file.

    Parameters:
        filename: its last path component.
        path: relative to the storage's directory, with ``/``.
        project: normalized name (PEP 503).
        version: as a version prints itself (PEP 440), or as found.
        size: bytes.
        sha256: hexadecimal.
        upload_time: UTC (PEP 700).
        requires_python: of the core metadata.
        metadata_sha256: of the core metadata that is served beside the file, if it is (PEP 658).
        yanked: None when it is not, else the reason, which may be empty (PEP 592).
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
        files: all of them; also those of a quarantined project, which a page must not offer (PEP 792).
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


class Catalogue:
    """Knows the files of a storage without reading them again.

    Only ``stamp`` and ``projects`` are meant for an event loop, and only when the storage is not shared. The rest may read
    or even hash files: call it in a thread.
    """

    def __init__(self, storage: Storage, claims: Claims, options: Options) -> None:
        raise NotImplementedError

    def start(self) -> None:
        """Begin to compute, in a thread, the facts that are missing. Pages are served meanwhile."""

    def close(self) -> None:
        """Stop the thread."""

    def stamp(self) -> Hashable:
        """Equal stamps: nothing visible has changed in between. Costs one or two looks at a directory's time."""
        raise NotImplementedError

    def projects(self) -> Sequence[str]:
        """The normalized names of all projects that have a file, sorted."""
        raise NotImplementedError

    def project(self, name: str) -> Project | None:
        """All that is known of a project, by its normalized name; None when it has no file."""
        raise NotImplementedError

    def project_stamp(self, name: str) -> Hashable:
        """Equal stamps: nothing of this project has changed in between."""
        raise NotImplementedError

    def locate(self, path: str) -> tuple[Path, int] | None:
        """Where a listed file, or the ``.asc`` beside one, lies, and its size in bytes; None for anything else."""
        raise NotImplementedError

    def metadata(self, path: str) -> bytes | None:
        """The core metadata of a listed file (PEP 658), if it is served."""
        raise NotImplementedError

    def refresh(self) -> None:
        """See what others have added to a shared storage, unless that was done a moment ago. Never raises: a failed
        reload leaves the view as it was."""
