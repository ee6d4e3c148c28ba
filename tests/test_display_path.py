"""Paths are shown so that they can be typed in any directory."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ops.display_path import shown


def test_a_path_in_the_home_is_shown_below_the_tilde_and_any_other_from_the_root(newcomer: Path) -> None:
    assert shown(newcomer / "files") == "~/files"
    assert shown(newcomer) == str(newcomer)
    assert shown(Path("/srv/files")) == "/srv/files"
    assert shown(Path("files")) == str(Path.cwd() / "files")


@pytest.mark.parametrize("name", ["plain", 'it\'s a "folder" $HOME `id`', "two\nlines", "-n", "~x"])
def test_a_shell_in_any_directory_understands_it(newcomer: Path, tmp_path: Path, name: str) -> None:
    for path in (newcomer / name, tmp_path / name):
        done = subprocess.run(["sh", "-c", f"printf %s {shown(path)}"], capture_output=True, check=True, cwd="/")
        assert done.stdout.decode() == str(path)
