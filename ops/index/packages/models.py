"""Projects, their releases and files, as pages show them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from operator import attrgetter
from typing import Any

from ops.index.packages.filenames import version_key

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
        metadata_sha256: digest of the core metadata served next to the file, if any (PEP 658).
        yanked: None if it is not yanked, otherwise the reason, which may be empty (PEP 592).
        uploader: the user who uploaded it; empty if unknown. Only pages for people show it.
        run: the URL of the CI run that uploaded it; empty if none did.
        attested: true if it has a provenance (PEP 740).
        provenance: absolute URL of that; empty if it has none, or the index does not know its own address.
        mtime_ns: when it was last written, in nanoseconds since the epoch. Pages do not show it.
        recorded_ns: when the sidecar that the rest was read from was last changed; 0 if unknown.
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
    uploader: str = ""
    run: str = ""
    attested: bool = False
    provenance: str = ""
    mtime_ns: int = field(default=0, compare=False)
    recorded_ns: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Project:
    """A project and its files, sorted by version, then by file name.

    Parameters:
        name: normalized (PEP 503).
        files: all of them, even if the project is quarantined and pages must not offer them (PEP 792).
        status: ``active``, ``archived``, ``quarantined`` or ``deprecated`` (PEP 792).
        status_reason: free text, or None.
        versions: each version once, oldest first (PEP 700); found in the files unless given.
    """

    name: str
    files: tuple[File, ...]
    status: str = "active"
    status_reason: str | None = None
    versions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.versions:
            object.__setattr__(self, "versions", tuple(dict.fromkeys(map(_version, self.files))))


@dataclass(frozen=True, slots=True)
class Release:
    """The files of one version, in any spelling."""

    version: str
    files: tuple[File, ...]

    @property
    def uploaded(self) -> datetime:
        """Upload time of its first file."""
        return min(file.upload_time for file in self.files)

    @property
    def yanked(self) -> bool:
        """True if all of its files are yanked."""
        return all(file.yanked is not None for file in self.files)

    @property
    def prerelease(self) -> bool:
        """True if installers skip it unless asked (PEP 440)."""
        known, version = version_key(self.version)
        return known and bool(version.is_prerelease)

    @property
    def final(self) -> bool:
        """True if its version is valid (PEP 440) and not a pre-release."""
        return version_key(self.version)[0] and not self.prerelease

    @property
    def requires_python(self) -> str | None:
        """The ``Requires-Python`` of its first file that has one."""
        return next((file.requires_python for file in self.files if file.requires_python is not None), None)


def releases_of(project: Project) -> list[Release]:
    """The releases of a project, newest version first."""
    found: dict[tuple[bool, Any], list[File]] = {}
    for file in sorted(project.files, key=lambda file: file.filename):
        found.setdefault(version_key(file.version), []).append(file)
    return [Release(files[0].version, tuple(files)) for _, files in sorted(found.items(), reverse=True)]


def latest_of(releases: list[Release]) -> Release | None:
    """The release that an installer would choose: the newest, if possible final and not yanked.

    Parameters:
        releases: newest first.
    """
    return max(releases, key=lambda release: (not release.yanked, release.final), default=None)


_version = attrgetter("version")
