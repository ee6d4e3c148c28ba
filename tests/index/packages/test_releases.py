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
from tests.index.conftest import Cluster, Node, Person, volume_of
from tests.index.serving import eventually
from tests.index.test_servers import NAME, publish, seen

ALICE, ADAM = Person(), Person("adam", may_administer=True)
SECOND = wheel_name("foo", "2.0")

CHANGES: dict[str, Callable[[Node], object]] = {
    "yank": lambda node: node.releases.yank("foo", version="1.0", reason="bad", identity=ALICE),
    "unyank": lambda node: node.releases.unyank("foo", version="2.0", identity=ALICE),
    "status": lambda node: node.releases.set_status("foo", "archived", reason="old", identity=ALICE),
    "revoke": lambda node: node.releases.revoke("foo", version="1.0", reason="stolen", identity=ADAM),
}


def fill(node: Node) -> None:
    """Two releases, of which the second is yanked, in a project that is deprecated."""
    publish(node)
    publish(node, SECOND, wheel("foo", "2.0"))
    node.releases.yank("foo", version="2.0", reason="broken", identity=ALICE)
    node.releases.set_status("foo", "deprecated", reason="use bar", identity=ALICE)
    node.audit.events.clear()


def told(node: Node) -> dict[str, Any]:
    """Its entry on a page."""
    project = node.repository.project("foo")
    assert project is not None
    return {file.filename: file.yanked for file in project.files} | {"status": (project.status, project.status_reason)}


BEFORE = {NAME: None, SECOND: "broken", "status": ("deprecated", "use bar")}


def anew(cluster: Cluster) -> dict[str, Any]:
    """The view of a server that has just started."""
    return told(cluster.open())


@pytest.mark.parametrize("fault", ["not committed", "committed all the same"])
@pytest.mark.parametrize("change", CHANGES)
def test_an_uncommitted_change_is_undone_everywhere_and_logged(cluster: Cluster, change: str, fault: Any) -> None:
    one, two = cluster.open(), cluster.open()
    fill(one)
    seen(two)
    volume_of(one).faults.append(fault)
    with pytest.raises(StorageError):
        CHANGES[change](one)
    assert told(one) == BEFORE
    publish(one, wheel_name("bar", "1.0"), wheel("bar", "1.0"))  # its commit includes everything there
    seen(two)
    assert told(two) == anew(cluster) == BEFORE
    assert [event["event"] for event in one.audit.events] == [change, f"{change}.undone", "upload"]
    assert "commit" in one.audit.events[1]["why"]
    assert not cluster.name_locks.held()
    CHANGES[change](two)
    seen(one)
    assert told(one) == told(two) == anew(cluster) != BEFORE


def test_a_page_rendered_before_an_undo_is_rendered_again(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    one = cluster.open()
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
        eventually(lambda: not cluster.name_locks.held())


def test_a_project_stays_locked_until_an_undo_is_committed(cluster: Cluster) -> None:
    """Otherwise its commit would come after the other's, and overwrite it."""
    cluster.options = replace(cluster.options, claim_seconds=0.1)
    one, two = cluster.open(), cluster.open()
    fill(one)
    seen(two)
    volume_of(one).faults += ["committed all the same", "not committed", "not committed", "not committed"]
    with pytest.raises(StorageError):
        CHANGES["yank"](one)
    assert told(one) == BEFORE
    with pytest.raises(Busy):
        CHANGES["status"](two)
    eventually(lambda: not cluster.name_locks.held())
    assert anew(cluster) == BEFORE
    CHANGES["status"](two)
    publish(one, wheel_name("bar", "1.0"), wheel("bar", "1.0"))
    assert anew(cluster)["status"] == ("archived", "old")


def test_a_lock_is_not_held_forever(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction, "RETRY_SECONDS", (0.01, 0.01))
    one = cluster.open()
    fill(one)
    volume_of(one).faults += ["not committed", "not committed", "not committed", "not committed"]
    with pytest.raises(StorageError):
        CHANGES["yank"](one)
    eventually(lambda: not cluster.name_locks.held())
    assert told(one) == BEFORE
    assert not volume_of(one).faults


def test_a_partly_written_yank_leaves_nothing_yanked(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [wheel_name("foo", "1.0"), "foo-1.0-py2-none-any.whl"]
    for name in names:
        publish(node, name, wheel("foo", "1.0"))
    put = AnnotationFolder.put
    calls: list[str] = []

    def fail_second(self: AnnotationFolder, name: str, text: str) -> None:
        calls.append(name)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        put(self, name, text)

    monkeypatch.setattr(AnnotationFolder, "put", fail_second)
    with pytest.raises(StorageError):
        node.releases.yank("foo", version="1.0", identity=ALICE)
    assert len(calls) == 2
    project = node.repository.project("foo")
    assert project is not None
    assert [file.yanked for file in project.files] == [None, None]
    assert [event["event"] for event in node.audit.events[2:]] == ["yank", "yank.undone"]


def test_a_change_that_cannot_be_undone_is_logged_as_unconfirmed(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(node)

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(AnnotationFolder, "put", fail)
    monkeypatch.setattr(AnnotationFolder, "lift", fail)
    with pytest.raises(StorageError):
        node.releases.set_status("foo", "archived", identity=ALICE)
    assert [event["event"] for event in node.audit.events[1:]] == ["status", "status.unconfirmed"]


def test_a_quarantine_set_meanwhile_is_not_lifted_by_a_publisher(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(node)
    other = Node(node.storage, node.name_locks, node.options)
    begin = node.transactions.begin

    def late(*arguments: Any, **named: Any) -> Any:
        monkeypatch.undo()
        other.releases.set_status("foo", "quarantined", identity=ADAM)
        time.sleep(0.05)
        return begin(*arguments, **named)

    monkeypatch.setattr(node.transactions, "begin", late)
    with pytest.raises(Forbidden):
        node.releases.set_status("foo", "active", identity=ALICE)
    assert node.repository.status("foo")[0] == "quarantined"


@pytest.mark.parametrize("change", ["remove", *CHANGES])
def test_the_audit_line_of_a_change_precedes_it(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """A server killed in between has logged what it was doing."""
    node = cluster.open()
    fill(node)
    lines: list[list[str]] = []
    original = {name: getattr(AnnotationFolder, name) for name in ("put", "lift")}

    def noted(*arguments: Any, original: Callable[..., Any]) -> Any:
        lines.append([event["event"] for event in node.audit.events])
        return original(*arguments)

    for name, method in original.items():
        monkeypatch.setattr(
            AnnotationFolder, name, lambda *arguments, method=method: noted(*arguments, original=method)
        )
    monkeypatch.setattr(releases, "remove", partial(noted, original=directory.remove))
    if change == "remove":
        node.releases.remove("foo", filename=SECOND, identity=ADAM)
    else:
        CHANGES[change](node)
    assert lines
    assert all(line == [change] for line in lines)


@pytest.mark.parametrize("fault", ["not committed", "committed all the same"])
def test_an_unconfirmed_removal_stands_and_the_log_says_both(cluster: Cluster, fault: Any) -> None:
    """Its bytes are gone here, so the removal stands."""
    one, two = cluster.open(), cluster.open()
    fill(one)
    volume_of(one).faults += [fault, "not committed"]
    with pytest.raises(StorageError):
        one.releases.remove("foo", filename=NAME, identity=ADAM)
    assert one.listed() == {SECOND}
    assert [(event["event"], event["filename"]) for event in one.audit.events] == [
        ("remove", NAME),
        ("remove.unconfirmed", NAME),
    ]
    assert cluster.name_locks.held()
    eventually(lambda: not cluster.name_locks.held())
    assert cluster.remote.names() == {SECOND}
    assert seen(two) == {SECOND}


def test_the_log_of_an_interrupted_removal_names_the_remaining_files(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["foo-1.0-py2-none-any.whl", "foo-1.0-py3-none-any.whl"]
    for name in names:
        publish(node, name, wheel("foo", "1.0"))
    node.audit.events.clear()

    def remove(path: str) -> bool:
        if path.endswith(names[1]):
            raise PermissionError(errno.EACCES, "Permission denied")
        return directory.remove(path)

    monkeypatch.setattr(releases, "remove", remove)
    with pytest.raises(StorageError):
        node.releases.remove("foo", version="1.0", identity=ADAM)
    assert node.listed() == {names[1]}
    assert [(event["event"], event["filename"]) for event in node.audit.events] == [
        ("remove", names[0]),
        ("remove", names[1]),
        ("remove.undone", names[1]),
    ]
