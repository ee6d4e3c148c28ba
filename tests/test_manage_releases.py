"""Management of releases: planned, made by the index, verified like an installer, and deleted only when named."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ops import manage_releases
from ops.admin_api import AdminApi
from ops.audit_log import events
from ops.errors import (
    ConfirmationError,
    IndexRequestError,
    NotDeployedError,
    ParameterError,
    RunbookError,
    VerificationError,
)
from ops.plan import Outcome
from ops.release_list import ReleaseList
from ops.secret import Secret
from ops.targets import Target, open_target
from ops.targets.index_rules import password_hash
from ops.workspace import Workspace
from tests.index.archives import wheel, wheel_name
from tests.local_index import local_index

DAY = 86400


@pytest.fixture
def volume(workspace: Workspace) -> Path:
    """The packages folder, with two projects: releases and pre-releases, a year old except the newest."""
    folder = workspace.home / "local" / "volumes" / "pypiserver-data"
    folder.mkdir(parents=True)
    for version in ("1.0", "1.1rc1", "1.1.dev1", "1.1.dev2", "1.1.dev3"):
        add(folder, "spam", version, days=1 if version == "1.1rc1" else 365)
    for version in ("0.1a1", "0.1a2"):
        add(folder, "eggs", version, days=365)
    return folder


def add(folder: Path, name: str, version: str, *, days: int) -> None:
    path = folder / wheel_name(name, version)
    path.write_bytes(wheel(name, version))
    moment = time.time() - days * DAY
    os.utime(path, (moment, moment))


def downloaded(folder: Path, path: str, *, days: int, first_days: int = 400) -> None:
    """Write download counts like a server does: for the file, and for an earlier one."""
    hours = (
        datetime.fromtimestamp(time.time() - each * DAY, UTC).strftime("%Y-%m-%dT%H") for each in (first_days, days)
    )
    lines = [{"hour": hour, "file": name} for hour, name in zip(hours, ("gone.whl", path), strict=True)]
    (folder / ".index" / "activity").mkdir(parents=True, exist_ok=True)
    (folder / ".index" / "activity" / "2026-01-01.x.jsonl").write_text(
        "".join(json.dumps({**line, "user": "a", "count": 1}) + "\n" for line in lines) + '{"hour": "20'
    )


@pytest.fixture
def target(volume: Path) -> Iterator[Target]:
    """A local target that serves the volume."""
    del volume
    with local_index() as found:
        yield found


def managed(target: Target, **values: object) -> Outcome:
    """Make a change, and verify it."""
    change = manage_releases.describe(target, **values)  # type: ignore[arg-type]
    manage_releases.plan(change)
    outcome = manage_releases.apply(change)
    manage_releases.verify(change, outcome)
    return outcome


def versions(target: Target, project: str) -> list[str]:
    return [release.version for release in ReleaseList.of(target).of_project(project)]


def test_without_an_index_the_list_is_refused_instead_of_empty(workspace: Workspace) -> None:
    with pytest.raises(NotDeployedError):
        ReleaseList.of(open_target("local"))


def test_by_default_it_lists_and_changes_nothing(volume: Path) -> None:
    change = manage_releases.describe(open_target("local"))
    rows = manage_releases.listing(change).rows
    assert [row[:2] for row in rows][:3] == [("eggs", "0.1a2"), ("eggs", "0.1a1"), ("spam", "1.1rc1")]
    assert {row[5:] for row in rows} == {("offered", "active")}
    assert manage_releases.plan(change).pending == ()
    assert not manage_releases.apply(change).changed


def test_the_releases_under_a_prefix_are_listed_before_it_is_reserved(volume: Path) -> None:
    for name in ("acme", "acme-tools", "acmeology"):
        add(volume, name, "1.0", days=1)
    listed = {}
    for action, owners, prefix in (("reserve", "alice", "acme"), ("unreserve", "", "other")):
        change = manage_releases.describe(open_target("local"), action=action, project=prefix, owners=owners)
        listed[prefix] = [row[0] for row in manage_releases.listing(change).rows]
    assert listed == {"acme": ["acme", "acme-tools"], "other": ["none"]}


def test_each_change_is_seen_by_installers_and_made_once(target: Target) -> None:
    steps: list[dict[str, object]] = [
        {"action": "yank", "project": "Spam", "version": "1.0.0", "reason": "<b>bad</b>"},
        {"action": "status", "project": "eggs", "status": "deprecated", "reason": "use spam"},
        {"action": "unyank", "project": "spam", "version": "1.0"},
        {"action": "delete", "project": "spam", "version": "1.0", "confirm": "spam 1"},
    ]
    for step in steps:
        if step["action"] == "delete":
            with pytest.raises(ConfirmationError, match="nothing was changed"):
                managed(target, **step)
            step["confirm"] = "spam 1.0"
        assert not managed(target, **step, dry_run=True).changed
        ((_, done),) = managed(target, **step).done
        assert done.startswith(("yanked: <b>", "set to deprecated", "offered it", "deleted; its"))
        assert not managed(target, **step).changed, step
        listing = manage_releases.listing(manage_releases.describe(target))
        assert "<b>" not in listing._repr_html_()
        if step["action"] == "yank":
            assert "yanked: <b>bad</b>" in repr(listing)
        if step["action"] == "status":
            assert "deprecated: use spam" in repr(listing)
    assert "1.0" not in versions(target, "spam")
    gone = manage_releases.plan(manage_releases.describe(target, action="delete", project="spam", version="1.0"))
    assert [change.now for change in gone.changes] == ["not on the index"]
    with AdminApi.of(target)[1] as admin:
        assert admin.users() == []
    lines = [event for event in events(target) if event["event"] in {"yank", "status", "unyank", "remove"}]
    assert [event["event"] for event in lines] == ["yank", "status", "unyank", "remove"]
    assert all(str(event["user"]).startswith("operator-") for event in lines)


def test_a_prefix_is_reserved_for_users_and_freed(target: Target) -> None:
    _, admin = AdminApi.of(target)
    with admin:
        admin.register("alice", password_hash=password_hash(Secret.generate(), 10))
    for action, owners, then, status in (
        ("reserve", "alice", "reserve for alice", 409),
        ("unreserve", "", "free for everyone", 400),
    ):
        change = manage_releases.describe(target, action=action, project="Acme", owners=owners)
        (pending,) = manage_releases.plan(change).pending
        assert (pending.thing, pending.then) == ("names acme and acme-…", then)
        outcome = manage_releases.apply(change)
        seen = repr(manage_releases.verify(change, outcome))
        assert (owners or "free") in seen
        assert re.search(rf"{status}: the name is (reserved|free).* {status}$", seen, re.MULTILINE)
        assert manage_releases.reserved(change).rows[0] == (("acme and acme-…", "alice") if owners else ("none", ""))
        assert not manage_releases.apply(change).changed
    change = manage_releases.describe(target, action="reserve", project="spam", owners="nobody")
    now, existing = manage_releases.plan(change).changes
    assert "there is no user 'nobody'" in now.refused
    assert existing.now == "exists, and stays open to its publishers"
    with pytest.raises(IndexRequestError, match="could not be reserved") as raised:
        manage_releases.apply(manage_releases.describe(target, action="reserve", project="acme", owners="nobody"))
    assert raised.value.why.count("there is no user 'nobody'") == 1


def test_a_prefix_whose_last_owner_was_removed_is_not_free_until_it_is_freed(target: Target) -> None:
    _, admin = AdminApi.of(target)
    with admin:
        admin.register("alice", password_hash=password_hash(Secret.generate(), 10))
        admin.reserve("acme", ["alice"])
        admin.delete("alice")
    change = manage_releases.describe(target, action="unreserve", project="acme")
    (pending,) = manage_releases.plan(change).pending
    assert (pending.now, pending.then) == ("reserved for nobody, since the owners are gone", "free for everyone")
    manage_releases.verify(change, manage_releases.apply(change))
    assert not manage_releases.apply(change).changed


def test_old_pre_releases_are_pruned_and_those_in_use_stay(target: Target, volume: Path) -> None:
    downloaded(volume, wheel_name("spam", "1.1.dev1"), days=3)
    change = manage_releases.describe(target, action="prune", keep=1)
    plan = {each.thing: each for each in manage_releases.plan(change).changes}
    assert {thing for thing, each in plan.items() if each.then} == {"release spam 1.1.dev3", "release spam 1.1.dev2",
                                                                    "release eggs 0.1a1"}  # fmt: skip
    assert plan["release spam 1.1rc1"].now.endswith("kept: among the newest 1")
    assert plan["release spam 1.1.dev1"].now.endswith("kept: downloaded in the last 90 days")
    assert manage_releases.plan(change).pending == ()
    assert not manage_releases.apply(change).changed
    with pytest.raises(ConfirmationError):
        manage_releases.describe(target, action="prune", confirm="spam")
    managed(target, action="prune", keep=1, project="spam", confirm="spam")
    assert versions(target, "spam") == ["1.1rc1", "1.1.dev1", "1.0"]
    managed(target, action="prune", keep=0, confirm="every project")
    assert versions(target, "spam") == ["1.1rc1", "1.1.dev1", "1.0"]
    assert versions(target, "eggs") == ["0.1a2"], "the newest of a project without a release stays"
    assert not managed(target, action="prune", keep=0, confirm="every project").changed


def test_nothing_is_pruned_until_downloads_have_been_counted_long_enough(volume: Path) -> None:
    target = open_target("local")

    def pruned(days: int = 90) -> int:
        values = {"action": "prune", "project": "spam", "confirm": "spam"}
        change = manage_releases.describe(target, **values, keep=1, older_than_days=days)  # type: ignore[arg-type]
        return len(manage_releases.plan(change).pending)

    assert pruned() == 0
    downloaded(volume, "x.whl", days=1, first_days=80)
    assert pruned() == 0
    assert pruned(79) == 3
    assert pruned(0) == 3


def test_an_invisible_change_fails_the_verification(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ops.polling.SECONDS", 0.0)
    change = manage_releases.describe(target, action="yank", project="spam", version="1.0")
    claimed = Outcome("claimed", (("release spam 1.0", "yank"),))
    with pytest.raises(VerificationError, match="offered instead of yanked"):
        manage_releases.verify(change, claimed)


@pytest.mark.parametrize(
    "values",
    [
        {"action": "burn"},
        {"action": "yank", "project": "spam"},
        {"action": "yank", "version": "1.0"},
        {"action": "status", "project": "spam"},
        {"action": "status", "project": "spam", "status": "dead"},
        {"action": "prune", "version": "1.0"},
        {"action": "yank", "project": "../spam", "version": "1"},
        {"action": "yank", "project": "<b>", "version": "1"},
        {"action": "yank", "project": "spam\n", "version": "1"},
        {"action": "yank", "project": "spam", "version": "1", "reason": "a\nb"},
        {"action": "prune", "keep": -1},
        {"action": "prune", "older_than_days": -1},
        {"action": "prune", "older_than_days": 10**18},
        {"action": "reserve", "project": "acme"},
        {"action": "unreserve", "project": "acme", "owners": "alice"},
        {"action": "unyank", "project": "spam", "version": "1", "reason": "mended"},
        {"action": "yank", "project": "spam", "version": "1", "confirm": "spam 1"},
        {"status": "archived"},
    ],
)
def test_an_invalid_parameter_is_refused(values: dict[str, object], newcomer: Path) -> None:
    del newcomer
    with pytest.raises(ParameterError) as raised:
        manage_releases.describe(open_target("local"), **values)  # type: ignore[arg-type]
    assert raised.value.why


def test_a_missing_project_or_release_is_reported_with_the_existing_ones(volume: Path) -> None:
    target = open_target("local")
    for values, message in (
        ({"action": "yank", "project": "ham", "version": "1"}, "there is no project 'ham'"),
        ({"action": "unyank", "project": "spam", "version": "9"}, "has no release '9'"),
        ({"action": "status", "project": "ham", "status": "archived"}, "there is no project"),
        ({"action": "prune", "project": "ham"}, "there is no project"),
    ):
        with pytest.raises(RunbookError, match=message) as raised:
            manage_releases.plan(manage_releases.describe(target, **values))  # type: ignore[arg-type]
        assert "spam" in raised.value.why or "1.1rc1" in raised.value.why
