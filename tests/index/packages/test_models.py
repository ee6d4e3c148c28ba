"""Releases of a project: their order, and the one that an installer would choose."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from ops.index.packages.models import File, Project, latest_of, releases_of
from tests.index.archives import wheel_name


def file(version: str, *, yanked: str | None = None) -> File:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    name = f"spam-{version}.tar.gz"
    return File(name, name, "spam", version, 1, "ab" * 32, moment, None, None, yanked)


def test_releases_are_sorted_by_version_and_the_latest_is_the_one_installers_choose() -> None:
    def latest(*files: File) -> str | None:
        found = latest_of(releases_of(Project("spam", files)))
        return None if found is None else found.version

    ordered = releases_of(Project("spam", tuple(file(v) for v in ("1.10", "1.9", "2.0rc1", "1!0.1", "weird"))))
    assert [release.version for release in ordered] == ["1!0.1", "2.0rc1", "1.10", "1.9", "weird"]
    assert latest(file("1.0"), file("2.0rc1")) == "1.0"
    assert latest(file("1.0"), file("2.0", yanked="")) == "1.0"
    assert latest(file("2.0rc1")) == "2.0rc1"
    assert latest(file("2.0", yanked="")) == "2.0"
    assert latest() is None


def test_files_with_different_spellings_of_a_version_are_one_release() -> None:
    files = [file(version) for version in ("1", "1.0", "1.0.0", "2.0", "odd", "older")]
    wheels = [replace(each, filename=wheel_name("spam", each.version)) for each in files[:2]]
    releases = releases_of(Project("spam", (*files, *wheels)))
    assert [release.version for release in releases] == ["2.0", "1", "older", "odd"]
    assert [len(release.files) for release in releases] == [1, 5, 1, 1]
