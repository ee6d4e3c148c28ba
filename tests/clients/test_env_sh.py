"""env.sh, read by real shells, sets everything or nothing, wherever its folder is."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from ops.clients import ClientFiles, Login
from ops.runbook.workspace_secrets import client_files
from ops.secret import Secret
from ops.workspace import Workspace

URL = "http://127.0.0.1:8765/"
NAMES = ("NETRC", "PIP_CONFIG_FILE", "PIP_INDEX_URL", "UV_INDEX", "UV_PUBLISH_URL", "TWINE_REPOSITORY_URL")
PRINT = "".join(f'printf "%s\\0" "${{{name}-unset}}"; ' for name in (*NAMES, "TWINE_PASSWORD"))

ABLE = {
    "bash": ("bash",),
    "bash as sh": ("bash", "--posix"),
    "zsh": ("zsh", "-f"),
    "zsh as sh": ("zsh", "--emulate", "sh"),
}
"""Shells that know which file they are reading."""

TOLD = {"dash": ("dash",), "busybox": ("busybox", "sh"), "mksh": ("mksh",), "ksh": ("ksh93",)}
"""Shells that do not."""


def command(shell: str) -> tuple[str, ...]:
    found = {**ABLE, **TOLD}[shell]
    if shutil.which(found[0]) is None:
        pytest.skip(f"{found[0]} is not installed")
    return found


def login(username: str = "alice", password: str = "a-good-password") -> Login:
    return Login(url=URL, username=username, password=Secret(password))


def read(
    shell: str,
    script: str,
    *arguments: str | Path,
    options: tuple[str, ...] = (),
    cwd: Path | None = None,
    more: Mapping[str, str] = {},
) -> tuple[int, list[str], str]:
    """The exit code of the script, the printed variables, and its stderr."""
    done = subprocess.run(
        [*command(shell), *options, "-c", script, "shell", *arguments],
        capture_output=True,
        check=False,
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", **more},
    )
    return done.returncode, done.stdout.decode().split("\0")[:-1], done.stderr.decode()


def expected(folder: Path, password: str = "a-good-password") -> list[str]:
    private = f"private={URL}simple/"
    return [str(folder / "netrc"), str(folder / "pip.conf"), f"{URL}simple/", private, URL, URL, password]


NOTHING = ["unset"] * 7


@pytest.fixture
def files(tmp_path: Path) -> ClientFiles:
    files = ClientFiles(tmp_path / "files")
    files.write(login())
    return files


@pytest.mark.parametrize("name", ["plain", 'it\'s a "folder" $HOME é\\ %x `id` (1) [b]*', "two\nlines\n", "-n"])
@pytest.mark.parametrize("shell", ABLE)
def test_a_shell_finds_the_files_in_a_moved_folder(files: ClientFiles, tmp_path: Path, shell: str, name: str) -> None:
    moved = tmp_path / name
    files.folder.rename(moved)
    foreign = {"PIP_EXTRA_INDEX_URL": "https://index.example/simple", "UV_PUBLISH_TOKEN": "of-another-index"}

    script = '. "$1"; ' + PRINT + '[ "$PIP_EXTRA_INDEX_URL" = " " ] && [ -z "${UV_PUBLISH_TOKEN-}" ]'
    code, seen, _ = read(shell, script, moved / "env.sh", options=("-eu",), more=foreign)

    assert (code, seen) == (0, expected(moved))


@pytest.mark.parametrize("shell", ABLE)
def test_a_shell_that_read_a_relative_path_still_finds_the_files_in_another_directory(
    files: ClientFiles, shell: str
) -> None:
    code, seen, _ = read(shell, ". ./env.sh; cd /; " + PRINT, options=("-eu",), cwd=files.folder)

    assert (code, [Path(path).resolve() for path in seen[:2]]) == (0, [files.netrc, files.pip_conf])
    assert all(path.startswith("/") for path in seen[:2])


@pytest.mark.parametrize("shell", [*ABLE, *TOLD])
def test_a_shell_that_is_given_the_folder_finds_the_files_and_unsets_the_variable(
    files: ClientFiles, shell: str
) -> None:
    script = 'INDEX_FOLDER=$1; . "$INDEX_FOLDER/env.sh"; ' + PRINT + '[ -z "${INDEX_FOLDER-}" ]'
    code, seen, _ = read(shell, script, files.folder, options=("-eu",))

    assert (code, seen) == (0, expected(files.folder))


@pytest.mark.parametrize("shell", TOLD)
def test_a_shell_that_cannot_find_the_folder_sets_nothing_and_says_what_to_do(files: ClientFiles, shell: str) -> None:
    code, seen, said = read(shell, '. "$1" && exit 9; ' + PRINT, files.env_sh)

    assert (code, seen) == (0, NOTHING)
    assert "INDEX_FOLDER=" in said


@pytest.mark.parametrize("name", ["netrc", "pip.conf", "uv.toml", ".pypirc"])
@pytest.mark.parametrize("shell", [*ABLE, *TOLD])
def test_a_missing_or_empty_file_unsets_earlier_values(files: ClientFiles, shell: str, name: str) -> None:
    script = 'INDEX_FOLDER=$1; . "$1/env.sh" || exit 9; rm "$1/$2"; INDEX_FOLDER=$1; . "$1/env.sh" && exit 9; ' + PRINT
    code, seen, said = read(shell, script, files.folder, name)
    assert (code, seen) == (0, NOTHING)
    assert f"{files.folder}/{name} is missing" in said

    (files.folder / name).touch()
    code, seen, _ = read(shell, script, files.folder, name)
    assert code == 9


@pytest.mark.parametrize("shell", [*ABLE, *TOLD])
def test_an_error_ends_a_shell_with_errexit(files: ClientFiles, shell: str) -> None:
    files.pip_conf.unlink()
    code, seen, _ = read(shell, 'INDEX_FOLDER=$1; . "$1/env.sh"; ' + PRINT, files.folder, options=("-eu",))

    assert code != 0
    assert seen == []


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_the_folder_of_another_user_is_refused(files: ClientFiles, tmp_path: Path, shell: str) -> None:
    other = ClientFiles(tmp_path / "other")
    other.write(login("bob", "another-password"))
    shutil.copy2(other.netrc, files.netrc)

    code, seen, said = read(shell, 'INDEX_FOLDER=$1; . "$1/env.sh" && exit 9; ' + PRINT, files.folder)

    assert (code, seen) == (0, NOTHING)
    assert "another user" in said
    assert "another-password" not in said


@pytest.mark.parametrize(("shell", "reason"), [("bash", "it was run"), ("zsh", "does not know where")])
def test_text_not_read_from_a_file_sets_nothing(files: ClientFiles, shell: str, reason: str) -> None:
    code, seen, said = read(shell, 'eval "$(cat env.sh)" && exit 9; ' + PRINT, cwd=files.folder)

    assert (code, seen) == (0, NOTHING)
    assert reason in said


def test_a_script_that_is_run_instead_of_read_says_so(files: ClientFiles) -> None:
    done = subprocess.run(["bash", files.env_sh], capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "it was run" in done.stderr


def test_without_a_user_no_password_file_is_needed(tmp_path: Path) -> None:
    files = ClientFiles(tmp_path)
    files.write(Login(url=URL))

    code, seen, _ = read("bash", '. "$1"; ' + PRINT, files.env_sh)

    assert (code, seen[0], seen[2]) == (0, "unset", f"{URL}simple/")


def test_the_only_secret_that_a_run_reads_from_it_is_the_password(files: ClientFiles, workspace: Workspace) -> None:
    folder = workspace.user("local", "alice")
    folder.mkdir(parents=True)
    shutil.copy2(files.env_sh, folder)

    assert set(client_files(workspace)()) == {"a-good-password"}
