"""The operator's folder, and the variable that names it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ops.errors import SettingError
from ops.workspace import HOME_VARIABLE, PROJECT_ROOT, Workspace, shown


def test_without_the_variable_it_is_in_the_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (None, ""):
        monkeypatch.delenv(HOME_VARIABLE, raising=False) if value is None else monkeypatch.setenv(HOME_VARIABLE, value)
        assert Workspace.default().home == PROJECT_ROOT / ".runbook"


def test_a_missing_folder_is_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "a" / "b"))
    home = Workspace.default().create().home
    assert home == tmp_path / "a" / "b"
    assert home.stat().st_mode & 0o777 == 0o700


def test_an_unusable_folder_is_refused_by_the_variable_s_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for named in (
        tmp_path / "file",
        tmp_path / "file" / "below",
        "~nobody-of-this-name/x",
        tmp_path / "loop",
        "/proc/none",
    ):
        monkeypatch.setenv(HOME_VARIABLE, str(named))
        with pytest.raises(SettingError) as caught:
            Workspace.default().create()
        assert HOME_VARIABLE in caught.value.todo


def test_a_path_in_the_home_is_shown_below_the_tilde_and_others_absolutely(newcomer: Path) -> None:
    assert shown(newcomer / "files") == "~/files"
    assert shown(newcomer) == str(newcomer)
    assert shown(Path("/srv/files")) == "/srv/files"
    assert shown(Path("files")) == str(Path.cwd() / "files")


@pytest.mark.parametrize("name", ["plain", 'it\'s a "folder" $HOME `id`', "two\nlines", "-n", "~x"])
def test_a_shown_path_works_in_a_shell_in_any_directory(newcomer: Path, tmp_path: Path, name: str) -> None:
    for path in (newcomer / name, tmp_path / name):
        done = subprocess.run(["sh", "-c", f"printf %s {shown(path)}"], capture_output=True, check=True, cwd="/")
        assert done.stdout.decode() == str(path)
