"""The Makefile's targets, and what they must not touch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ops.workspace import PROJECT_ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", "--no-print-directory", "-C", PROJECT_ROOT, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder that looks like an environment of unknown origin whose interpreter was removed."""
    folder = tmp_path / "environment"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(tmp_path / "removed")
    (folder / "bin" / "runbook").write_text("#!/removed/python\n")
    (folder / "bin" / "runbook").chmod(0o755)
    (folder / "pyvenv.cfg").write_text("home = /removed\n")
    return folder


def contents(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize("target", ["help", "stop", "status", "list"])
def test_a_target_that_installs_nothing_deletes_nothing(broken: Path, target: str) -> None:
    (broken / ".made-by-make").touch()
    before = contents(broken)

    done = make(target, f"VENV={broken}")

    assert done.returncode == 0, done.stderr
    assert contents(broken) == before


@pytest.mark.parametrize("target", ["run", "test", "lint", "lab", "clean"])
def test_an_unusable_environment_of_unknown_origin_is_left_alone(broken: Path, target: str) -> None:
    before = contents(broken)

    done = make(target, f"VENV={broken}")

    assert done.returncode != 0
    assert "left alone" in done.stderr
    assert contents(broken) == before


def test_an_environment_of_a_clone_that_was_moved_is_made_again(tmp_path: Path) -> None:
    """Its programs and its copy of the project name the former folder."""
    environment = tmp_path / "environment"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").symlink_to(sys.executable)
    for stamp in (".run", "bin/runbook"):
        (environment / stamp).write_text("#!/bin/echo\n")
        (environment / stamp).chmod(0o755)
    made = environment / ".made-by-make"
    make("--touch", f"VENV={environment}", f"{environment}/.run")
    for folder, usable in ((PROJECT_ROOT, True), (tmp_path / "former", False)):
        made.write_text(f"{folder}\n")
        assert ("run 'make run' first" not in make("status", f"VENV={environment}").stdout) == usable
        assert ("Creating a virtual environment" not in make("-n", "run", f"VENV={environment}").stdout) == usable


def test_without_the_module_venv_it_says_what_to_install(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text('#!/bin/sh\nmkdir -p "$3/bin"\nexit 1\n')
    python.chmod(0o755)

    done = make("run", "UV=", f"PYTHON={python}", f"VENV={tmp_path / 'new'}")

    assert done.returncode != 0
    assert "apt install python3-venv" in done.stderr
    assert not (tmp_path / "new").exists()


def test_arguments_are_passed_to_jupyterlab(tmp_path: Path) -> None:
    done = make("-n", "lab", "ARGS=--port 8889", f"VENV={tmp_path / 'new'}")

    assert f"{tmp_path / 'new'}/bin/runbook open -- --port 8889" in done.stdout
