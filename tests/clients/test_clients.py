"""pip, uv and twine, with the client files, against a fake index that records their requests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from uv import find_uv_bin

from ops.clients import ClientFiles, Login, Pip, Twine, Uv
from ops.errors import ClientError
from ops.secret import Secret
from ops.test_release import PROBE, write_refused_wheel
from tests.fakes import FakeIndex

PASSWORDS = ["generated-Password_1", "a b\"c'd\\e%f#g;h$i=j:k", "pässwörd-été"]


@pytest.fixture
def files(tmp_path: Path) -> ClientFiles:
    return ClientFiles(tmp_path / "it's files")


def as_user(index: FakeIndex, files: ClientFiles, password: str, username: str = "alice") -> Login:
    login = Login(url=index.url, username=username, password=Secret(password))
    files.write(login)
    return login


@pytest.mark.parametrize("password", PASSWORDS)
def test_every_client_sends_the_password_unchanged(
    index: FakeIndex, files: ClientFiles, tmp_path: Path, password: str
) -> None:
    username = "al ice" if " " in password else "alice"
    index.add_user(username, password)
    login = as_user(index, files, password, username)
    wheel = [write_refused_wheel(tmp_path)]
    assert Pip(files, login).page_status(PROBE) == 404
    assert Uv(files, login).page_status(PROBE) == 404
    assert Twine(files, login).upload(wheel)[0] == 400
    assert Uv(files, login).publish(wheel)[0] == 400
    assert set(index.logins) == {(username, password)}


def test_every_client_distinguishes_a_refused_login_from_a_missing_project(
    index: FakeIndex, files: ClientFiles, tmp_path: Path
) -> None:
    login = as_user(index, files, "not-the-password")
    wheel = [write_refused_wheel(tmp_path)]
    assert Pip(files, login).page_status(PROBE) == 401
    assert Uv(files, login).page_status(PROBE) == 401
    assert Twine(files, login).upload(wheel)[0] == 401
    assert Uv(files, login).publish(wheel)[0] == 401


def test_pip_and_uv_without_credentials_get_401(index: FakeIndex, files: ClientFiles) -> None:
    login = Login(url=index.url)
    files.write(login)
    assert Pip(files, login).page_status(PROBE) == 401
    assert Uv(files, login).page_status(PROBE) == 401
    assert index.logins == []


def test_uv_neither_reads_nor_creates_the_operator_s_own_credentials(
    index: FakeIndex, files: ClientFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    login = Login(url=index.url)
    files.write(login)
    assert Uv(files, login).page_status(PROBE) == 401
    assert Uv(files, login).publish([write_refused_wheel(tmp_path)])[0] == 401
    assert not list(home.iterdir())


def test_a_project_that_exists_is_found(index: FakeIndex, files: ClientFiles) -> None:
    index.add_user("alice", "a-good-password")
    index.files["runbook_login_check-1-py3-none-any.whl"] = b"never opened"
    login = as_user(index, files, "a-good-password")
    assert Pip(files, login).page_status(PROBE) == 200
    assert Uv(files, login).page_status(PROBE) == 200


def test_a_missing_index_is_an_error_and_not_a_refusal(files: ClientFiles) -> None:
    login = Login(url="http://127.0.0.1:9/", username="alice", password=Secret("a-good-password"))
    files.write(login)
    with pytest.raises(ClientError, match=r"uv got no response from http://127\.0\.0\.1:9/"):
        Uv(files, login).page_status(PROBE)


def test_no_process_has_a_password_among_its_arguments(
    index: FakeIndex, files: ClientFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    real = subprocess.Popen

    def spy(arguments: list[str], **options: Any) -> Any:
        seen.extend(arguments)
        return real(arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", spy)
    index.add_user("alice", "a-good-password")
    login = as_user(index, files, "a-good-password")
    Pip(files, login).page_status(PROBE)
    Uv(files, login).page_status(PROBE)
    Twine(files, login).upload([write_refused_wheel(tmp_path)])
    assert len(index.logins) >= 3
    assert not [argument for argument in seen if "a-good-password" in argument]


def test_no_client_uses_the_configuration_of_the_machine(
    index: FakeIndex, files: ClientFiles, newcomer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeIndex() as other:
        for folder, name, text in (
            (newcomer / ".config" / "pip", "pip.conf", f"[global]\nextra-index-url = {other.url}simple/\n"),
            (newcomer / ".config" / "uv", "uv.toml", f'[[index]]\nurl = "{other.url}simple/"\n'),
        ):
            folder.mkdir(parents=True)
            (folder / name).write_text(text)
        monkeypatch.setenv("PIP_INDEX_URL", f"{other.url}simple/")
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"{other.url}simple/")
        monkeypatch.setenv("UV_INDEX", f"{other.url}simple/")
        index.add_user("alice", "a-good-password")
        login = as_user(index, files, "a-good-password")
        assert Pip(files, login).page_status(PROBE) == 404
        assert Uv(files, login).page_status(PROBE) == 404
        assert other.bodies == []


# --- a user's shell ---------------------------------------------------------------------------------------------------


def in_shell(files: ClientFiles, script: str, cwd: Path, newcomer: Path) -> subprocess.CompletedProcess[str]:
    """Run a script in a shell that has read ``env.sh``, with this environment's programs on PATH and little else."""
    path = os.pathsep.join([str(Path(sys.executable).parent), str(Path(find_uv_bin()).parent), "/usr/bin", "/bin"])
    return subprocess.run(
        ["bash", "-c", f'. "$1"; {script}', "bash", files.env_sh],
        check=False,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={"PATH": path, "HOME": str(newcomer), "UV_NO_CACHE": "1", "UV_PYTHON_DOWNLOADS": "never"},
    )


@pytest.mark.parametrize(
    "script",
    [
        "python -m pip -vv index versions runbook-login-check",
        "python -m twine upload --non-interactive {wheel}",
        "uv publish --verbose {wheel}",
        "echo runbook-login-check | uv pip compile --default-index {url} -",
    ],
)
def test_env_sh_is_everything_a_shell_needs(
    index: FakeIndex, files: ClientFiles, tmp_path: Path, newcomer: Path, script: str
) -> None:
    index.add_user("alice", PASSWORDS[1])
    as_user(index, files, PASSWORDS[1])
    wheel = write_refused_wheel(tmp_path)
    with FakeIndex() as public:
        public.faults.add("open")
        result = in_shell(files, script.format(wheel=wheel, url=f"{public.url}simple/"), tmp_path, newcomer)
    assert ("alice", PASSWORDS[1]) in index.logins, result.stdout + result.stderr
    assert "token for trusted publishing" not in result.stderr, "without a name uv tries that, for seconds"


def test_env_sh_keeps_the_indexes_of_a_uv_project(
    index: FakeIndex, files: ClientFiles, tmp_path: Path, newcomer: Path
) -> None:
    index.add_user("alice", "a-good-password")
    as_user(index, files, "a-good-password")
    with FakeIndex() as own:
        own.faults.add("open")
        (tmp_path / "pyproject.toml").write_text(
            '[project]\nname = "p"\nversion = "0"\nrequires-python = ">=3.11"\ndependencies = ["runbook-login-check"]\n'
            f'[[tool.uv.index]]\nurl = "{own.url}simple/"\ndefault = true\n'
        )
        in_shell(files, f"uv lock --python {sys.executable}", tmp_path, newcomer)
        assert index.logins, "the private index got no request"
        assert own.bodies, "the project's own index got no request"
