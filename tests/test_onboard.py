"""Onboarding: requests, files, and that no password is changed unasked."""

from __future__ import annotations

from pathlib import Path

import bcrypt
import pytest

from ops import onboard, user_tokens
from ops.errors import NotDeployedError, ParameterError, PreflightError, RunbookError, VerificationError
from ops.onboard import Onboarding
from ops.workspace import Workspace
from tests.fakes import FakeIndex, FakeTarget

pytest_plugins = ["tests.operations"]


COST = onboard.ROUNDS


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hash of the real cost takes a quarter of a second."""
    monkeypatch.setattr(onboard, "ROUNDS", 4)


def alice(target: FakeTarget, **parameters: object) -> Onboarding:
    return onboard.describe(target, username="alice", **parameters)  # type: ignore[arg-type]  # of any kind, for brevity


def password_of(onboarding: Onboarding) -> str:
    password = onboarding.files.password()
    assert password is not None
    return password.reveal()


def test_a_new_user_gets_a_hash_on_the_index_and_files_here(
    provisioned: FakeTarget, index: FakeIndex, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onboard, "ROUNDS", COST)
    assert [change.then for change in onboard.plan(alice(provisioned)).changes] == [
        "create as publisher",
        "generate and set one",
        "write 5 files, mode 0600",
    ]
    assert index.users == {}
    outcome = onboard.apply(alice(provisioned))
    password = password_of(alice(provisioned))
    assert index.users["alice"]["hash"].startswith("$2y$12$")
    assert bcrypt.checkpw(password.encode(), index.users["alice"]["hash"].encode())
    assert not any(password.encode() in body for body in index.bodies), "the password itself was sent"
    assert password not in repr(outcome)
    assert alice(provisioned).folder == workspace.user("local", "alice")


def test_a_token_that_a_killed_run_could_not_write_is_revoked(
    provisioned: FakeTarget, index: FakeIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    onboard.apply(alice(provisioned, token_days=30))
    alice(provisioned).token.unlink()  # it was handed over
    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(user_tokens, "write_token", killed)
            with pytest.raises(Killed):
                onboard.apply(alice(provisioned, token_days=30))
    onboard.apply(alice(provisioned, token_days=30))
    assert list(index.tokens) == ["id-1", "id-4"]
    assert [path.name for path in alice(provisioned).folder.glob("token*")] == ["token"]
    assert not onboard.apply(alice(provisioned, token_days=30)).changed


def test_a_token_written_by_a_killed_run_is_kept(provisioned: FakeTarget, index: FakeIndex) -> None:
    onboard.apply(alice(provisioned, token_days=30))
    begun = user_tokens.begun_file(alice(provisioned).token)
    begun.touch()
    assert not onboard.apply(alice(provisioned, token_days=30)).changed
    assert not begun.exists()
    assert list(index.tokens) == ["id-1"]


def test_the_second_time_nothing_is_changed_or_sent(provisioned: FakeTarget, index: FakeIndex) -> None:
    onboard.apply(alice(provisioned))
    before = (dict(index.users["alice"]), password_of(alice(provisioned)))
    assert onboard.plan(alice(provisioned)).pending == ()
    index.bodies.clear()
    outcome = onboard.apply(alice(provisioned))
    assert not outcome.changed
    assert not any(index.bodies), "something was sent"
    assert (index.users["alice"], password_of(alice(provisioned))) == before


def test_a_lost_user_is_created_again_with_the_stored_password(provisioned: FakeTarget, index: FakeIndex) -> None:
    onboard.apply(alice(provisioned))
    password = password_of(alice(provisioned))
    index.users.clear()
    onboard.apply(alice(provisioned))
    assert bcrypt.checkpw(password.encode(), index.users["alice"]["hash"].encode())
    assert password_of(alice(provisioned)) == password


def test_a_user_with_a_password_unknown_here_keeps_it_unless_a_reset_is_requested(
    provisioned: FakeTarget, index: FakeIndex
) -> None:
    index.add_user("alice", "of-somebody-else")
    before = dict(index.users["alice"])
    with pytest.raises(RunbookError, match="exists and the password is not known") as caught:
        onboard.apply(alice(provisioned))
    assert "password_reset=true" in caught.value.todo
    password = onboard.plan(alice(provisioned)).changes[1]
    assert (password.now, password.refused) == ("not known here", "it is not reset unasked")
    assert index.users["alice"] == before
    onboard.apply(alice(provisioned, password_reset=True))
    assert bcrypt.checkpw(password_of(alice(provisioned)).encode(), index.users["alice"]["hash"].encode())


def test_a_stored_password_that_was_changed_elsewhere_is_not_reset(provisioned: FakeTarget, index: FakeIndex) -> None:
    onboard.apply(alice(provisioned))
    index.add_user("alice", "the-rotated-password")
    before = dict(index.users["alice"])
    with pytest.raises(RunbookError, match="lets nobody in"):
        onboard.apply(alice(provisioned))
    assert index.users["alice"] == before


def test_a_given_password_is_used_and_stored(
    provisioned: FakeTarget, index: FakeIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INDEX_PASSWORD", "the-given-password")
    onboard.apply(alice(provisioned))
    assert password_of(alice(provisioned)) == "the-given-password"
    monkeypatch.setenv("INDEX_PASSWORD", "another-given-password")
    monkeypatch.setenv("OTHER", "the-newest-password")
    onboard.apply(alice(provisioned, password_env="OTHER"))
    assert bcrypt.checkpw(b"the-newest-password", index.users["alice"]["hash"].encode())
    assert password_of(alice(provisioned)) == "the-newest-password"


@pytest.mark.parametrize(
    ("password", "said"),
    [("short", "has 5 bytes"), ("x" * 73, "has 73 bytes"), ("two\nlines-of-it", "control character")],
)
def test_an_unusable_given_password_changes_nothing(
    provisioned: FakeTarget, index: FakeIndex, monkeypatch: pytest.MonkeyPatch, password: str, said: str
) -> None:
    monkeypatch.setenv("INDEX_PASSWORD", password)
    with pytest.raises(RunbookError, match=said) as caught:
        onboard.apply(alice(provisioned))
    assert password not in str(caught.value)
    assert index.users == {}
    assert not alice(provisioned).folder.exists()


def test_role_and_projects_are_set_and_kept_when_not_named(provisioned: FakeTarget, index: FakeIndex) -> None:
    onboard.apply(alice(provisioned, projects="spam, eggs"))
    assert index.users["alice"]["projects"] == ["eggs", "spam"]
    onboard.apply(alice(provisioned, role="reader"))
    assert index.users["alice"]["role"] == "reader"
    before = dict(index.users["alice"])
    assert not onboard.apply(alice(provisioned)).changed
    assert index.users["alice"] == before


def test_projects_of_an_existing_reader_are_refused_before_anything_is_changed(
    provisioned: FakeTarget, index: FakeIndex
) -> None:
    onboard.apply(alice(provisioned, role="reader"))
    before = dict(index.users["alice"])
    limited = alice(provisioned, projects="spam", password_reset=True)
    assert "only a publisher is limited to projects" in repr(onboard.plan(limited))
    with pytest.raises(RunbookError, match="'alice' cannot be set, and nothing was changed"):
        onboard.apply(limited)
    assert index.users["alice"] == before


def test_changing_a_role_does_not_change_the_hash(provisioned: FakeTarget, index: FakeIndex) -> None:
    onboard.apply(alice(provisioned))
    digest = index.users["alice"]["hash"]
    onboard.apply(alice(provisioned, role="admin"))
    assert index.users["alice"] == {"hash": digest, "role": "admin", "projects": None}


def test_lost_files_are_rewritten_and_nothing_is_sent(provisioned: FakeTarget, index: FakeIndex) -> None:
    onboard.apply(alice(provisioned))
    alice(provisioned).files.netrc.unlink()
    assert "netrc" in repr(onboard.plan(alice(provisioned)))
    index.bodies.clear()
    assert [done for _, done in onboard.apply(alice(provisioned)).done] == ["written, mode 0600"]
    assert not any(index.bodies)


def test_a_dry_run_changes_nothing_and_does_not_fail_for_a_missing_user(
    provisioned: FakeTarget, index: FakeIndex
) -> None:
    assert "dry run" in repr(onboard.apply(alice(provisioned), dry_run=True))
    assert "no such user yet" in repr(onboard.verify(alice(provisioned), dry_run=True))
    assert index.users == {}
    assert not alice(provisioned).folder.exists()


@pytest.mark.parametrize("role", ["reader", "publisher"])
def test_each_client_proves_the_login_whatever_the_role(provisioned: FakeTarget, role: str) -> None:
    onboarding = alice(provisioned, role=role)
    onboard.apply(onboarding)
    rows = onboard.verify(onboarding).rows
    assert len(rows) == 5
    assert {expected for _, expected, _ in rows} == {"accepted"}
    assert all(seen.startswith("accepted") for _, _, seen in rows)
    assert ("a reader does not publish (403)" in repr(rows)) == (role == "reader")


def test_a_refused_login_fails_the_verification(
    provisioned: FakeTarget, index: FakeIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    onboarding = alice(provisioned)
    onboard.apply(onboarding)
    index.add_user("alice", "another-password")
    monkeypatch.setattr("ops.polling.SECONDS", 0.0)
    with pytest.raises(VerificationError, match="5 checks of 5 failed") as caught:
        onboard.verify(onboarding)
    assert "twine: an upload that must be refused: 401 instead of accepted" in caught.value.why


@pytest.mark.parametrize("username", ["", "a:b", "a/b", "..", " alice", "a\\b", "#alice"])
def test_an_invalid_user_name_is_refused_before_any_request(target: FakeTarget, username: str) -> None:
    with pytest.raises(ParameterError, match="cannot be a user name"):
        onboard.describe(target, username=username)


def test_an_unknown_role_is_refused(target: FakeTarget) -> None:
    with pytest.raises(ParameterError, match="reader, publisher, admin"):
        alice(target, role="owner")


def test_without_an_index_or_its_token_it_says_what_to_do(target: FakeTarget) -> None:
    with pytest.raises(NotDeployedError):
        onboard.plan(alice(target))
    target.running = True
    with pytest.raises(PreflightError):
        onboard.plan(alice(target))


def test_an_unattended_run_does_not_prompt_for_a_password(target: FakeTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(prompt: str) -> str:
        raise EOFError(prompt)

    monkeypatch.setattr("getpass.getpass", nobody)
    with pytest.raises(ParameterError, match="prompting for a password is impossible"):
        alice(target, password_prompt=True)


def test_a_typed_password_is_used(target: FakeTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getpass", lambda prompt: "typed-" + "x" * len(prompt))
    given = alice(target, password_prompt=True).given
    assert given is not None
    assert given.reveal().startswith("typed-")


def test_the_instructions_name_the_files_and_no_secret(provisioned: FakeTarget) -> None:
    onboarding = alice(provisioned)
    outcome = onboard.apply(onboarding)
    text = repr(onboard.instructions(onboarding, outcome))
    assert "alice can log in; what changed is listed above." in text
    assert ". ~/runbook/users/local/alice/env.sh\n" in text
    assert password_of(onboarding) not in text


def test_after_a_dry_run_the_instructions_promise_nothing(provisioned: FakeTarget) -> None:
    onboarding = alice(provisioned)
    text = repr(onboard.instructions(onboarding, onboard.apply(onboarding, dry_run=True), dry_run=True))
    assert text == "This was a dry run: nothing was changed. There are no client files of alice yet."


def test_the_files_go_into_the_named_folder(provisioned: FakeTarget, newcomer: Path) -> None:
    onboard.apply(alice(provisioned, folder="~/a folder"))
    assert (newcomer / "a folder" / "env.sh").is_file()


def test_the_files_are_zipped_on_request_and_then_kept_current(
    provisioned: FakeTarget, index: FakeIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not alice(provisioned).files.archive.exists()
    onboard.apply(alice(provisioned, archive=True))
    archive = alice(provisioned).files.archive
    before = archive.read_bytes()
    assert "handover.zip" in repr(onboard.instructions(alice(provisioned), onboard.apply(alice(provisioned))))

    monkeypatch.setenv("INDEX_PASSWORD", "the-rotated-password")
    onboard.apply(alice(provisioned))

    assert archive.read_bytes() != before
    assert onboard.plan(alice(provisioned)).pending == ()
