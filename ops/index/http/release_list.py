"""Releases of a project: its files, grouped by version."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ops.index.packages.filenames import version_key
from ops.index.packages.models import File, Project


@dataclass(frozen=True, slots=True)
class Release:
    """The files of one version, however their names spell it."""

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
        """True if its version is one (PEP 440), and no pre-release."""
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
