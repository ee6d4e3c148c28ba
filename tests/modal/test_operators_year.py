"""The notebooks of an operator's year on Modal: the same as on this machine, with one parameter changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from ops import (
    credential_ages,
    manage_releases,
    offboard,
    onboard,
    provision,
    rotation,
    start_here,
    support_bundle,
    tear_down,
    troubleshoot,
    upgrade,
)
from ops.clients import ClientFiles, Twine
from ops.errors import RunbookError, VerificationError
from ops.targets import Target
from ops.targets.modal import ModalTarget
from ops.user_tokens import TokenRequest, create
from ops.workspace import Workspace
from tests.index.archives import wheel, wheel_name
from tests.standin.control_plane import ControlPlane

pytestmark = pytest.mark.slow


@pytest.fixture
def target(client: Mapping[str, str], workspace: Workspace, plane: ControlPlane) -> ModalTarget:
    """A target on which an index is provisioned, with a user who has published a release."""
    del client
    plane.apps.plan = "team"
    found = ModalTarget(workspace=workspace)
    provision.apply(found)
    return found


def test_from_the_first_look_to_the_last_snapshot(
    target: ModalTarget, plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Ready" in repr(start_here.verify(target))
    assert "02_onboard_user" in repr(start_here.next_steps(target))
    alice = onboard.describe(target, username="alice")
    onboard.apply(alice)
    files = ClientFiles(alice.folder)
    login = files.login()
    assert login is not None
    path = tmp_path / wheel_name("spam", "1.0")
    path.write_bytes(wheel("spam", "1.0"))
    assert Twine(files, login).upload([path])[0] == 200

    change = manage_releases.describe(target, action="yank", project="spam", version="1.0", reason="bad")
    manage_releases.verify(change, manage_releases.apply(change))
    assert "yanked: bad" in repr(manage_releases.listing(change))
    assert not manage_releases.apply(change).changed

    monkeypatch.setattr(rotation, "OVERLAP_SECONDS", 1.0)
    create(target, TokenRequest(owner="alice", label="ci"))
    for kind, username in (("token", "alice"), ("password", "alice"), ("admin", "")):
        described = rotation.describe(target, rotate=kind, username=username, max_age_days=0)
        rotation.verify(described, rotation.apply(described))
    ages = repr(credential_ages.ages(target, days=90))
    for credential in ("token of Modal", "admin token", "password of alice", "token ci of alice"):
        assert credential in ages

    described_upgrade = upgrade.describe(target)
    assert not upgrade.apply(described_upgrade).changed
    upgrade.verify(described_upgrade)

    offboarding = offboard.describe(target, username="alice", confirm="alice")
    assert "1 in spam" in repr(offboard.plan(offboarding))
    offboard.verify(offboarding, offboard.apply(offboarding))

    assert "Looked at once more" in repr(troubleshoot.verify(target))
    support_bundle.apply(target, bundle=True)
    support_bundle.verify(target, bundle=True)

    place = str(tmp_path / "last")
    assert any(what.startswith("snapshot") for what, _ in tear_down.apply(target, confirm="modal", snapshot=place).done)
    tear_down.verify(target, confirm="modal")
    assert plane.dicts.by_id == {}


def test_a_version_that_fails_its_test_is_taken_back(
    target: ModalTarget, plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = target.history()[0].version
    seen: list[str] = []

    def fail(tested: Target) -> None:
        seen.append(tested.history()[0].version)
        raise RunbookError("an upload was refused")

    head = upgrade.describe(target, revision="HEAD").commit
    monkeypatch.setattr(ModalTarget, "outdated", lambda *_, **__: "runs another commit")
    with pytest.raises(VerificationError, match=f"was taken back: version {before} runs again") as raised:
        upgrade.apply(upgrade.Upgrade(target=target, commit=head, test=fail))
    assert raised.value.why == "an upload was refused"
    assert seen == [str(int(before) + 1)]
    assert head.startswith(target.history()[1].commit)
    assert target.state().answers
    assert plane.exceptions == []
