"""A yank, a status or a removal whose commit fails is undone, or the audit log says that it is unconfirmed."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from ops.index.errors import Busy, Forbidden, StorageError
from ops.index.packages import releases
from ops.index.packages.annotations import AnnotationFolder
from ops.index.storage import directory, transaction
from tests.index.archives import wheel, wheel_name
from tests.index.conftest import House, Person, Town, volume_of
from tests.index.serving import eventually
from tests.index.test_servers import NAME, publish, seen

ALICE, ADAM = Person(), Person("adam", may_administer=True)
SECOND = wheel_name("foo", "2.0")

CHANGES: dict[str, Callable[[House], object]] = {
    "yank": lambda house: house.releases.yank("foo", version="1.0", reason="bad", identity=ALICE),
    "unyank": lambda house: house.releases.unyank("foo", version="2.0", identity=ALICE),
    "status": lambda house: house.releases.set_status("foo", "archived", reason="old", identity=ALICE),
    "revoke": lambda house: house.releases.revoke("foo", version="1.0", reason="stolen", identity=ADAM),
}


def fill(house: House) -> None:
    """Two releases, of which the second is yanked, in a project that is deprecated."""
    publish(house)
    publish(house, SECOND, wheel("foo", "2.0"))
    house.releases.yank("foo", version="2.0", reason="broken", identity=ALICE)
    house.releases.set_status("foo", "deprecated", reason="use bar", identity=ALICE)
    house.audit.events.clear()


def told(house: House) -> dict[str, Any]:
    """Its entry in a page."""
    project = house.repository.project("foo")
    assert project is not None
    return {file.filename: file.yanked for file in project.files} | {"status": (project.status, project.status_reason)}


BEFORE = {NAME: None, SECOND: "broken", "status": ("deprecated", "use bar")}


def anew(town: Town) -> dict[str, Any]:
    """The view of a server that has just started."""
    return told(town.open())


@pytest.mark.parametrize("fault", ["not committed", "committed all the same"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_was_not_committed_is_undone_everywhere_and_logged(town: Town, change: str, fault: Any) -> None:
    one, two = town.open(), town.open()
    fill(one)
    seen(two)
    volume_of(one).faults.append(fault)
    with pytest.raises(StorageError):
        CHANGES[change](one)
    assert told(one) == BEFORE
    publish(one, wheel_name("bar", "1.0"), wheel("bar", "1.0"))  # its commit takes along what is there
    seen(two)
    assert told(two) == anew(town) == BEFORE
    assert [event["event"] for event in one.audit.events] == [change, f"{change}.undone", "upload"]
    assert "commit" in one.audit.events[1]["why"]
    assert not town.name_locks.held()
    CHANGES[change](two)
    seen(one)
    assert told(one) == told(two) == anew(town) != BEFORE


def test_a_page_rendered_before_an_undo_is_rendered_again(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    one = town.open()
    fill(one)
    between: list[dict[str, Any]] = []

    def fail() -> None:
        between.append(told(one))
        raise StorageError("the commit was lost")

    for change in CHANGES.values():
        with monkeypatch.context() as patch:
            patch.setattr(one.storage, "commit", fail)
            patch.setattr(transaction, "RETRY_SECONDS", (0.01,))
            with pytest.raises(StorageError):
                change(one)
        assert between[0] != BEFORE
        assert told(one) == BEFORE
        between.clear()
        eventually(lambda: not town.name_locks.held())


def test_a_project_stays_locked_until_an_undo_is_committed(town: Town) -> None:
    """Its commit would come after the other's, and overwrite it."""
    town.options = replace(town.options, claim_seconds=0.1)
    one, two = town.open(), town.open()
    fill(one)
    seen(two)
    volume_of(one).faults += ["committed all the same", "not committed", "not committed", "not committed"]
    with pytest.raises(StorageError):
        CHANGES["yank"](one)
    assert told(one) == BEFORE
    with pytest.raises(Busy):
        CHANGES["status"](two)
    eventually(lambda: not town.name_locks.held(), seconds=10)
    assert anew(town) == BEFORE
    CHANGES["status"](two)
    publish(one, wheel_name("bar", "1.0"), wheel("bar", "1.0"))
    assert anew(town)["status"] == ("archived", "old")


def test_a_lock_is_not_held_for_ever(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction, "RETRY_SECONDS", (0.01, 0.01))
    one = town.open()
    fill(one)
    volume_of(one).faults += ["not committed", "not committed", "not committed", "not committed"]
    with pytest.raises(StorageError):
        CHANGES["yank"](one)
    eventually(lambda: not town.name_locks.held())
    assert told(one) == BEFORE
    assert not volume_of(one).faults


def test_a_disk_that_takes_only_a_part_of_a_yank_leaves_nothing_yanked(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [wheel_name("foo", "1.0"), "foo-1.0-py2-none-any.whl"]
    for name in names:
        publish(house, name, wheel("foo", "1.0"))
    put = AnnotationFolder.put
    calls: list[str] = []

    def fail_second(self: AnnotationFolder, name: str, text: str) -> None:
        calls.append(name)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        put(self, name, text)

    monkeypatch.setattr(AnnotationFolder, "put", fail_second)
    with pytest.raises(StorageError):
        house.releases.yank("foo", version="1.0", identity=ALICE)
    assert len(calls) == 2
    project = house.repository.project("foo")
    assert project is not None
    assert [file.yanked for file in project.files] == [None, None]
    assert [event["event"] for event in house.audit.events[2:]] == ["yank", "yank.undone"]


def test_a_change_that_cannot_be_undone_is_logged_as_unconfirmed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(house)

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(AnnotationFolder, "put", fail)
    monkeypatch.setattr(AnnotationFolder, "lift", fail)
    with pytest.raises(StorageError):
        house.releases.set_status("foo", "archived", identity=ALICE)
    assert [event["event"] for event in house.audit.events[1:]] == ["status", "status.unconfirmed"]


def test_a_quarantine_set_meanwhile_is_not_lifted_by_a_publisher(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(house)
    other = House(house.storage, house.name_locks, house.options)
    begin = house.transactions.begin

    def late(*arguments: Any, **named: Any) -> Any:
        monkeypatch.undo()
        other.releases.set_status("foo", "quarantined", identity=ADAM)
        time.sleep(0.05)
        return begin(*arguments, **named)

    monkeypatch.setattr(house.transactions, "begin", late)
    with pytest.raises(Forbidden):
        house.releases.set_status("foo", "active", identity=ALICE)
    assert house.repository.status("foo")[0] == "quarantined"


@pytest.mark.parametrize("change", ["remove", *CHANGES])
def test_a_change_has_its_line_before_it_is_made(town: Town, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """A server that is killed in between has said what it was about."""
    house = town.open()
    fill(house)
    lines: list[list[str]] = []
    original = {name: getattr(AnnotationFolder, name) for name in ("put", "lift")}

    def noted(*arguments: Any, original: Callable[..., Any]) -> Any:
        lines.append([event["event"] for event in house.audit.events])
        return original(*arguments)

    for name, method in original.items():
        monkeypatch.setattr(
            AnnotationFolder, name, lambda *arguments, method=method: noted(*arguments, original=method)
        )
    monkeypatch.setattr(releases, "remove", partial(noted, original=directory.remove))
    if change == "remove":
        house.releases.remove("foo", filename=SECOND, identity=ADAM)
    else:
        CHANGES[change](house)
    assert lines
    assert all(line == [change] for line in lines)


@pytest.mark.parametrize("fault", ["not committed", "committed all the same"])
def test_a_removal_that_was_not_confirmed_goes_on_and_the_log_says_both(town: Town, fault: Any) -> None:
    """Its bytes are gone here: what was asked for is what remains."""
    one, two = town.open(), town.open()
    fill(one)
    volume_of(one).faults += [fault, "not committed"]
    with pytest.raises(StorageError):
        one.releases.remove("foo", filename=NAME, identity=ADAM)
    assert one.listed() == {SECOND}
    assert [(event["event"], event["filename"]) for event in one.audit.events] == [
        ("remove", NAME),
        ("remove.unconfirmed", NAME),
    ]
    assert town.name_locks.held()
    eventually(lambda: not town.name_locks.held(), seconds=10)
    assert town.remote.names() == {SECOND}
    assert seen(two) == {SECOND}


def test_of_a_removal_that_broke_off_the_log_says_which_files_are_still_there(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["foo-1.0-py2-none-any.whl", "foo-1.0-py3-none-any.whl"]
    for name in names:
        publish(house, name, wheel("foo", "1.0"))
    house.audit.events.clear()

    def remove(path: str) -> bool:
        if path.endswith(names[1]):
            raise PermissionError(errno.EACCES, "Permission denied")
        return directory.remove(path)

    monkeypatch.setattr(releases, "remove", remove)
    with pytest.raises(StorageError):
        house.releases.remove("foo", version="1.0", identity=ADAM)
    assert house.listed() == {names[1]}
    assert [(event["event"], event["filename"]) for event in house.audit.events] == [
        ("remove", names[0]),
        ("remove", names[1]),
        ("remove.undone", names[1]),
    ]
