"""Releases on the packages volume: sizes, ages, yanks, statuses of projects, and last downloads."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from packaging.version import InvalidVersion, Version

from ops.errors import NotDeployedError
from ops.targets import Target, VolumeFile, content_of
from ops.targets.index_files import ACTIVITY, STATUS, YANKED, Downloads, annotated, distribution, download_counts


@dataclass(frozen=True)
class PublishedRelease:
    """All files of one version of a project.

    Parameters:
        project: normalized name (PEP 503).
        version: as listed by the index.
        files: paths on the volume.
        size: total bytes.
        uploaded: when the newest file was uploaded.
        yanks: the files that are yanked, with the reasons.
        downloaded: the hour of the last download; None if none is known.
    """

    project: str
    version: str
    files: tuple[str, ...]
    size: int
    uploaded: datetime
    yanks: dict[str, str]
    downloaded: datetime | None

    @property
    def name(self) -> str:
        """Project and version, as in the parameter `confirm`."""
        return f"{self.project} {self.version}"

    @property
    def state(self) -> str:
        """State for installers: offered, or yanked, with the reason."""
        if not self.yanks:
            return "offered"
        reason = next(iter(self.yanks.values()))
        part = "" if len(self.yanks) == len(self.files) else f" {len(self.yanks)} of {len(self.files)} files"
        return f"yanked{part}{f': {reason}' if reason else ''}"

    @property
    def order(self) -> tuple[bool, Version | str]:
        """Sort key by version; invalid versions (PEP 440) come first."""
        try:
            return (True, Version(self.version))
        except InvalidVersion:
            return (False, self.version)

    @property
    def is_prerelease(self) -> bool:
        """True for developmental releases too (PEP 440)."""
        try:
            return Version(self.version).is_prerelease
        except InvalidVersion:
            return False


@dataclass(frozen=True)
class ReleaseList:
    """Contents of the packages volume.

    Parameters:
        releases: by project, newest version first.
        statuses: of projects that are not active, with the reasons (PEP 792).
        counted_since: the first hour for which downloads were counted; None if none were.
    """

    releases: tuple[PublishedRelease, ...]
    statuses: dict[str, tuple[str, str]]
    counted_since: datetime | None

    @classmethod
    def of(cls, target: Target) -> ReleaseList:
        """Read the volume. Copies the annotations and the download counts.

        Raises:
            NotDeployedError: there is no such volume.
            TargetError: it cannot be read.
        """
        volume = target.settings.packages_volume
        if not target.volume_exists(volume):
            raise NotDeployedError(target.place)
        groups: dict[tuple[str, str], list[VolumeFile]] = defaultdict(list)
        yanked: list[str] = []
        status: list[str] = []
        activity: list[str] = []
        for file in target.list_files(volume):
            if found := distribution(file.path):
                groups[found.project, found.version].append(file)
            for folder, paths in ((YANKED, yanked), (STATUS, status), (ACTIVITY, activity)):
                if file.path.startswith(folder):
                    paths.append(file.path)
        content = partial(content_of, target, volume)
        yanks = {annotated(path): content(path).decode(errors="replace") for path in yanked}
        statuses = {annotated(path): _status(content(path).decode(errors="replace")) for path in status}
        last, since = _last_downloads(row for path in activity for row in download_counts(content(path)))
        releases = [
            PublishedRelease(
                project,
                version,
                tuple(sorted(file.path for file in files)),
                sum(file.size for file in files),
                datetime.fromtimestamp(max(file.modified for file in files), UTC),
                {file.path: yanks[file.path] for file in files if file.path in yanks},
                max((last[file.path] for file in files if file.path in last), default=None),
            )
            for (project, version), files in groups.items()
        ]
        releases.sort(key=lambda release: release.order, reverse=True)
        releases.sort(key=lambda release: release.project)
        return cls(tuple(releases), statuses, since)

    def of_project(self, project: str) -> tuple[PublishedRelease, ...]:
        """Releases of one project, newest version first."""
        return tuple(release for release in self.releases if release.project == project)

    def status(self, project: str) -> tuple[str, str]:
        """Status of a project, and the reason."""
        return self.statuses.get(project, ("active", ""))


def _status(text: str) -> tuple[str, str]:
    try:
        stored = json.loads(text)
        return str(stored["status"]), str(stored.get("reason") or "")
    except (ValueError, TypeError, KeyError, AttributeError):
        return "archived", "its status cannot be read"


def _last_downloads(counts: Iterable[Downloads]) -> tuple[dict[str, datetime], datetime | None]:
    """The hour of each file's last download, and the first hour of all."""
    last: dict[str, datetime] = {}
    first: datetime | None = None
    for row in counts:
        first = min(first or row.hour, row.hour)
        if row.file:
            last[row.file] = max(last.get(row.file, row.hour), row.hour)
    return last, first
