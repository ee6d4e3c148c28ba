"""Support bundle: useful content without secrets, written only on request."""

from __future__ import annotations

import base64
import json
import zipfile
from pathlib import Path

import pytest

from ops import onboard, support_bundle
from ops.clients import ClientFiles
from ops.errors import VerificationError
from ops.redaction import Redactor
from ops.runbook.record import Record
from ops.workspace import Workspace
from tests.fakes import FakeTarget

pytest_plugins = ["tests.operations"]


@pytest.fixture
def path(workspace: Workspace) -> Path:
    """The bundle's file."""
    return workspace.home / "support" / "local.zip"


def texts(path: Path) -> dict[str, str]:
    """The contents of a bundle."""
    with zipfile.ZipFile(path) as packed:
        return {name: packed.read(name).decode() for name in packed.namelist()}


def test_by_default_nothing_is_written(provisioned: FakeTarget, path: Path) -> None:
    assert support_bundle.plan(provisioned).pending == ()
    assert not support_bundle.apply(provisioned).changed
    support_bundle.verify(provisioned)
    assert not path.exists()


def test_it_has_useful_content_and_no_secret_in_any_form(
    provisioned: FakeTarget, path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    onboard.apply(onboard.describe(provisioned, username="alice"))
    password = ClientFiles(workspace.user("local", "alice")).password()
    assert password is not None
    monkeypatch.setenv("MODAL_TOKEN_SECRET", "as-the-secret-of-modal")
    basic = base64.b64encode(f"alice:{password.reveal()}".encode()).decode()
    digest = f"$2b$12${'a' * 53}"
    log = (
        f"token {provisioned.index.token}\nAuthorization: Basic {basic}\nalice:{digest}\n"
        f"as-the-secret-of-modal https://u:a-pass-word@host/\nAuthorization: Bearer pypi-0123456789abcdef\nGET /simple/"
    )
    secrets = workspace.secrets("local")
    secrets.mkdir(parents=True)
    (secrets / "pypi-auth-token.env").write_text(f"AUTH_TOKEN={provisioned.index.token}\n")
    monkeypatch.setattr(provisioned, "logs", lambda lines=50: log)
    record = Record.create(workspace.records, "01_provision")
    record.end("succeeded", 1.0)
    record.save(Redactor())
    assert len(support_bundle.plan(provisioned, bundle=True).pending) == 1
    support_bundle.apply(provisioned, bundle=True)
    assert path.stat().st_mode & 0o777 == 0o600
    found = texts(path)
    for secret in (
        password.reveal(), provisioned.index.token, basic, digest, "a-pass-word", "pypi-0123456789abcdef",
        "as-the-secret-of-modal",
    ):  # fmt: skip
        assert secret not in "".join(found.values())
    assert "GET /simple/" in found["server.log"]
    assert "volume pypiserver-data" in found["plan.txt"]
    assert "user alice" in found["checks.txt"]
    assert "papermill==" in found["versions.txt"]
    assert json.loads(found["records.json"])[0]["outcome"] == "succeeded"
    assert {row[2] for row in support_bundle.verify(provisioned, bundle=True).rows} == {"no secret"}


def test_unavailable_parts_are_replaced_by_their_errors(target: FakeTarget, path: Path, workspace: Workspace) -> None:
    target.problems = ["no room"]
    workspace.create()
    support_bundle.apply(target, bundle=True)
    assert "no room" in texts(path)["checks.txt"]


def test_a_secret_in_it_fails_the_verification(
    provisioned: FakeTarget, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    support_bundle.apply(provisioned, bundle=True)
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("server.log", "as-the-secret-of-modal")
    monkeypatch.setenv("MODAL_TOKEN_SECRET", "as-the-secret-of-modal")
    with pytest.raises(VerificationError, match="1 check of 1 failed"):
        support_bundle.verify(provisioned, bundle=True)
