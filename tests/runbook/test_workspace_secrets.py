"""Sources of secrets."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from ops.redaction import MASK, Redactor
from ops.runbook.workspace_secrets import environment_secrets, is_secret_variable, recorded_secrets, workspace_sources
from ops.secret import REGISTER_VARIABLE, Secret
from ops.workspace import Workspace


@pytest.mark.parametrize(
    "name",
    [
        "PASSWORD", "PGPASSWORD", "TWINE_PASSWORD", "UV_PUBLISH_TOKEN", "UV_INDEX_TEAM_PASSWORD", "MODAL_TOKEN_SECRET",
        "MODAL_TOKEN_ID", "AUTH_TOKEN", "GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "API_KEY", "APIKEY", "MYSQL_PWD",
        "GITHUB_PAT", "CREDENTIALS", "admin_password",
    ],
)  # fmt: skip
def test_a_variable_named_like_a_secret_is_one(name: str) -> None:
    assert is_secret_variable(name)


@pytest.mark.parametrize(
    "name",
    [
        "PWD",
        "OLDPWD",
        "PATH",
        "HOME",
        "TOKENIZERS_PARALLELISM",
        "TOKEN_FILE",
        "SECRET_NAME",
        "SSH_AUTH_SOCK",
        "KEY",
        "KEYMAP",
    ],
)
def test_a_variable_that_only_mentions_a_secret_is_not_one(name: str) -> None:
    assert not is_secret_variable(name)


def test_secrets_and_passwords_in_urls_are_read_from_the_environment() -> None:
    variables = {
        "TWINE_PASSWORD": "twine-secret",
        "PIP_INDEX_URL": "https://alice:p%40ss-word@index.example/simple/",
        "PIP_EXTRA_INDEX_URL": "https://a.example/ https://bob:second-one@b.example/",
        "TOKEN_DIRECTORY": "/home/alice/tokens",
        "PATH": "/usr/bin:/bin",
        "HTTP_PROXY": "http://proxy.example:3128",
    }
    assert set(environment_secrets(variables)) == {"twine-secret", "p%40ss-word", "p@ss-word", "second-one"}


def test_a_secret_created_in_another_process_is_known_from_its_register(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "register"
    redactor = Redactor(sources=[recorded_secrets(path)])
    assert redactor.text("new-born-secret") == "new-born-secret"
    monkeypatch.setenv(REGISTER_VARIABLE, str(path))
    Secret("new-born-secret")
    Secret("two\nlines of it")
    assert redactor.text("new-born-secret, two\nlines of it") == f"{MASK}, {MASK}"


def test_an_incomplete_line_in_the_register_is_read_once_complete(tmp_path: Path) -> None:
    path = tmp_path / "register"
    line = base64.b64encode(b"slowly-written").decode()
    path.write_text(line[:7])
    redactor = Redactor(sources=[recorded_secrets(path)])
    redactor.refresh()
    path.write_text(line + "\n")
    assert redactor.text("slowly-written") == MASK


FILES = {
    "local/secrets/pypi-auth-token.env": "# made by hand\nAUTH_TOKEN='env-file-secret'\nOTHER=second=secret\n",
    "modal/secrets/raw": "a-raw-secret-line\n",
    "users/local/alice/pip.conf": "[global]\nindex-url = http://alice:pip%2Fsecret@127.0.0.1:8765/simple/\n",
    "users/local/alice/.pypirc": "[pypirc]\nusername = alice\npassword = pypirc-secret %1\n",
    "users/local/alice/netrc": "machine 127.0.0.1\n  login alice\n  password netrc-secret\n",
    "users/local/alice/one-line": 'machine h login alice password "netrc \\" quoted"',
    "users/local/alice/uv.toml": '[[index]]\nurl = "http://alice:uv-secret@127.0.0.1/simple/"\n',
    "users/local/alice/env.sh": "export UV_PUBLISH_PASSWORD='shell-secret'\nexport USERNAME=alice-user\n",
}


def test_secrets_are_read_from_the_workspace_s_secret_and_client_files(workspace: Workspace) -> None:
    for name, text in FILES.items():
        path = workspace.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (workspace.home / "local/secrets/folder").mkdir()
    found = {secret for source in workspace_sources(workspace, {}) for secret in source()}
    assert found == {
        "env-file-secret", "second=secret", "a-raw-secret-line", "pip/secret", "pip%2Fsecret", "pypirc-secret %1",
        "netrc-secret", 'netrc \\" quoted', "uv-secret", "shell-secret",
    }  # fmt: skip


def test_a_file_that_changes_while_a_notebook_runs_is_read_again(workspace: Workspace) -> None:
    redactor = Redactor(sources=workspace_sources(workspace, {}))
    assert redactor.text("first-value") == "first-value"
    path = workspace.secrets("local") / "token.env"
    path.parent.mkdir(parents=True)
    path.write_text("TOKEN=first-value\n")
    assert redactor.text("first-value") == MASK
    path.write_text("TOKEN=rotated-value\n")
    assert redactor.text("first-value rotated-value") == f"{MASK} {MASK}"
