"""Teardown: planned, done only when named, and verified afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from ops import back_up, onboard, tear_down
from ops.admin_api import AdminApi
from ops.errors import BucketError, ConfirmationError, ParameterError, VerificationError
from ops.invite import TeamInvitation
from ops.snapshots.backup import Backup
from ops.snapshots.bucket import Bucket
from ops.targets import Target
from ops.workspace import Workspace, shown
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
    assert rows["volume pypiserver-data"] == ("1 file, 5 bytes", "delete it with all its files")
    assert rows["client files of alice"][1] == "delete them"
    assert rows["server"][1].startswith("stop it")


@pytest.mark.parametrize("confirm", ["Local", "yes", "true", "modal", " local"])
def test_confirming_another_name_deletes_nothing(used: FakeTarget, confirm: str) -> None:
    before = state(used)
    with pytest.raises(ConfirmationError, match="nothing was deleted"):
        tear_down.apply(used, confirm=confirm)
    assert state(used) == before


def test_without_confirmation_it_only_shows_the_plan(used: FakeTarget, workspace: Workspace) -> None:
    before = state(used)
    outcome = tear_down.apply(used, confirm="")
    assert not outcome.changed
    assert "confirm" in outcome.note
    assert "left as it was" in repr(tear_down.verify(used, confirm=""))
    assert state(used) == before
    assert workspace.user("local", "alice").is_dir()


def test_the_target_s_name_deletes_everything_and_a_second_run_nothing(used: FakeTarget, workspace: Workspace) -> None:
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


def test_links_of_invitations_are_deleted_too(served: Target) -> None:
    invitations = onboard.requested(served, username="bob", users_csv="", invite_user=True)
    assert isinstance(invitations, TeamInvitation)
    onboard.apply(invitations)
    links = invitations.links
    assert links.exists()
    assert (shown(links), "of this index only", "delete it") in tear_down.plan(served).table().rows
    with pytest.raises(VerificationError, match="invitations: still there"):
        tear_down.verify(served, confirm="local")
    assert (shown(links), "deleted") in tear_down.apply(served, confirm="local").done
    assert not links.exists()


def test_leftovers_fail_the_verification(used: FakeTarget) -> None:
    with pytest.raises(VerificationError, match="volume pypiserver-data: still there instead of gone"):
        tear_down.verify(used, confirm="local")


def test_an_unresponsive_index_is_shown_and_stopped_too(used: FakeTarget) -> None:
    used.failure = "OSError: no room"
    rows = {row[0]: row[1:] for row in tear_down.plan(used).table().rows}
    assert rows["server"][0].endswith("does not respond: OSError: no room")
    assert rows["server"][1].startswith("stop it")
    assert ("server", "stopped") in tear_down.apply(used, confirm="local").done


def test_a_last_snapshot_is_taken_after_the_server_stopped_and_before_anything_is_deleted(
    served: Target, tmp_path: Path
) -> None:
    onboard.apply(onboard.describe(served, username="alice"))
    place = str(tmp_path / "last")
    assert "none is known" in repr(tear_down.plan(served))
    change = next(each for each in tear_down.plan(served, snapshot=place).changes if each.thing == "last snapshot")
    assert change.then.startswith("take one in ")
    assert not tear_down.apply(served, confirm="", snapshot=place).changed
    assert not list((tmp_path / "last").glob("snapshots/*"))
    done = tear_down.apply(served, confirm="local", snapshot=place).done
    assert [what.split()[0] for what, _ in done[:3]] == ["server", "snapshot", "volume"]
    assert done[1][1] == "taken, every byte read back"
    snapshot = back_up.describe(served, destination=place).backup(Bucket.open(place)).last()
    assert snapshot is not None
    assert list(snapshot.usernames) == ["alice"]
    assert {seen for _, _, seen in tear_down.verify(served, confirm="local").rows} == {"gone"}
    again = tear_down.apply(served, confirm="local", snapshot=place)
    assert not again.changed
    assert "nothing to take one of" in repr(tear_down.plan(served, confirm="local", snapshot=place))


def test_a_failed_snapshot_deletes_nothing(served: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Backup) -> None:
        raise BucketError("the bucket is full")

    monkeypatch.setattr(Backup, "take", full)
    with pytest.raises(BucketError):
        tear_down.apply(served, confirm="local", snapshot=str(tmp_path / "last"))
    assert served.volume_exists("pypiserver-data")
    assert served.secret_exists("pypi-auth-token")


def test_a_snapshot_that_would_be_deleted_with_the_index_is_refused(
    provisioned: FakeTarget, workspace: Workspace
) -> None:
    for place in (workspace.home / "local" / "x", workspace.home / "snapshots" / ".." / "local"):
        with pytest.raises(ParameterError, match="would be deleted with the index"):
            tear_down.preflight(provisioned, snapshot=str(place))
    with pytest.raises(ParameterError, match="no bucket"):
        tear_down.preflight(provisioned, snapshot="ftp://x/y")


def test_tokens_are_shown_by_user(used: FakeTarget) -> None:
    with AdminApi.of(used)[1] as admin:
        admin.create_token("alice")
        admin.create_token("alice")
    assert "2 of alice" in repr(tear_down.plan(used))
