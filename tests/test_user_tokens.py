"""A token goes from a real index into one private place, and is never shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from ops import onboard, user_tokens
from ops.cli import main
from ops.errors import IndexRequestError, ParameterError
from ops.index.auth.passwords import TOKEN
from ops.redaction import TOKEN_FORMS, Redactor
from ops.secret import Secret
from ops.user_tokens import TokenRequest
from ops.workspace import Workspace
from tests.fakes import FakeIndex, FakeTarget
from tests.index.serving import PASSWORD, Server, eventually
from tests.index.serving import TOKEN as ADMIN_TOKEN


@dataclass
class RealIndex:
    """A real index instead of the fake one."""

    url: str
    token: str = ADMIN_TOKEN


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("index")) as running:
        yield running


@pytest.fixture
def target(server: Server, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> FakeTarget:
    del workspace
    made = FakeTarget(cast("FakeIndex", RealIndex(server.url)))
    made.put_secret("pypi-auth-token", {"AUTH_TOKEN": Secret(ADMIN_TOKEN)})
    made.running = True
    monkeypatch.setattr("ops.targets.open_target", lambda *_, **__: made)
    return made


def test_a_created_token_is_in_a_private_file_and_works_until_revoked(
    target: FakeTarget, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "folder" / "token"
    assert main(["token", "create", "alice", "--project", "spam", "--label", "ci", "--out", str(path)]) == 0
    token = user_tokens.read_token(path)
    assert token is not None
    assert TOKEN.fullmatch(token.reveal())
    assert path.stat().st_mode & 0o777 == 0o600
    eventually(lambda: user_tokens.token_status(server.url, token) == 200)
    assert main(["token", "list", "--owner", "alice"]) == 0
    said = capsys.readouterr().out
    assert "publisher of spam" in said
    assert token.reveal()[-16:] not in said
    token_id = token.reveal().split("_")[1]
    assert main(["token", "revoke", token_id]) == 0
    eventually(lambda: user_tokens.token_status(server.url, token) == 401)
    assert main(["token", "revoke", token_id]) == 2
    assert "runbook token list" in capsys.readouterr().err


def test_a_token_can_go_into_the_secret_store_instead(target: FakeTarget) -> None:
    said = user_tokens.create(target, TokenRequest(owner="rea"), secret="ci-token")
    kept = target.recall_secret("ci-token", user_tokens.SECRET_KEY)
    assert kept is not None
    assert TOKEN.fullmatch(kept.reveal())
    assert kept.reveal() not in str(said)


def test_a_token_that_cannot_be_stored_or_created_is_not_left_behind(target: FakeTarget, tmp_path: Path) -> None:
    before = str(user_tokens.tokens(target))
    (tmp_path / "taken").touch()
    with pytest.raises(ParameterError, match="exists"):
        user_tokens.create(target, TokenRequest(owner="alice"), path=tmp_path / "taken")
    with pytest.raises(ParameterError, match="one place"):
        user_tokens.create(target, TokenRequest(owner="alice"), path=tmp_path / "new", secret="name")
    with pytest.raises(OSError, match="taken"):
        user_tokens.create(target, TokenRequest(owner="alice"), path=tmp_path / "taken" / "new")
    with pytest.raises(IndexRequestError, match="a token can do no more"):
        user_tokens.create(target, TokenRequest(owner="rea", role="admin"))
    assert str(user_tokens.tokens(target)) == before


def test_onboarding_writes_a_token_for_a_ci_job_once(target: FakeTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onboard, "ROUNDS", 10)
    asked = onboard.describe(target, username="ci", projects="spam", token_days=7)
    assert onboard.plan(asked).changes[-1].then == "create one for 7 days"
    outcome = onboard.apply(asked)
    token = user_tokens.read_token(asked.token)
    assert token is not None
    assert asked.token.stat().st_mode & 0o777 == 0o600
    assert "accepted (200)" in str(onboard.verify(asked))
    assert token.reveal()[-16:] not in f"{outcome}{onboard.instructions(asked, outcome)}"
    assert not onboard.apply(asked).changed
    assert user_tokens.read_token(asked.token) == token
    with pytest.raises(ParameterError, match="366 days"):
        onboard.describe(target, username="ci", token_days=366)


def test_an_unknown_token_is_masked_plain_and_in_a_header() -> None:
    token = f"pyidx_{'0a' * 6}_{'1f' * 32}"
    header = f"Basic {__import__('base64').b64encode(f'__token__:{token}'.encode()).decode()}"
    for text in (token, f"{{'password': '{token}'}}", header):
        masked = Redactor().text(text)
        assert "1f1f" not in masked
        assert header[-20:] not in masked
    assert Redactor().text(f"pyidx_{'0a' * 6} was revoked") == f"pyidx_{'0a' * 6} was revoked"
    assert TOKEN_FORMS.pattern.startswith(TOKEN.pattern.replace("?P<id>", "").replace("(", "").replace(")", "")[:22])
    assert PASSWORD not in Redactor([PASSWORD]).text(f"{token} {PASSWORD}")
