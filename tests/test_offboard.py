"""Offboarding: only the named user, only to fewer rights, and verified from outside."""

from __future__ import annotations

import re

import pytest
import requests

from ops import offboard, onboard
from ops.admin_api import AdminApi
from ops.clients import ClientFiles, Twine
from ops.errors import ConfirmationError, ParameterError, RunbookError, VerificationError
from ops.smoke import SmokeTest
from ops.targets import Target
from tests.fakes import FakeTarget

pytest_plugins = ["tests.operations"]


def offboarded(target: Target, name: str, *, role: str = "") -> offboard.Offboarding:
    """Offboard a user, and verify it."""
    described = offboard.describe(target, username=name, confirm=name, role=role)
    offboard.verify(described, offboard.apply(described))
    return described


def verified(described: offboard.Offboarding) -> str:
    """What a run that has nothing to change sees from outside."""
    outcome = offboard.apply(described)
    assert not outcome.changed
    return repr(offboard.verify(described, outcome))


@pytest.fixture
def alice(provisioned: FakeTarget, monkeypatch: pytest.MonkeyPatch) -> FakeTarget:
    """A target with one publisher and one token. The fake index accepts hashes that cost nothing."""
    monkeypatch.setattr(onboard, "ROUNDS", 4)
    onboard.apply(onboard.describe(provisioned, username="alice"))
    _, admin = AdminApi.of(provisioned)
    with admin:
        admin.create_token("alice", label="ci")
        admin.create_token("bob")
    return provisioned


def test_unconfirmed_it_shows_what_the_user_has_and_changes_nothing(alice: FakeTarget) -> None:
    described = offboard.describe(alice, username="alice")
    plan = offboard.plan(described)
    assert [change.thing for change in plan.changes] == [
        "user alice",
        "token id-1 ci",
        "client files of alice",
        "published files",
    ]
    assert plan.pending == ()
    outcome = offboard.apply(described)
    assert not outcome.changed
    assert "left as it was" in repr(offboard.verify(described, outcome))
    assert "alice" in alice.index.users
    assert alice.client_folder("alice").is_dir()


def test_the_user_s_tokens_and_client_files_are_removed_and_others_stay(alice: FakeTarget) -> None:
    onboard.apply(onboard.describe(alice, username="bob"))
    described = offboard.describe(alice, username="alice", confirm="alice")
    assert len(offboard.plan(described).pending) == 3
    assert len(offboard.apply(described).done) == 3
    assert set(alice.index.users) == {"bob"}
    assert {token["owner"] for token in alice.index.tokens.values()} == {"bob"}
    assert [folder.name for folder in alice.client_folders()] == ["bob"]
    again = offboard.describe(alice, username="alice", confirm="alice")
    assert offboard.plan(again).pending == ()
    assert not offboard.apply(again).changed


def test_a_user_who_can_still_log_in_fails_the_verification(alice: FakeTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ops.polling.SECONDS", 0.0)
    alice.index.faults |= {"open"}
    described = offboard.describe(alice, username="alice", confirm="alice")
    with pytest.raises(VerificationError, match="responded with 200") as raised:
        offboard.verify(described, offboard.apply(described))
    assert "no line about this user" in raised.value.why


@pytest.mark.parametrize("confirm", ["Alice", "bob", "yes", "<b>alice</b>"])
def test_confirming_another_name_changes_nothing(alice: FakeTarget, confirm: str) -> None:
    with pytest.raises(ConfirmationError, match="nothing was changed"):
        offboard.describe(alice, username="alice", confirm=confirm)


@pytest.mark.parametrize("username", ["", "..", ".", "a/b", "a\nb", "a:b", "a\\b", "\u202ealice", " alice"])
def test_a_hostile_name_is_refused_or_unknown(alice: FakeTarget, username: str) -> None:
    try:
        described = offboard.describe(alice, username=username, confirm=username)
        changed = offboard.apply(described).changed
    except RunbookError:
        changed = False
    assert not changed
    assert alice.client_folder("alice").is_dir()


def test_html_in_a_name_is_escaped(alice: FakeTarget) -> None:
    plan = offboard.plan(offboard.describe(alice, username="<img src=x>"))
    assert "<img" not in plan._repr_html_()


def test_a_role_is_lowered_and_never_raised(alice: FakeTarget) -> None:
    with pytest.raises(ParameterError, match="cannot make anyone an admin"):
        offboard.describe(alice, username="alice", role="admin")
    with pytest.raises(ParameterError, match="no role"):
        offboard.describe(alice, username="alice", role="owner")
    described = offboard.describe(alice, username="alice", role="reader", confirm="alice")
    assert offboard.apply(described).done == (("user alice", "publisher before, reader now"),)
    assert not offboard.apply(described).changed
    assert alice.client_folder("alice").is_dir()
    higher = offboard.describe(alice, username="alice", role="publisher", confirm="alice")
    for refuse in (offboard.plan, offboard.apply):
        with pytest.raises(RunbookError, match="cannot be lowered to publisher"):
            refuse(higher)


def test_a_user_whom_the_index_does_not_have_is_not_lowered_and_the_plan_doubts_the_name(alice: FakeTarget) -> None:
    with pytest.raises(RunbookError, match="'alcie' cannot be lowered to reader") as raised:
        offboard.plan(offboard.describe(alice, username="alcie", role="reader"))
    assert "no such user" in raised.value.why
    plan = offboard.plan(offboard.describe(alice, username="alcie"))
    assert plan.changes[0].now.endswith("check the name")
    outcome = offboard.apply(offboard.describe(alice, username="alcie", confirm="alcie"))
    assert outcome.note == "The user was never known to the index, as its audit log says: check the name."


def test_a_lowered_user_who_has_changed_the_password_since_is_verified(served: Target) -> None:
    onboard.apply(onboard.describe(served, username="erin", role="admin"))
    offboarded(served, "erin", role="publisher")
    described = offboard.describe(served, username="erin", role="publisher", confirm="erin")
    assert re.search(r"the user's own role +publisher +publisher", verified(described))
    _, admin = AdminApi.of(served)
    with admin:
        code, _ = admin.invite("erin")
    deployment = served.state().require("local")
    answer = {"code": code.reveal(), "new_password": "words that erin alone knows"}
    assert requests.post(f"{deployment.admin_url}invitation", json=answer, timeout=60).status_code == 200
    assert "the password in the client files is outdated" in verified(described)


def test_names_reserved_for_a_removed_user_are_in_the_plan(served: Target) -> None:
    for name in ("erin", "frank"):
        onboard.apply(onboard.describe(served, username=name))
    _, admin = AdminApi.of(served)
    with admin:
        admin.reserve("acme", ["erin", "frank"])
    for name, left in (("erin", "frank"), ("frank", "nobody")):
        described = offboard.describe(served, username=name, confirm=name)
        change = next(change for change in offboard.plan(described).pending if change.thing == "names acme and acme-…")
        assert change.then.startswith(f"leave to {left}")
        offboard.apply(described)
        with admin:
            assert admin.reservations()["acme"] == (("frank",) if left == "frank" else ())


def test_on_a_real_index_the_login_ends_and_published_files_stay(served: Target) -> None:
    onboarding = onboard.describe(served, username="zoë")
    onboard.apply(onboarding)
    files = ClientFiles(onboarding.folder)
    login = files.login()
    assert login is not None
    test = SmokeTest(served)
    test.start()
    test.build()
    assert Twine(files, login).upload([test._release.wheel])[0] == 200
    offboarded(served, "zoë", role="reader")
    assert "1 in pypi-runbook" in repr(offboard.plan(offboard.describe(served, username="zoë")))
    described = offboarded(served, "zoë")
    assert not files.folder.exists()
    table = repr(offboard.verify(described, offboard.apply(described)))
    assert re.search(r"the former login +refused \(401\) +refused \(401\)", table)
    assert re.search("the audit log +removed +removed", table)
    test.temporary_user.end()
