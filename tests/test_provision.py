"""Provisioning: plan, apply and verify, on a fake target and a fake index that may misbehave."""

from __future__ import annotations

import pytest

from ops import provision
from ops.clients import ClientFiles, Login
from ops.errors import NotDeployedError, NotRespondingError, ProtectionError, SettingError, VerificationError
from ops.secret import Secret
from ops.targets import HostingChange, HostingDifferences, Move
from ops.workspace import Workspace
from tests.fakes import FakeIndex, FakeTarget

pytest_plugins = ["tests.operations"]


def test_the_plan_of_an_empty_target_shows_four_changes_and_makes_none(target: FakeTarget) -> None:
    plan = provision.plan(target)
    assert [change.then for change in plan.changes] == [
        "generate and store it",
        "create it, empty",
        "create it, empty",
        "start it",
    ]
    assert (target.secrets, target.volumes, target.running) == ({}, {}, False)


def test_applying_makes_all_changes_and_a_second_time_none(target: FakeTarget) -> None:
    first = provision.apply(target)
    assert [what for what, _ in first.done] == [
        "secret pypi-auth-token",
        "volume pypiserver-data",
        "volume pypiserver-credentials",
        "server",
    ]
    token = target.recall_secret("pypi-auth-token", "AUTH_TOKEN")
    assert provision.plan(target).pending == ()
    second = provision.apply(target)
    assert not second.changed
    assert second.note.startswith("Everything was in place already.")
    assert target.recall_secret("pypi-auth-token", "AUTH_TOKEN") == token
    assert target.locked == 2


def test_a_generated_token_is_long_and_in_no_output(target: FakeTarget) -> None:
    outputs = [provision.plan(target).table(), provision.apply(target).table(), provision.verify(target)]
    token = target.recall_secret("pypi-auth-token", "AUTH_TOKEN")
    assert token is not None
    assert len(token.reveal()) >= 43
    for output in outputs:
        assert token.reveal() not in repr(output) + output._repr_html_()


def test_a_dry_run_changes_nothing_and_does_not_fail_for_missing_parts(target: FakeTarget) -> None:
    assert provision.apply(target, dry_run=True).note == "A dry run: nothing was changed."
    assert "none yet" in repr(provision.verify(target, dry_run=True))
    assert (target.secrets, target.volumes, target.running) == ({}, {}, False)


def test_only_missing_parts_are_created_again(provisioned: FakeTarget) -> None:
    provisioned.volumes["pypiserver-data"]["pkg-1.tar.gz"] = b"kept"
    provisioned.delete_volume("pypiserver-credentials")
    provisioned.stop()
    assert [what for what, _ in provision.apply(provisioned).done] == ["volume pypiserver-credentials", "server"]
    assert provisioned.volumes["pypiserver-data"] == {"pkg-1.tar.gz": b"kept"}


def test_a_given_token_is_stored_unchanged(target: FakeTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    given = Secret("a-token-from-the-environment")
    monkeypatch.setattr(target, "recall_secret", lambda *_: given)
    assert "store the given one" in repr(provision.plan(target))
    provision.apply(target)
    assert target.secrets["pypi-auth-token"] == {"AUTH_TOKEN": given}


@pytest.mark.parametrize("token", ["hunter2", "a token with spaces in it", "a-token-with-a-line-break\n"])
def test_a_guessable_or_unsendable_given_token_is_refused_before_any_change(
    target: FakeTarget, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setattr(target, "recall_secret", lambda *_: Secret(token))
    for step in (provision.plan, provision.apply):
        with pytest.raises(SettingError, match="AUTH_TOKEN") as caught:
            step(target)
        assert token not in str(caught.value)
    assert (target.secrets, target.volumes, target.running) == ({}, {}, False)


def test_a_correct_index_is_verified(provisioned: FakeTarget) -> None:
    table = provision.verify(provisioned)
    assert [(expected, seen) for _, expected, seen in table.rows] == [
        ("200", "200"),
        ("401, asks for a login", "401, asks for a login"),
        ("401, asks for a login", "401, asks for a login"),
        ("401", "401"),
        ("200", "200"),
    ]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("open", "the index, without credentials: 200"),
        ("silent", "the index, wrong password: 401, without a realm"),
        ("open admin", "the list of users, without the admin token: 200 instead of 401"),
    ],
)
def test_an_index_that_accepts_invalid_logins_fails_the_verification(
    provisioned: FakeTarget, index: FakeIndex, fault: str, said: str
) -> None:
    index.faults.add(fault)
    with pytest.raises(VerificationError, match=said):
        provision.verify(provisioned)


def test_an_index_with_a_different_token_fails_the_verification(provisioned: FakeTarget, index: FakeIndex) -> None:
    index.token = "another-token-than-that-of-the-target"
    with pytest.raises(VerificationError, match="with the admin token: 401 instead of 200"):
        provision.verify(provisioned)


def test_a_missing_index_cannot_be_verified(target: FakeTarget) -> None:
    with pytest.raises(NotDeployedError):
        provision.verify(target)


def test_each_difference_of_the_hosting_is_a_row_and_then_a_change(provisioned: FakeTarget) -> None:
    provisioned.hosted = HostingDifferences("the defaults", (HostingChange("min_containers", "1", "0"),))
    (row,) = (change for change in provision.plan(provisioned).changes if change.thing.startswith("hosting"))
    assert (row.thing, row.now, row.then) == ("hosting min_containers", "1", "1 -> 0")
    assert ("hosting min_containers", "1 -> 0") in provision.apply(provisioned).done


def test_a_refused_change_of_the_hosting_stops_everything_before_the_first_change(target: FakeTarget) -> None:
    change = HostingChange("proxy_auth", "1", "0", refused="it lowers a protection")
    target.hosted = HostingDifferences("the defaults", (change,))
    assert "refused" in repr(provision.plan(target))
    with pytest.raises(ProtectionError, match="lower a protection"):
        provision.apply(target)
    assert (target.secrets, target.volumes, target.running) == ({}, {}, False)


def test_a_move_rewrites_the_client_files_and_lists_the_users_to_inform(
    provisioned: FakeTarget, index: FakeIndex, workspace: Workspace
) -> None:
    old = "http://127.0.0.1:1/"
    files = ClientFiles(workspace.user("local", "alice"))
    public = "https://index.example/simple"
    files.write(Login(url=old, username="alice", password=Secret("a-good-password"), public_index=public))
    for username in ("alice", "bob"):
        index.add_user(username, "a-good-password")
    provisioned.moving = Move(old, index.url)

    plan = {change.thing: (change.now, change.then) for change in provision.plan(provisioned).changes}
    assert index.url in plan["server"][1]
    assert plan["client files of alice"] == (f"name {old}", f"write them for {index.url}")
    outcome = provision.apply(provisioned)

    assert ("client files of alice", f"written for {index.url}") in outcome.done
    assert f"The index moved from {old}. Tell its users (alice, bob)" in outcome.note
    login = Login(url=index.url, username="alice", password=Secret("a-good-password"), public_index=public)
    assert files.login() == login
    assert files.outdated(login) == []


def test_client_files_are_repaired_even_if_the_old_address_is_unknown(
    provisioned: FakeTarget, index: FakeIndex, workspace: Workspace
) -> None:
    files = ClientFiles(workspace.user("local", "alice"))
    files.write(Login(url="http://127.0.0.1:1/", username="alice", password=Secret("a-good-password")))
    index.add_user("alice", "a-good-password")

    assert "The index moved from http://127.0.0.1:1/" in provision.apply(provisioned).note
    assert "The index moved" not in provision.apply(provisioned).note
    assert provision.plan(provisioned).pending == ()


def test_an_unresponsive_index_is_distinguished_from_a_missing_one(provisioned: FakeTarget) -> None:
    provisioned.failure = "ModuleNotFoundError: No module named 'fastapi'"
    change = next(change for change in provision.plan(provisioned).changes if change.thing == "server")
    assert change.now.startswith("deployed at ")
    assert change.now.endswith("does not respond: ModuleNotFoundError: No module named 'fastapi'")
    assert change.then == "bring it up to date"
    with pytest.raises(NotRespondingError, match="deployed and does not respond") as caught:
        provision.verify(provisioned)
    assert "No module named 'fastapi'" in caught.value.why
    assert "No module named" in repr(provision.verify(provisioned, dry_run=True))


def test_a_refused_admin_token_leads_to_advice_about_it(provisioned: FakeTarget) -> None:
    provisioned.secrets["pypi-auth-token"]["AUTH_TOKEN"] = Secret("changed-elsewhere")
    with pytest.raises(VerificationError) as caught:
        provision.verify(provisioned)
    assert "another value of AUTH_TOKEN is needed" in caught.value.todo


def test_the_summary_says_what_was_done_and_the_result(target: FakeTarget) -> None:
    assert repr(provision.summary(target, provision.apply(target, dry_run=True), dry_run=True)) == (
        "This was a dry run: nothing was changed.\nThe index does not run."
    )
    first, second = (repr(provision.summary(target, provision.apply(target))) for _ in range(2))
    assert first.startswith("4 things were changed.\nThe index responds at ")
    assert second.startswith("Nothing had to be changed.\nThe index responds at ")
