"""Invited users set their own passwords with a link that works once; no one else ever knows them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import requests

from ops import invite, onboard
from ops.admin_api import AdminApi
from ops.errors import ParameterError, RunbookError
from ops.invite import Guest, TeamInvitation, read_guests
from ops.targets import Target

pytest_plugins = ["tests.operations"]

TEAM = "username,role,projects\nalice,,\nbob,reader,\ncarol,publisher,spam eggs\n"
PASSWORD = "words that she alone knows"


@pytest.fixture
def team(tmp_path: Path) -> Path:
    path = tmp_path / "team.csv"
    path.write_text(TEAM)
    return path


def links(invitations: TeamInvitation) -> dict[str, str]:
    with invitations.links.open() as file:
        return {row["username"]: row["link"] for row in csv.DictReader(file)}


def described(target: Target, team: Path, *, again: bool = False) -> TeamInvitation:
    found = onboard.requested(target, username="alice", users_csv=str(team), invite_user=again)
    assert isinstance(found, TeamInvitation)
    return found


def test_a_team_is_invited_and_each_sets_a_password_once(served: Target, team: Path) -> None:
    invitations = described(served, team)
    assert len(onboard.plan(invitations).pending) == 3
    outcome = onboard.apply(invitations)
    onboard.verify(invitations)
    assert invitations.links.stat().st_mode & 0o777 == 0o600
    found = links(invitations)
    assert list(found) == ["alice", "bob", "carol"]
    shown = repr(outcome) + repr(onboard.instructions(invitations, outcome))
    assert not any(link.partition("#")[2] in shown for link in found.values())

    page, _, code = found["carol"].partition("#")
    for status in (200, 403):
        response = requests.post(page, json={"code": code, "new_password": PASSWORD}, timeout=60)
        assert response.status_code == status
    deployment, admin = AdminApi.of(served)
    whoami = requests.get(f"{deployment.url}whoami", auth=("carol", PASSWORD), timeout=60).json()
    assert (whoami["role"], whoami["projects"]) == ("publisher", ["eggs", "spam"])

    assert onboard.plan(invitations).pending == ()
    assert not onboard.apply(invitations).changed
    again = described(served, team, again=True)
    assert len(onboard.plan(again).pending) == 3
    onboard.apply(again)
    assert links(again)["bob"] != found["bob"]
    with admin:
        assert {user.username: user.role for user in admin.users()}["bob"] == "reader"


def test_projects_in_any_spelling_change_nothing_the_second_time(served: Target, team: Path) -> None:
    team.write_text("username,role,projects\ncarol,publisher,Spam_1 eggs\n")
    invitations = described(served, team)
    assert onboard.apply(invitations).done[0] == ("user carol", "created: publisher of eggs, spam-1")
    assert "publisher of eggs, spam-1" in repr(onboard.verify(invitations))
    assert onboard.plan(invitations).pending == ()
    assert not onboard.apply(invitations).changed


def test_projects_of_an_existing_reader_are_refused_before_anyone_is_invited(served: Target, team: Path) -> None:
    team.write_text("username,role\nbob,reader\n")
    onboard.apply(described(served, team))
    team.write_text("username,projects\nalice,\nbob,spam\n")
    invitations = described(served, team)
    assert "only a publisher" in onboard.plan(invitations).changes[1].refused
    with pytest.raises(RunbookError, match="'bob' cannot be set, and nothing was changed"):
        onboard.apply(invitations)
    assert list(links(invitations)) == ["bob"]


@pytest.mark.parametrize("values", [{"users_csv": "team.csv", "role": "admin"}, {"invite_user": True, "token_days": 3}])
def test_parameters_that_an_invitation_would_ignore_are_refused(target: Target, values: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match="cannot be combined"):
        onboard.requested(target, username="alice", **values)


def test_a_dry_run_invites_no_one(provisioned: Target, team: Path) -> None:
    invitations = described(provisioned, team)
    assert not onboard.apply(invitations, dry_run=True).changed
    onboard.verify(invitations, dry_run=True)
    assert not invitations.links.exists()
    assert "no links" in repr(invite.instructions(invitations, dry_run=True))


def test_columns_are_optional_and_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "team.csv"
    path.write_bytes('\ufeffrole, username\nreader, "Zoë"\n'.encode())
    assert read_guests(path) == (Guest("Zoë", "reader"),)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "does not name the right columns"),
        (b"username\n", "names no users"),
        (b"name,role\nalice,\n", "does not name the right columns"),
        (b"username,role\nalice,king\n", "line 2"),
        (b"username,role\nalice\n", "line 2"),
        (b"username\nalice,reader\n", "line 2"),
        (b"username\na:b\n", "line 2"),
        (b"username,role\nalice,reader\nalice,admin\n", "line 3"),
        (b"username,projects\nalice,spam sp/am\n", "line 2"),
        (b"username,role,projects\nalice,reader,spam\n", "line 2"),
        (b"username\n\xff\n", "cannot be read"),
        (b"username\n" + b"x" * 1_100_000, "too large"),
    ],
)
def test_an_invalid_file_invites_no_one_and_the_error_names_the_line(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "team.csv"
    path.write_bytes(content)
    with pytest.raises(ParameterError, match=why):
        read_guests(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"team\.csv cannot be read"):
        read_guests(tmp_path / "team.csv")
