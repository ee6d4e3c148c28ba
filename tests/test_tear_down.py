"""Tearing down: shown first, done only when named, and looked at afterwards."""

from __future__ import annotations

import pytest

from ops import onboard, tear_down
from ops.errors import ConfirmationError, VerificationError
from ops.workspace import Workspace
from tests.fakes import FakeTarget

pytest_plugins = ["tests.operations"]


@pytest.fixture
def used(provisioned: FakeTarget) -> FakeTarget:
    """A target with a package and a user."""
    provisioned.volumes["pypiserver-data"]["pkg-1.tar.gz"] = b"12345"
    onboard.apply(onboard.describe(provisioned, username="alice"))
    return provisioned


def state(target: FakeTarget) -> tuple[object, ...]:
    return dict(target.volumes), dict(target.secrets), target.running


def test_the_plan_counts_files_and_bytes_and_names_users(used: FakeTarget) -> None:
    rows = {row[0]: row[1:] for row in tear_down.plan(used).table().rows}
    assert rows["volume pypiserver-data"] == ("1 files, 5 bytes", "delete it with all its files")
    assert rows["client files of alice"][1] == "delete them"
    assert rows["server"][1] == "stop it"


@pytest.mark.parametrize("confirm", ["Local", "yes", "true", "modal", " local"])
def test_another_word_than_the_targets_name_deletes_nothing(used: FakeTarget, confirm: str) -> None:
    before = state(used)
    with pytest.raises(ConfirmationError, match="nothing was deleted"):
        tear_down.apply(used, confirm=confirm)
    assert state(used) == before


def test_without_a_word_it_shows_and_deletes_nothing(used: FakeTarget, workspace: Workspace) -> None:
    before = state(used)
    outcome = tear_down.apply(used, confirm="")
    assert not outcome.changed
    assert "confirm" in outcome.note
    assert "left as it was" in repr(tear_down.verify(used, confirm=""))
    assert state(used) == before
    assert workspace.user("local", "alice").is_dir()


def test_the_targets_name_deletes_everything_and_the_second_time_nothing(
    used: FakeTarget, workspace: Workspace
) -> None:
    outcome = tear_down.apply(used, confirm="local")
    assert [what for what, _ in outcome.done] == [
        "server",
        "volume pypiserver-data",
        "volume pypiserver-credentials",
        "secret pypi-auth-token",
        "client files of alice",
    ]
    assert state(used) == ({}, {}, False)
    assert not workspace.user("local", "alice").exists()
    assert not tear_down.apply(used, confirm="local").changed
    assert tear_down.plan(used).pending == ()
    assert {seen for _, _, seen in tear_down.verify(used, confirm="local").rows} == {"gone"}


def test_what_is_left_fails_the_verification(used: FakeTarget) -> None:
    with pytest.raises(VerificationError, match="volume pypiserver-data: still there instead of gone"):
        tear_down.verify(used, confirm="local")


def test_an_index_that_does_not_answer_is_shown_and_stopped_too(used: FakeTarget) -> None:
    used.failure = "OSError: no room"
    rows = {row[0]: row[1:] for row in tear_down.plan(used).table().rows}
    assert rows["server"][0].endswith("does not answer: OSError: no room")
    assert rows["server"][1] == "stop it"
    assert ("server", "stopped") in tear_down.apply(used, confirm="local").done
