"""A listing of files is sorted by project, and finds a file by any spelling of its name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from ops.index.packages import listing as module
from ops.index.packages.filenames import Name, parse
from ops.index.packages.listing import Listing
from tests.index.archives import wheel_name

SPAM_1, SPAM_2 = wheel_name("spam", "1.0"), wheel_name("spam", "2.0")


def added(listing: Listing, project: str, version: str, *, bulk: bool = False) -> str:
    path = wheel_name(project, version)
    assert listing.add([path], [project], bulk=bulk) == 1
    return path


def parsed(filename: str) -> Name:
    name = parse(filename)
    assert name is not None
    return name


def test_projects_stay_sorted_as_they_are_added_and_removed() -> None:
    listing = Listing()
    for project in ("zoo", "alpha", "foo-bar", "foo", "beta"):
        assert list(listing.projects()) == sorted(listing.projects())
        added(listing, project, "9.0")
    assert listing.projects() == ["alpha", "beta", "foo", "foo-bar", "zoo"]
    for project in ("alpha", "foo-bar", "zoo"):
        assert listing.remove(wheel_name(project, "9.0"))
    assert listing.projects() == ["beta", "foo"]
    for project in ("many", "more", "a"):
        added(listing, project, "1.0", bulk=True)
    assert listing.projects() == ["a", "beta", "foo", "many", "more"]


@pytest.mark.parametrize("bulk", [False, True])
@pytest.mark.parametrize("project", ["foo", "new"])
def test_whoever_reads_a_project_while_its_files_are_being_listed_reads_it_again(project: str, bulk: bool) -> None:
    listing = Listing()
    added(listing, "foo", "1.0")
    read: list[tuple[int, int]] = []

    class Paths(list[str]):
        def __getitem__(self, some: Any) -> Any:
            read.append((listing.version_of(project), len(listing.paths(project))))
            return super().__getitem__(some)

    paths = Paths(wheel_name(name, f"7.{number}") for number in range(3) for name in ("other", project))
    assert listing.add(paths, ["other", project] * 3, bulk=bulk) == 6
    assert len({count for _, count in read}) == 3
    assert all(version != listing.version_of(project) for version, _ in read)


@pytest.mark.parametrize("bulk", [False, True])
def test_only_projects_with_new_files_change(bulk: bool) -> None:
    listing = Listing()
    known, new, hidden = added(listing, "foo", "1.0"), wheel_name("new", "1.0"), wheel_name("hidden", "1.0")
    versions = listing.version, listing.version_of("foo")
    assert listing.add([known, hidden, "README"], ["foo", "hidden", None], {hidden}, bulk=bulk) == 0
    assert (listing.version, listing.version_of("foo")) == versions
    assert listing.add([known, new, new, hidden], ["foo", "new", "new", "hidden"], {hidden}, bulk=bulk) == 1
    assert listing.version_of("foo") == versions[1]
    assert listing.projects() == ["foo", "new"]
    assert listing.paths("new") == (new,)
    assert len(listing) == 2


def test_names_are_found_in_any_spelling_after_every_change() -> None:
    listing = Listing()
    other = added(listing, "foo", "1.1")
    name = parsed("Foo-2.0.0-py3-none-any.whl")
    assert listing.find(name) is None
    path = added(listing, "foo", "2.0")
    assert listing.find(name) == path
    listing.remove(path)
    assert listing.find(name) is None
    assert listing.find(parsed(other)) == other


def test_a_file_is_counted_once() -> None:
    listing = Listing()
    path = added(listing, "foo", "1.0")
    version = listing.version
    assert listing.add([path], ["foo"]) == 0
    assert (len(listing), listing.version, listing.paths("foo")) == (1, version, (path,))
    assert listing.remove(path)
    assert not listing.remove(path)
    assert (len(listing), listing.paths("foo"), path in listing) == (0, (), False)


@pytest.mark.parametrize(
    ("listed", "change"),
    [
        ([], lambda listing: listing.add([SPAM_2], ["spam"])),
        ([SPAM_1], lambda listing: listing.add([SPAM_2], ["spam"])),
        ([SPAM_1, SPAM_2], lambda listing: listing.remove(SPAM_2)),
        ([SPAM_2], lambda listing: listing.remove(SPAM_2)),
        ([SPAM_1], lambda listing: listing.touch(["spam"])),
    ],
)
def test_whoever_sees_a_new_version_sees_all_of_the_change(
    listed: list[str], change: Callable[[Listing], object]
) -> None:
    """Else a cached page is taken for current in the middle of a change, and stays so."""
    listing = Listing()
    listing.add(listed, ["spam"] * len(listed))
    listing.projects()
    seen: list[tuple[int, object]] = []

    def note() -> None:
        rest = listing.version_of("spam"), listing.projects_version, listing.paths("spam"), tuple(listing.projects())
        seen.append((listing.version, rest))

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        del event, argument
        if frame.f_code.co_filename != module.__file__ or frame.f_code.co_name in {"version_of", "paths", "projects"}:
            return None
        note()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        change(listing)
    finally:
        sys.settrace(before)
    note()
    final = seen[-1]
    assert len(seen) > 3
    assert {rest for version, rest in seen if version == final[0]} == {final[1]}
