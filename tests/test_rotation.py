"""Rotation: only what is old enough, without a gap for tokens, and verified from outside."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ops import credential_ages, onboard, rotation
from ops.admin_api import AdminApi
from ops.errors import ParameterError, PreflightError, RunbookError, VerificationError
from ops.plan import Outcome
from ops.secret import Secret
from ops.targets import CredentialAge, Target
from ops.workspace import Workspace
from tests.fakes import FakeTarget

pytest_plugins = ["tests.operations"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for other servers: there are none."""
    monkeypatch.setattr(rotation, "OVERLAP_SECONDS", 0.2)


@pytest.fixture
def alice(provisioned: FakeTarget, monkeypatch: pytest.MonkeyPatch) -> FakeTarget:
    """A target with one publisher. The fake index accepts hashes that cost nothing."""
    for module in (onboard, rotation):
        monkeypatch.setattr(module, "ROUNDS", 4)
    onboard.apply(onboard.describe(provisioned, username="alice"))
    return provisioned


def token_of(target: Target, owner: str, *, label: str = "", role: str | None = None) -> None:
    _, admin = AdminApi.of(target)
    with admin:
        admin.create_token(owner, label=label, role=role)


def rotated(target: Target, kind: str, username: str = "", *, days: int = 0, label: str = "") -> Outcome:
    """Rotate a credential, and verify it."""
    described = rotation.describe(target, rotate=kind, username=username, label=label, max_age_days=days)
    rotation.plan(described)
    outcome = rotation.apply(described)
    rotation.verify(described, outcome)
    return outcome


def test_by_default_it_rotates_nothing(alice: FakeTarget) -> None:
    before = dict(alice.secrets), dict(alice.index.users)
    assert not rotated(alice, "").changed
    assert (dict(alice.secrets), dict(alice.index.users)) == before


def test_recent_credentials_stay_and_a_second_run_changes_nothing(served: Target) -> None:
    onboard.apply(onboard.describe(served, username="alice"))
    for kind, username in (("admin", ""), ("password", "alice")):
        assert not rotated(served, kind, username, days=90).changed
        assert rotated(served, kind, username).changed
        assert not rotated(served, kind, username, days=1).changed


def test_the_former_admin_token_and_password_are_refused(served: Target) -> None:
    onboard.apply(onboard.describe(served, username="alice"))
    for kind, username in (("admin", ""), ("password", "alice")):
        described = rotation.describe(served, rotate=kind, username=username, max_age_days=0)
        rows = rotation.verify(described, rotation.apply(described)).rows
        assert [row[2] for row in rows] == ["200", "401"]


def test_a_rotation_of_the_admin_token_keeps_the_deployed_version(alice: FakeTarget) -> None:
    alice.deploy(revision="of another clone")
    assert rotated(alice, "admin").changed
    assert alice.code == "of another clone"


def test_an_accepted_former_password_fails_the_verification(alice: FakeTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ops.polling.SECONDS", 0.0)
    described = rotation.describe(alice, rotate="password", username="alice", max_age_days=0)
    outcome = rotation.apply(described)
    alice.index.faults |= {"open"}
    with pytest.raises(VerificationError, match="the former one: 200 instead of 401"):
        rotation.verify(described, outcome)


def test_a_token_is_replaced_by_one_with_the_same_rights_without_a_gap(alice: FakeTarget, workspace: Workspace) -> None:
    token_of(alice, "alice", label="ci <b>", role="reader")
    token_of(alice, "bob", label="ci <b>")
    assert rotated(alice, "token", "alice").changed
    (first,) = (token for token in alice.index.tokens.values() if token["owner"] == "alice")
    assert (first["id"], first["label"], first["role"]) == ("id-3", "ci <b>", "reader")
    (file,) = workspace.user("local", "alice").glob("token-ci-b-*")
    assert file.read_text() == "token-of-id-3-0123456789\n"
    assert file.stat().st_mode & 0o777 == 0o600
    asked = sum(username == "__token__" for username, _ in alice.index.logins)
    described = rotation.describe(alice, rotate="token", username="alice", max_age_days=0)
    assert "<b>" not in rotation.plan(described)._repr_html_()
    outcome = rotation.apply(described)
    assert ("a client that kept sending requests", "was never refused") in outcome.done
    assert [row[2] for row in rotation.verify(described, outcome).rows] == ["200", "401", "1"]
    assert sum(username == "__token__" for username, _ in alice.index.logins) - asked > 5
    assert not rotated(alice, "token", "alice", days=1).changed
    assert len(alice.index.tokens) == 2


def test_tokens_left_by_a_killed_run_are_replaced_too(alice: FakeTarget) -> None:
    token_of(alice, "alice", label="ci")
    token_of(alice, "alice", label="ci")
    assert rotated(alice, "token", "alice").changed
    assert list(alice.index.tokens) == ["id-3"]


def test_a_refusal_while_a_token_is_replaced_fails_the_rotation(alice: FakeTarget) -> None:
    token_of(alice, "alice")
    rotated(alice, "token", "alice")
    alice.index.faults |= {"early"}
    with pytest.raises(VerificationError, match="a client was refused 1 of"):
        rotated(alice, "token", "alice")


def test_the_client_notices_each_refusal(alice: FakeTarget) -> None:
    token_of(alice, "alice")
    client = rotation.AskingClient(alice.index.url, Secret("token-of-id-1-0123456789"))
    before = threading.active_count()
    with client:
        client.pause(10, until_response=True)
        alice.index.tokens.clear()
        client.switch(Secret("another-token"))
    assert client.refused >= 1
    assert client.asked > client.refused
    assert threading.active_count() < before + 10


def test_with_several_labels_one_must_be_given(alice: FakeTarget) -> None:
    token_of(alice, "alice", label="a")
    token_of(alice, "alice", label="b")
    with pytest.raises(RunbookError, match="ambiguous which token") as raised:
        rotated(alice, "token", "alice")
    assert "'a', 'b'" in raised.value.why
    assert rotated(alice, "token", "alice", label="b").changed
    with pytest.raises(RunbookError, match="no such token"):
        rotated(alice, "token", "alice", label="c")
    with pytest.raises(RunbookError, match="no such token"):
        rotated(alice, "token", "bob")


@pytest.mark.parametrize(
    "values",
    [
        {"rotate": "everything"},
        {"rotate": "password"},
        {"rotate": "token"},
        {"rotate": "admin", "username": "alice"},
        {"username": "alice"},
        {"rotate": "password", "username": "../x"},
        {"rotate": "password", "username": "a\nb"},
        {"max_age_days": -1},
    ],
)
def test_an_invalid_parameter_is_refused(target: FakeTarget, values: dict[str, str]) -> None:
    with pytest.raises(ParameterError) as raised:
        rotation.describe(target, **values)  # type: ignore[arg-type]
    assert raised.value.todo


def test_the_password_of_a_missing_user_cannot_be_rotated(alice: FakeTarget) -> None:
    with pytest.raises(RunbookError, match="there is no user 'bob'"):
        rotated(alice, "password", "bob")
    assert "bob" not in alice.index.users


def test_an_admin_token_in_the_environment_is_not_rotated(alice: FakeTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeTarget, "name", "modal")
    monkeypatch.setenv("AUTH_TOKEN", "x" * 40)
    with pytest.raises(PreflightError, match="preflight failed") as raised:
        rotated(alice, "admin")
    assert "AUTH_TOKEN" in raised.value.why


def test_ages_show_what_is_due_and_what_expires(alice: FakeTarget) -> None:
    now = datetime.now(UTC)
    token_of(alice, "alice", label="ci")
    alice.index.tokens["id-1"]["expires"] = (now + timedelta(days=3, hours=1)).isoformat(timespec="seconds")
    alice.secret_set = now - timedelta(days=100)
    rows = {row[0]: row[1:] for row in credential_ages.ages(alice, days=90).rows}
    assert rows["secret pypi-auth-token (admin token)"][3] == "yes, 100 days old"
    assert rows["password of alice"] == ("not known", "not known", "never", "not known")
    assert rows["token ci of alice"][3] == "in 3 days"
    assert credential_ages._due(CredentialAge("x", now, now - timedelta(days=1)), 90) == "expired"


def test_the_audit_log_says_when_a_password_was_set(served: Target) -> None:
    onboard.apply(onboard.describe(served, username="alice"))
    rows = {row[0]: row[1:] for row in credential_ages.ages(served, days=90).rows}
    assert rows["password of alice"][0].startswith(f"{datetime.now(UTC):%Y-%m-}")
    assert {row[3] for row in rows.values()} == {"no"}


@pytest.mark.parametrize(
    ("user", "then"),
    [
        ({"role": "reader"}, ("reader", None)),
        ({"role": "publisher", "projects": ["eggs"]}, ("publisher", ("eggs",))),
        ({"role": "admin"}, ("publisher", ("eggs", "spam"))),
    ],
)
def test_a_new_token_has_only_the_rights_that_the_user_still_has(
    alice: FakeTarget, user: dict[str, Any], then: tuple[str, object]
) -> None:
    _, admin = AdminApi.of(alice)
    with admin:
        admin.create_token("alice", role="publisher", projects=["eggs", "spam"])
        admin.register("alice", **user)
        described = rotation.describe(alice, rotate="token", username="alice", max_age_days=0)
        shown = str(rotation.plan(described).pending[0].then)
        assert ("the same rights" in shown) == (user["role"] == "admin")
        rotation.apply(described)
        (token,) = admin.tokens("alice")
    assert (token.role, token.projects) == then


def test_on_a_real_index_a_token_is_replaced_and_the_former_one_is_refused(served: Target) -> None:
    onboard.apply(onboard.describe(served, username="alice", token_days=30))
    described = rotation.describe(served, rotate="token", username="alice", max_age_days=0)
    outcome = rotation.apply(described)
    assert ("a client that kept sending requests", "was never refused") in outcome.done
    assert [row[2] for row in rotation.verify(described, outcome).rows] == ["200", "401", "1"]
    assert not rotated(served, "token", "alice", days=1).changed
